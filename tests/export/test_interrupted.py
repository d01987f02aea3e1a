"""An export that is stopped: nothing half-written opens, the old bundle stays, no traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeprune.bundle.manifest import NAME
from edgeprune.bundle.store import open_bundle
from edgeprune.errors import BundleError


def start(checkpoint: Path, output: Path) -> subprocess.Popen[str]:
    """An export in a process of its own, returned once it is writing graphs."""
    command = [sys.executable, "-m", "edgeprune", "export", str(checkpoint), "--method", "visiondrop"]
    process = subprocess.Popen([*command, "-o", str(output)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(output.parent.glob(f".{output.name}.*.partial/graphs/*.onnx")):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop(checkpoint_tiny: Path, tmp_path: Path, sent: signal.Signals, code: int) -> None:
    process = start(checkpoint_tiny, tmp_path / "out")
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_killed(checkpoint_tiny: Path, tmp_path: Path) -> None:
    process = start(checkpoint_tiny, tmp_path / "out")
    process.kill()
    process.communicate(timeout=60)
    (partial,) = tmp_path.iterdir()
    assert not (partial / NAME).exists()
    with pytest.raises(BundleError, match=f"has no {NAME}"):
        open_bundle(partial)
