"""What TensorRT logs while it builds, loads and runs, collected instead of printed: reasons are only there."""

from __future__ import annotations

import re
from typing import Any

from edgeprune.nvidia.library import Library

_SEVERE = ("ERROR", "INTERNAL_ERROR")
_NOISE = re.compile(r"cudaError 35|CUDA driver version is insufficient|---\s*(Begin|End) node")
"""Without a GPU a failing node brings a second message that there is none; the first is the cause."""


class Messages:
    """Errors since the last ``clear``."""

    def __init__(self) -> None:
        self._errors: list[str] = []

    @property
    def first_error(self) -> str | None:
        """The first error, on one line: what follows it are consequences. None if there was none."""
        causes = (error for error in self._errors if not _NOISE.search(error))
        return next(causes, self._errors[0] if self._errors else None)

    def add(self, text: str) -> None:
        """Take an error."""
        self._errors.append(" ".join(text.split()))

    def clear(self) -> None:
        """Forget what was logged, because something new begins."""
        self._errors.clear()


def make_logger(library: Library, messages: Messages) -> Any:
    """A logger for TensorRT that puts errors into ``messages`` and drops the rest."""
    base = library.module.ILogger

    class Collecting(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity.name in _SEVERE:
                messages.add(message)

    return Collecting()
