"""Which TensorRT is there, and what is said when it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.errors import BackendError, MissingExtra
from edgeprune.nvidia import library
from edgeprune.nvidia.library import Library, extra_for, installed, on_jetson, open_library, parse_version


@pytest.mark.parametrize(
    ("text", "version"),
    [("10.3.0", (10, 3, 0)), ("10.16.1.11", (10, 16, 1, 11)), ("11.4.0.106+cu13", (11, 4, 0, 106)), ("dev", ())],
)
def test_versions_are_numbers(text: str, version: tuple[int, ...]) -> None:
    assert parse_version(text) == version


def test_the_one_that_is_installed() -> None:
    assert installed() == ("tensorrt-rtx",)
    found = open_library("tensorrt-rtx")
    assert found.name == f"tensorrt-rtx {found.module.__version__}"


def test_names_that_only_some_versions_have() -> None:
    found = open_library("tensorrt-rtx")
    assert found.member("ComputeCapability", "SM86") is not None
    assert found.member("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH") is None
    assert Library(object(), "tensorrt", (10, 3)).member("LayerType", "ATTENTION_INPUT") is None


def test_the_one_that_is_not_names_its_extra_or_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'edgeprune\[tensorrt\]'"):
        open_library("tensorrt")
    monkeypatch.setattr(library, "on_jetson", lambda: True)
    assert extra_for("tensorrt") == "jetson" and extra_for("tensorrt-rtx") == "rtx"
    with pytest.raises(BackendError, match="sudo apt install python3-libnvinfer"):
        open_library("tensorrt")


def test_a_jetson_is_known_by_its_release_file(tmp_path: Path) -> None:
    assert not on_jetson(tmp_path)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.3\n")
    assert on_jetson(tmp_path)


def test_a_package_that_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: cannot open shared object file\\nmore')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendError, match=r"does not load: libnvinfer.so.10: cannot open .* file; edgeprune doctor"):
        open_library("tensorrt")
