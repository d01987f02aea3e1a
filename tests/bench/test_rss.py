"""Peak memory is the command's own, whatever this process holds."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from edgeprune.bench.rss import peak_rss
from edgeprune.errors import BackendError


def test_a_child_is_not_charged_for_its_parent() -> None:
    ballast = np.ones(50_000_000)  # 400 MB in this process
    peak = peak_rss([sys.executable, "-I", "-S", "-c", "x = b'1' * 100_000_000"])
    assert 100e6 < peak < 200e6
    assert ballast[-1] == 1


def test_a_command_that_fails_is_an_error() -> None:
    with pytest.raises(BackendError, match=r"exited with 1 while measured: ValueError: no"):
        peak_rss([sys.executable, "-I", "-S", "-c", "raise ValueError('no')"])
    with pytest.raises(BackendError, match="cannot be started"):
        peak_rss(["/nowhere/at/all"])
