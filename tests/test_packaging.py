"""What a user installs: the wheel's content, its metadata, and the two folders of recipes."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = (".toml", ".md", ".containerfile", ".json", ".png", ".jinja", ".safetensors", ".onnx")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_one_package_and_its_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"edgeprune"}
    package = [name for name in names if name.startswith("edgeprune/")]
    assert all(name.endswith((".py", *DATA)) for name in package)
    assert "edgeprune/recipes/export/llava-1.5-7b.toml" in names
    assert {"edgeprune/estimate/efficiency.toml", "edgeprune/sweep/page.html.jinja"} <= set(names)
    assert "edgeprune/bench/calibration_fp32.onnx" in names
    assert "edgeprune/recipes/engines/README.md" in names
    assert "edgeprune/recipes/engines/orin-agx-64gb.toml" in names
    assert "edgeprune/demo/checkpoint/model.safetensors" in names
    cards = {f"edgeprune/catalog/{path.name}" for path in (ROOT / "edgeprune/catalog").glob("*.toml")}
    assert cards and cards <= set(names)


def test_recipe_folders_hold_data_only() -> None:
    for folder in ("export", "engines"):
        assert {path.suffix for path in (ROOT / folder).iterdir()} <= {".toml", ".md", ".containerfile"}


def test_the_bare_install_is_the_device_runtime(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode()
    required = [line.split(": ")[1] for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    bare = {line.split(">")[0] for line in required if "extra ==" not in line}
    assert bare == {"click", "jinja2", "numpy", "pillow", "tokenizers", "tomli"}
    extras = {line.split(": ")[1] for line in metadata.splitlines() if line.startswith("Provides-Extra")}
    assert extras == {"cpu", "dev", "export", "gpu", "jetson", "rtx", "show", "tensorrt", "video"}


def test_the_demo_checkpoint_is_small() -> None:
    files = (ROOT / "edgeprune/demo/checkpoint").iterdir()
    assert sum(path.stat().st_size for path in files) <= 12_000_000
