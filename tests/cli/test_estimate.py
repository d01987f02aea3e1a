"""`edgeprune estimate`: light, with something for everybody who asks, and one clear line for who asks wrongly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprune.recipes import target as targets
from tests.cli.conftest import Command

ASKED = ("llava-1.5-7b", "--method", "visiondrop", "--keep", "64", "--target", "orin-agx-64gb")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No calibration of whoever runs the tests is read or replaced."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_json_of_one(edgeprune: Command) -> None:
    result = edgeprune("estimate", *ASKED, "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    assert found["flops_total"] == sum(graph["flops"] for graph in found["graphs"])
    assert found["bytes_total"] == sum(graph["bytes"] for graph in found["graphs"])
    assert found["ttft_ms"]["low"] < found["ttft_ms"]["value"] < found["ttft_ms"]["high"]
    assert found["memory"]["run"] < found["memory_there"]
    assert found["limits"]["most_speedup"] > 1
    assert found["verdict"]["memory"] == "fits"
    assert set(found["conventions"]) == {"flops_total", "flops_profiler", "flops_paper"} <= set(found)


def test_json_of_several(edgeprune: Command) -> None:
    words = ("llava-1.5-7b", "--method", "visiondrop,pyramiddrop", "--keep", "all,64", "--target", "h200", "--json")
    found = json.loads(edgeprune("estimate", *words).out)
    assert [(one["method"], one["keep"]) for one in found["forecasts"]] == [(None, "all"), ("visiondrop", "64")]
    assert found["left_out"] == [
        "pyramiddrop cannot keep 64 visual tokens on average; it reaches 145..575 of 576, or all"
    ]


def test_one_device_in_full(edgeprune: Command) -> None:
    out = edgeprune("estimate", *ASKED).out
    assert "segment_24_32" in out and "keep all" in out and "visiondrop keep 64" in out
    unpruned = edgeprune("estimate", "llava-1.5-7b", "--target", "h200").out
    assert "llava-1.5-7b in fp16 on h200 (NVIDIA H200 SXM), keep all" in unpruned


def test_budgets_that_papers_report_are_the_default(edgeprune: Command) -> None:
    out = edgeprune("estimate", "llava-1.5-7b", "--method", "visiondrop", "--target", "h200").out
    keeps = [line.split()[1] for line in out.splitlines()[3:7]]
    assert keeps == ["all", "192", "128", "64"]


def test_every_device_is_the_default(edgeprune: Command) -> None:
    out = edgeprune("estimate", "llava-1.5-7b", "--method", "visiondrop", "--keep", "64").out
    for name in targets.names():
        assert sum(name in line.split() for line in out.splitlines()) == (name != "rtx-portable")
    assert "left out: rtx-portable: several GPUs" in out
    fp4 = edgeprune("estimate", "llava-1.5-7b", "--dtype", "nvfp4").out
    assert "thor-t5000" in fp4.splitlines()[3]
    assert "left out: a100-80gb, h100, h200, l4, " in fp4


def test_all_methods_are_those_that_a_model_can_carry(edgeprune: Command) -> None:
    words = ("estimate", "qwen2.5-vl-3b", "--method", "all", "--keep", "512", "--target", "orin-agx-64gb", "--json")
    found = json.loads(edgeprune(*words).out)
    methods = {one["method"] for one in found["forecasts"]}
    assert "vscan" in methods and methods.isdisjoint({"sts", "flowcut", "vispruner"})
    told = "flowcut: it prunes inside CLIP's encoder, by its class row, and the model's encoder is Qwen2.5-VL's own"
    assert told in found["left_out"]


def test_a_bundle_with_one_method(edgeprune: Command, bundle_gqa: Path) -> None:
    words = ("estimate", bundle_gqa, "--keep", "20", "--target", "h200", "--dtype", "fp16", "--json")
    found = json.loads(edgeprune(*words).out)
    assert (found["method"], found["dtype"]) == ("visiondrop", "fp16")
    assert [graph["name"] for graph in found["graphs"]][-1] == "segment_6_8"
    refused = edgeprune("estimate", bundle_gqa, "--method", "fastv", "--keep", "20", "--target", "h200")
    assert refused.code == 2
    assert "the bundle has no method 'fastv'; it has visiondrop; edgeprune export BUNDLE --add-method" in refused.line
    refused = edgeprune("estimate", bundle_gqa, "--target", "h200")
    assert "target h200 has no rate for fp32 (tflops.fp32); it has one for --dtype fp16" in refused.line


def test_calibrate_then_here(edgeprune: Command) -> None:
    refused = edgeprune("estimate", "demo", "--target", "here", "--threads", "1")
    assert refused.code == 2
    assert refused.line.endswith("onnxruntime-cpu with 1 threads in fp32: edgeprune estimate --calibrate --threads 1")
    measured = json.loads(edgeprune("estimate", "--calibrate", "--threads", "1", "-q", "--json").out)
    assert measured["flops"] > 1e8 and measured["bandwidth"] > 1e8
    words = ("estimate", "demo", "--method", "visiondrop", "--target", "here", "--threads", "1", "--json")
    found = json.loads(edgeprune(*words).out)["forecasts"]
    assert {one["target"] for one in found} == {"here"}
    assert {one["device"] for one in found} == {measured["device"]}
    assert found[0]["ttft_ms"]["value"] > found[-1]["ttft_ms"]["value"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "MODEL is missing, such as llava-1.5-7b: edgeprune list models"),
        (("llava-1.5-7",), 1, "did you mean 'llava-1.5-7b'?"),
        (("llava-hf/bakLlava-v1-hf",), 1, "sizes are not downloaded"),
        (
            ("qwen2.5-vl-3b", "--method", "sts", "--keep", "256"),
            2,
            "2.5-vl-3b cannot carry sts: it is made for",
        ),
        (("llava-1.5-7b", "--target", "orin-agx-64"), 1, "did you mean 'orin-agx-64gb'?"),
        (("llava-1.5-7b", "--target", "orin-agx-64gb@jetpack-6.2"), 2, "whatever its TensorRT: --target orin-agx-64gb"),
        (("llava-1.5-7b", "--target", "rtx-portable"), 2, "rtx-portable is several GPUs and has no rates"),
        (("llava-1.5-7b", "--target", "h200", "--dtype", "fp32"), 2, "target h200 has no rate for fp32"),
        (("llava-1.5-7b", "--dtype", "int5"), 2, "unknown precision 'int5'"),
        (("llava-1.5-7b", "--keep", "64"), 2, "--keep 64 needs a method, such as --method visiondrop"),
        (("llava-1.5-7b", "--method", "visiondrp"), 2, "did you mean 'visiondrop'?"),
        (("llava-1.5-7b", "--method", "fastv,fastv"), 2, "--method fastv,fastv names a method twice"),
        ((*ASKED[:4], "5", *ASKED[5:]), 2, "visiondrop cannot keep 5 visual tokens on average; it reaches 13..384"),
        ((*ASKED[:4], "600", *ASKED[5:]), 2, "there are 576 visual tokens: 1..576, or all"),
        ((*ASKED[:4], "many", *ASKED[5:]), 2, "--keep 'many' is no budget"),
        ((*ASKED, "--new-tokens", "5000"), 2, "llava-1.5-7b has positions for 4,096"),
        ((*ASKED, "--threads", "2"), 2, "--threads 2 has no effect without --calibrate or --target here"),
        ((*ASKED, "--provider", "cuda"), 2, "--provider cuda has no effect without --calibrate or --target here"),
        ((*ASKED, "--calibrate"), 2, "--calibrate measures this machine, and --target orin-agx-64gb is another"),
        (("--calibrate", "--keep", "64"), 2, "--keep 64 has no effect without a MODEL"),
        (("--calibrate", "--new-tokens", "8"), 2, "--new-tokens 8 has no effect without a MODEL"),
        (("demo", "--target", "here", "--dtype", "int4"), 2, "--dtype int4: this machine is measured in fp32 and fp16"),
        (("--calibrate", "--dtype", "int4"), 2, "cannot calibrate dtype 'int4'; expected fp32 or fp16"),
        ((*ASKED, "--fast"), 2, "No such option"),
    ],
)
def test_wrong_words(edgeprune: Command, words: tuple[str, ...], code: int, message: str) -> None:
    result = edgeprune("estimate", *words)
    assert (result.code, result.out) == (code, "")
    assert message in result.line


def test_a_shape_file_that_lacks_a_key(edgeprune: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[vision]\ngrid = [4, 4]\n[decoder]\nlayers = 2\n")
    result = edgeprune("estimate", tmp_path / "mine.toml")
    assert (result.code, result.out) == (1, "")
    assert "mine.toml: [vision]: key 'width' is missing" in result.line


def test_it_is_light() -> None:
    code = f"""
import sys
sys.argv = ['edgeprune', 'estimate', *{ASKED!r}]
from edgeprune.cli import main
try:
    main()
finally:
    heavy = {{'torch', 'onnx', 'onnxruntime', 'numpy', 'PIL', 'transformers', 'matplotlib', 'jinja2', 'tokenizers'}}
    assert not heavy & set(sys.modules), heavy & set(sys.modules)
    ours = {{name for name in sys.modules if name.startswith('edgeprune.')}}
    assert not [name for name in ours if name.split('.')[1] in ('runtime', 'engines', 'bench', 'checkpoint')], ours
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readme_shows_what_the_command_prints(edgeprune: Command) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    shown = readme.split("$ edgeprune estimate ")[1].split("```")[0].strip().splitlines()
    printed = edgeprune("estimate", *shown[0].split()).out
    assert len(shown) > 10
    assert "\n".join(shown[1:]) in printed
