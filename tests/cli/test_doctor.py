"""``edgeprune doctor`` on the machine that runs the tests, which can at least run bundles on its CPU."""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path

import pytest

import edgeprune.cli as cli
from edgeprune.doctor.finding import Finding
from tests.cli.conftest import Command


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    if "doctor" not in cli.COMMANDS:
        monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, "doctor"))


def test_the_doctor_tells_what_is_here(edgeprune: Command) -> None:
    started = time.perf_counter()
    result = edgeprune("doctor")
    assert time.perf_counter() - started < 10  # 1 s on an idle machine
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert any(line.startswith("python ") and platform.python_version() in line for line in lines)
    assert any(line.startswith("ok ") and " providers " in line and "CPUExecutionProvider" in line for line in lines)
    assert lines[-1].startswith("runs bundles with: onnxruntime")


def test_the_json_is_one_line_with_the_same(edgeprune: Command) -> None:
    result = edgeprune("doctor", "--json")
    assert result.code == 0
    told = json.loads(result.out.splitlines()[-1])
    assert told["passed"] is True
    assert told["target"] is None
    assert told["machine"]["python"]["executable"] == sys.executable
    assert told["machine"]["onnxruntime"]["version"]
    assert [Finding(**entry).subject for entry in told["findings"]][:2] == ["system", "memory"]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="no Jetson is an x86_64")
def test_a_target_that_this_machine_is_not_exits_with_3(edgeprune: Command) -> None:
    result = edgeprune("doctor", "--target", "orin-nano-8gb@jetpack-6.2", "--json")
    assert result.code == 3
    assert result.line.startswith("edgeprune: error: orin-nano-8gb@jetpack-6.2 cannot run here: platform: ")
    told = json.loads(result.out.splitlines()[-1])
    assert told["passed"] is False
    assert told["target"] == "orin-nano-8gb@jetpack-6.2"
    missing = [entry for entry in told["suitability"] if entry["level"] == "missing"]
    assert missing[0]["subject"] == "platform"
    assert all(entry["mend"] for entry in missing)


def test_a_broken_onnxruntime_is_a_finding_and_exits_with_3(
    edgeprune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime/__init__.py").write_text("raise ImportError('libonnxruntime.so.1: file too short')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = edgeprune("doctor")
    if "runs bundles with: nothing" in result.out:  # where there is a GPU, TensorRT may still run them
        assert result.code == 3
        assert result.line.startswith("edgeprune: error: nothing here can run a bundle: onnxruntime: ")
    assert "does not load: libonnxruntime.so.1: file too short" in result.out
    assert "mend: pip install --force-reinstall onnxruntime" in result.out


@pytest.mark.parametrize(
    ("target", "code", "says"),
    [
        ("orin-nano-8g", 1, "did you mean 'orin-nano-8gb'?"),
        ("orin-nano-8gb@jetpack-5", 2, "it has jetpack-6.2, jetpack-7.2"),
        ("@jetpack-6.2", 2, "expected NAME or NAME@STACK"),
    ],
)
def test_a_target_that_nobody_knows_is_told_at_once(edgeprune: Command, target: str, code: int, says: str) -> None:
    result = edgeprune("doctor", "--target", target)
    assert (result.code, result.out) == (code, "")
    assert says in result.line
