"""TensorRT's progress monitor, told to whoever draws it, and the way Ctrl-C gets into a running build."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Protocol

from edgeprune.nvidia.library import Library


class Progress(Protocol):
    """Told about a build, graph by graph."""

    def start(self, name: str, index: int, count: int) -> None:
        """A graph's build begins; ``index`` from 0."""

    def step(self, phase: str, done: int, steps: int) -> None:
        """``done`` of ``steps`` of the outermost phase are over."""

    def finish(self, outcome: str) -> None:
        """The graph is done: "built", "as it was", ..."""


class Silent:
    """Draws nothing."""

    def start(self, name: str, index: int, count: int) -> None:
        """See ``Progress``."""

    def step(self, phase: str, done: int, steps: int) -> None:
        """See ``Progress``."""

    def finish(self, outcome: str) -> None:
        """See ``Progress``."""


class Interruption:
    """Keeps Ctrl-C and the like while TensorRT runs, which swallows exceptions of its callbacks; raises them after.

    As a context manager around a build: signals that would end the program are noted, the monitor ends the build at
    its next step, and on leaving the signal is raised again, for whoever handled it before.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # only there handlers can be set
            for number in (signal.SIGINT, signal.SIGTERM):
                if callable(signal.getsignal(number)):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._number is not None:
            signal.raise_signal(self._number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.wanted, self._number = True, number


def make_monitor(library: Library, progress: Progress, interruption: Interruption) -> Any:
    """An ``IProgressMonitor``, or None where this TensorRT has none."""
    base = library.member("IProgressMonitor")
    if base is None:
        return None

    class Monitor(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            base.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self._steps[phase_name] = num_steps
                progress.step(phase_name, 0, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            steps = self._steps.pop(phase_name, None)
            if steps is not None:
                progress.step(phase_name, steps, steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._steps:
                progress.step(phase_name, step + 1, self._steps[phase_name])
            return not interruption.wanted

    return Monitor()
