"""What TensorRT logs while it builds, loads and runs, collected instead of printed: reasons are only there.

TensorRT keeps the first logger that a process gives it, its plugins too, for as long as the process lives. So there is
one per module, never freed, and it writes into the messages of whoever began something last.
"""

from __future__ import annotations

import re
from typing import Any
from weakref import WeakKeyDictionary

from edgeprune.nvidia.library import Library

_SEVERE = ("ERROR", "INTERNAL_ERROR")
_NOISE = re.compile(r"cudaError 35|CUDA driver version is insufficient|---\s*(Begin|End) node")
"""Without a GPU a failing node brings a second message that there is none; the first is the cause."""
_loggers: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""The logger of each module of TensorRT, as long as the module lives: a real one, as long as the process."""


class Messages:
    """Errors since the last ``clear``; those of a logger only while no other messages are newer there."""

    def __init__(self) -> None:
        self._errors: list[str] = []
        self._logger: Any = None

    @property
    def first_error(self) -> str | None:
        """The first error, on one line: what follows it are consequences. None if there was none."""
        causes = (error for error in self._errors if not _NOISE.search(error))
        return next(causes, self._errors[0] if self._errors else None)

    def add(self, text: str) -> None:
        """Take an error."""
        self._errors.append(" ".join(text.split()))

    def clear(self) -> None:
        """Forget what was logged, because something new begins; what TensorRT logs from now on comes here."""
        self._errors.clear()
        if self._logger is not None:
            self._logger.messages = self

    def attach(self, logger: Any) -> None:
        """Take what a logger of ``make_logger`` gets from now on."""
        self._logger, logger.messages = logger, self


def make_logger(library: Library, messages: Messages) -> Any:
    """The logger for a TensorRT, which puts errors into ``messages`` and drops the rest.

    Args:
        library: the TensorRT; all calls with the same module give the same logger.
        messages: take what is logged from now on, until others are made or cleared.
    """
    if library.module not in _loggers:
        _loggers[library.module] = _new_logger(library)
    logger = _loggers[library.module]
    messages.attach(logger)
    return logger


def _new_logger(library: Library) -> Any:
    base = library.module.ILogger

    class Collecting(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            base.__init__(self)
            self.messages = Messages()

        def log(self, severity: Any, message: str) -> None:
            if severity.name in _SEVERE:
                self.messages.add(message)

    return Collecting()
