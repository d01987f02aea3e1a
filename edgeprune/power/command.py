"""Runs a command of the system for its output, and never waits for ever.

It knows nothing about what the commands say. A GPU that hangs makes its tools hang: they are given up on.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

LIMIT_S = 30.0
"""The first import of TensorRT from an SD card, or nvidia-smi beside eight GPUs, may take over five."""

NO_ANSWER = "did not answer"
"""How a complaint about a command that ran out of time begins."""


@dataclass(frozen=True)
class Output:
    """What a command left behind.

    Attributes:
        code: exit code, negative where a signal ended it, None where it ran out of time.
        text: its stdout.
        errors: its stderr.
    """

    code: int | None
    text: str = ""
    errors: str = ""

    @property
    def complaint(self) -> str | None:
        """Why it cannot be trusted, in one line; None where it ended well."""
        if self.code == 0:
            return None
        if self.code is None:
            return f"{NO_ANSWER} in {LIMIT_S:.0f} s"
        if self.code < 0:
            return f"ended by signal {-self.code}"
        lines = [line.strip() for line in (*self.errors.splitlines()[::-1], *self.text.splitlines()) if line.strip()]
        return lines[0] if lines else f"exit code {self.code}"


Run: TypeAlias = Callable[[Sequence[str]], "Output | None"]
"""Runs a command; None where there is no such command."""


def run_command(command: Sequence[str]) -> Output | None:
    """Run a command on this machine for at most ``LIMIT_S`` seconds; the language of its output is English.

    A Python that is started finds this same edgeprune, installed or not, and nothing that merely lies in the working
    directory.
    """
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(paths)}
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, errors="replace", env=environment
        )
    except OSError:  # not there, or not ours to run
        return None
    try:
        text, errors = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # inside the driver it cannot even be killed
            process.communicate(timeout=0.5)
        return Output(None)
    return Output(process.returncode, text, errors)
