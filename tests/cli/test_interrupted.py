"""Ctrl-C while an answer streams."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def test_run_stops_at_once(bundle_tiny: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(photo)
    words = ["run", str(bundle_tiny), str(photo), "what?", "--max-new-tokens", "400", "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeprune", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.read(1)  # the answer has begun
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "edgeprune: interrupted"
    assert "ended by" not in out
