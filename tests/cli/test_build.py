"""``edgeprune build`` and ``run --backend tensorrt``, as users call them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.bundle.build import NAME
from tests.cli.conftest import Command


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def bundle(bundle_tiny_fp16: Path, tmp_path: Path) -> Path:
    return shutil.copytree(bundle_tiny_fp16, tmp_path / "bundle")


@pytest.fixture(scope="module")
def built(bundle_tiny_fp16: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with plans, built where this machine does not remember it."""
    import os
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("built")
    root = shutil.copytree(bundle_tiny_fp16, folder / "bundle")
    command = [sys.executable, "-m", "edgeprune", "build", str(root), "--target", "rtx-portable", "-q"]
    subprocess.run(command, check=True, env={**os.environ, "XDG_STATE_HOME": str(folder)})
    return root


def test_a_build_says_what_it_did_and_what_comes_next(edgeprune: Command, bundle: Path) -> None:
    result = edgeprune("build", bundle, "--target", "rtx-portable")
    assert result.code == 0
    graphs = json.loads((bundle / "edgeprune.json").read_text())["graphs"]
    first, second = result.out.splitlines()
    assert f"{len(graphs)} plans ({len(graphs)} built, 0 as they were)" in first
    assert second.endswith(f'edgeprune run {bundle} IMAGE "QUESTION" --keep 64 --backend tensorrt')
    assert "prune_visiondrop_vision" in result.err and "built" in result.err


def test_a_dry_run_shows_profiles_lint_and_memory_and_writes_nothing(edgeprune: Command, bundle: Path) -> None:
    before = sorted(bundle.rglob("*"))
    result = edgeprune("build", bundle, "--target", "orin-nano-8gb", "--dry-run", "-q")
    assert result.code == 0, result
    assert result.out.startswith("orin-nano-8gb@jetpack-6.2: NVIDIA Jetson Orin Nano 8GB")
    assert "segment_0_1: lint ok" in result.out
    assert "keep               int64  value 1 .. " in result.out
    assert "running takes" in result.out and "building takes" in result.out
    assert sorted(bundle.rglob("*")) == before


def test_a_dry_run_as_json_has_the_trtexec_line_of_every_graph(edgeprune: Command, bundle: Path) -> None:
    result = edgeprune("build", bundle, "--target", "orin-nano-8gb", "--dry-run", "-q", "--json")
    report = json.loads(result.out.splitlines()[-1])
    assert report["key"] == "orin-nano-8gb@jetpack-6.2"
    assert report["need_bytes"]["total"] > 0
    for graph in report["graphs"]:
        assert graph["findings"] == []
        assert graph["trtexec"].startswith(f"trtexec --onnx={bundle}/graphs/{graph['name']}.onnx")


def test_trtexec_lines_stand_alone(edgeprune: Command, bundle: Path) -> None:
    result = edgeprune("build", bundle, "--target", "h200", "--print-trtexec", "-q")
    lines = result.out.splitlines()
    assert all(line.startswith("trtexec --onnx=") for line in lines)
    cut = next(line for line in lines if "prune_visiondrop_1.onnx" in line)
    assert "--stronglyTyped" not in cut  # TensorRT 11 has no other way
    assert ",keep:1,merge:1" in cut.split("--minShapes=")[1].split()[0]
    old = edgeprune("build", bundle, "--target", "h200@tensorrt-10", "--print-trtexec", "-q").out
    assert all("--stronglyTyped" in line for line in old.splitlines())


def test_a_refused_graph_ends_a_dry_run_with_three(edgeprune: Command, bundle: Path) -> None:
    import onnx

    from edgeprune.bundle.store import describe

    path = bundle / "graphs" / "assemble.onnx"
    model = onnx.load(path)
    model.opset_import[0].version = 27
    onnx.save(model, path)
    manifest = json.loads((bundle / "edgeprune.json").read_text())
    graph = next(graph for graph in manifest["graphs"] if graph["name"] == "assemble")
    file = describe(bundle, path)
    graph["file"] = {"path": file.path, "bytes": file.bytes, "sha256": file.sha256}
    (bundle / "edgeprune.json").write_text(json.dumps(manifest))
    result = edgeprune("build", bundle, "--target", "h200", "--dry-run", "-q")
    assert result.code == 3
    assert "REFUSED opset-range" in result.out
    assert "refuses 1 things, first graph assemble" in result.line
    assert edgeprune("build", bundle, "--target", "rtx-portable", "-q").code == 1


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--target", "orin-agx"), 1, "no target 'orin-agx'"),
        (("--target", "orin-agx"), 1, "did you mean 'orin-agx-"),
        (("--target", "h200@tensorrt-12"), 2, "has no stack 'tensorrt-12'; it has tensorrt-11, tensorrt-10"),
        (("--target", "@x"), 2, "expected NAME or NAME@STACK"),
        (("--target", "orin-agx-64gb"), 1, "sudo apt install python3-libnvinfer"),
        (("--target", "h200"), 1, "pip install 'edgeprune[tensorrt]'"),
        (("--target", "rtx-portable", "--precision", "fp32"), 2, "export again with --dtype fp32"),
        (("--target", "rtx-portable", "--precision", "int8"), 2, "'int8' is not one of"),
        ((), 2, "Missing option '--target'"),
    ],
)
def test_wrong_words(edgeprune: Command, bundle: Path, options: tuple[str, ...], code: int, text: str) -> None:
    result = edgeprune("build", bundle, *options)
    assert (result.code, result.out) == (code, "")
    assert text in result.line
    assert not (bundle / "engines").exists()


def test_a_tensorrt_of_another_version(edgeprune: Command, bundle: Path, tmp_path: Path) -> None:
    from edgeprune.recipes import find

    text = find.find("engines", "rtx-portable").read_text().replace('least = "1.7"', 'least = "1.9"')
    (tmp_path / "mine.toml").write_text(text)
    result = edgeprune("build", bundle, "--target", tmp_path / "mine.toml")
    assert result.code == 1
    assert "tensorrt-rtx 1.7" in result.line and "TensorRT-RTX >= 1.9, < 2.0" in result.line


def test_no_plans_to_run(edgeprune: Command, bundle: Path, photo: Path) -> None:
    result = edgeprune("run", bundle, photo, "what?", "--backend", "tensorrt")
    assert result.code == 1
    assert result.line.endswith(f"has no plans; build them on the device: edgeprune build {bundle} --target NAME")


def test_no_gpu_to_run_on(edgeprune: Command, built: Path, photo: Path) -> None:
    result = edgeprune("run", built, photo, "what?", "--backend", "tensorrt")
    assert (result.code, result.out) == (1, "")
    assert "no NVIDIA GPU here" in result.line


def test_plans_of_another_target(edgeprune: Command, built: Path, photo: Path) -> None:
    result = edgeprune("run", built, photo, "what?", "--backend", "tensorrt", "--target", "h200")
    assert result.code == 2
    assert "has no plans for h200; it has rtx-portable@tensorrt-rtx" in result.line


def test_a_damaged_build_json(edgeprune: Command, built: Path, photo: Path, tmp_path: Path) -> None:
    root = shutil.copytree(built, tmp_path / "damaged")
    folder = root / "engines" / "rtx-portable@tensorrt-rtx"
    text = (folder / NAME).read_text()
    for wrong, message in (
        (text.replace('"schema": 1', '"schema": 2'), "schema 2; expected 1"),
        (text.replace('"vision.plan"', '"../vision.plan"', 1), "does not lie in the folder"),
        (text.replace('"stack"', '"stock"', 1), "unknown key 'stock'; did you mean 'stack'"),
        (text[: len(text) // 2], "is no valid JSON"),
    ):
        (folder / NAME).write_text(wrong)
        result = edgeprune("run", root, photo, "what?", "--backend", "tensorrt")
        assert result.code == 1
        assert message in result.line


@pytest.mark.parametrize(
    "options",
    [
        ("--provider", "cuda"),
        ("--threads", "2"),
    ],
)
def test_options_that_tensorrt_has_no_use_for(
    edgeprune: Command, built: Path, photo: Path, options: tuple[str, ...]
) -> None:
    result = edgeprune("run", built, photo, "what?", "--backend", "tensorrt", *options)
    assert result.code == 2
    assert result.line.endswith(f"{' '.join(options)} has no effect with --backend tensorrt")


@pytest.mark.parametrize("options", [("--target", "h200"), ("--trust-plans", "folder")])
def test_options_that_onnx_runtime_has_no_use_for(
    edgeprune: Command, bundle: Path, photo: Path, options: tuple[str, ...]
) -> None:
    result = edgeprune("run", bundle, photo, "what?", *options)
    assert result.code == 2
    assert result.line.endswith(f"{' '.join(options)} has no effect with --backend onnxruntime")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_there(edgeprune: Command, bundle: Path, photo: Path, provider: str) -> None:
    result = edgeprune("run", bundle, photo, "what?", "--provider", provider)
    assert (result.code, result.out) == (1, "")
    assert f"--provider {provider}: onnxruntime" in result.line
    assert "CPUExecutionProvider" in result.line and "edgeprune[gpu]" in result.line


def test_targets_are_listed(edgeprune: Command) -> None:
    lines = edgeprune("list", "targets").out.splitlines()
    assert any(line.startswith("orin-agx-64gb  NVIDIA Jetson AGX Orin 64GB (jetpack-6.2") for line in lines)
    found = json.loads(edgeprune("list", "targets", "--json").out)
    assert len(found) == len(lines)
