"""A command that keeps printing lines, read in the background: the newest line, and how old it is."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from threading import Event, Thread
from time import monotonic

STALE_S = 2.0
"""A line as old says nothing any more: the command hangs or has ended."""

_FIRST_S = 5.0


class LineStream:
    """A running command; ``close`` ends it."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it.

        Raises:
            OSError: it is not there, or not ours to run.
        """
        quiet, environment = subprocess.DEVNULL, {**os.environ, "LC_ALL": "C"}
        self._process = subprocess.Popen(
            command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, text=True, errors="replace", env=environment
        )
        self._newest: tuple[float, str] | None = None
        self._came = Event()
        self._thread = Thread(target=self._read, daemon=True)
        self._thread.start()

    def first(self) -> str | None:
        """Wait up to five seconds for a line; None where none came."""
        self._came.wait(_FIRST_S)
        return self.newest()

    def newest(self) -> str | None:
        """The last line; None where it is older than ``STALE_S``, or there is none."""
        newest = self._newest
        return newest[1] if newest and monotonic() - newest[0] < STALE_S else None

    def close(self) -> None:
        """End the command."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # inside the driver it cannot even be killed
            self._process.wait(timeout=1)
        self._thread.join(timeout=1)
        if not self._thread.is_alive() and self._process.stdout:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None  # it was opened as a pipe
        for line in self._process.stdout:
            if line.strip():
                self._newest = (monotonic(), line.strip())
                self._came.set()
        self._came.set()
