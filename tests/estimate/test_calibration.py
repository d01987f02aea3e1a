"""Calibrations in the state folder: what is written is read back, and whatever else lies there is as if nothing did."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from edgeprune.errors import BundleError, OutputError
from edgeprune.estimate.calibration import Calibration, read_calibration, write_calibration
from edgeprune.estimate.device import cpu_name, device_of

HERE = Calibration(
    device=device_of("onnxruntime-cpu"),
    backend="onnxruntime-cpu",
    threads=2,
    dtype="fp32",
    flops=1.5e11,
    bandwidth=3e10,
    versions={"onnxruntime": "1.23.0"},
    measured="2026-01-31",
)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_what_was_written_is_read_back(state: Path) -> None:
    assert read_calibration("onnxruntime-cpu", 2, "fp32") is None
    path = write_calibration(HERE)
    assert path.is_relative_to(state / "edgeprune")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_calibration("onnxruntime-cpu", 2, "fp32") == HERE
    newer = replace(HERE, flops=2e11)
    assert write_calibration(newer) == path and read_calibration("onnxruntime-cpu", 2, "fp32") == newer
    assert [*path.parent.iterdir()] == [path]


def test_threads_types_and_backends_have_their_own() -> None:
    write_calibration(HERE)
    assert read_calibration("onnxruntime-cpu", 1, "fp32") is None
    assert read_calibration("onnxruntime-cpu", 2, "fp16") is None
    assert read_calibration("onnxruntime-cuda", 2, "fp32") is None


def test_another_machines_is_not_taken() -> None:
    write_calibration(replace(HERE, device="Other CPU"))
    assert read_calibration("onnxruntime-cpu", 2, "fp32") is None
    write_calibration(replace(HERE, device="Other CPU")).replace(write_calibration(HERE))
    assert read_calibration("onnxruntime-cpu", 2, "fp32") is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[" * 100_000,
        b"null",
        b"{}",
        json.dumps(vars(HERE) | {"flops": "fast"}).encode(),
        json.dumps(vars(HERE) | {"flops": -1.0}).encode(),
        json.dumps(vars(HERE) | {"bandwidth": float("nan")}).encode(),
        json.dumps(vars(HERE) | {"surprise": 1}).encode(),
    ],
)
def test_a_damaged_file_is_as_if_missing(content: bytes) -> None:
    write_calibration(HERE).write_bytes(content)
    assert read_calibration("onnxruntime-cpu", 2, "fp32") is None


def test_a_file_that_others_may_write_is_not_believed() -> None:
    path = write_calibration(HERE)
    path.chmod(0o620)
    assert read_calibration("onnxruntime-cpu", 2, "fp32") is None


def test_a_folder_that_cannot_be_written_says_so(state: Path) -> None:
    state.write_text("a file")
    with pytest.raises(OutputError, match=r"cannot write .*edgeprune/calibrations/onnxruntime-cpu-2-fp32-"):
        write_calibration(HERE)


@pytest.mark.parametrize("change", [{"flops": 0.0}, {"bandwidth": float("inf")}, {"threads": 0}])
def test_impossible_rates_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(BundleError, match=rf"calibration has {next(iter(change))} "):
        replace(HERE, **change)  # type: ignore[arg-type]


def test_the_cpu_is_named_as_linux_names_it() -> None:
    assert cpu_name("processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\n") == "Fast CPU @ 3 GHz"
    assert cpu_name("processor\t: 0\nCPU part\t: 0xd42\n") is None
    assert device_of("onnxruntime-cpu")
