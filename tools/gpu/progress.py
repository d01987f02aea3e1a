"""What the run is doing, how long it took, and whether the next thing still fits into the time there is.

It knows no GPU: whoever asks says how long a thing will take.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter


@dataclass(frozen=True)
class Step:
    """Something that was done, and its seconds."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Skipped:
    """Something that was not done, and why."""

    name: str
    reason: str


class Progress:
    """The clock of a run.

    Args:
        limit: seconds that the run may take; None is no limit.
    """

    def __init__(self, limit: float | None = None) -> None:
        self._start, self._limit = perf_counter(), limit
        self.steps: list[Step] = []
        self.skipped: list[Skipped] = []

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return perf_counter() - self._start

    @property
    def left(self) -> float | None:
        """Seconds that are left, 0 where none are; None without a limit."""
        return None if self._limit is None else max(0.0, self._limit - self.elapsed)

    def tell(self, text: str) -> None:
        """Say something on stderr, with the seconds so far."""
        print(f"[{self.elapsed:7.1f} s] {text}", file=sys.stderr, flush=True)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step; one that fails is not listed among the steps."""
        self.tell(name)
        start = perf_counter()
        yield
        self.steps.append(Step(name, round(perf_counter() - start, 2)))

    def fits(self, name: str, seconds: float) -> bool:
        """Whether a thing of about so many seconds still fits; what does not is noted as skipped."""
        left = self.left
        if left is None or seconds <= left:
            return True
        self.skip(name, f"takes about {seconds:.0f} s, and {left:.0f} s of the time limit are left")
        return False

    def skip(self, name: str, reason: str) -> None:
        """Note that a thing is not done."""
        self.skipped.append(Skipped(name, reason))
        self.tell(f"skipped: {name}: {reason}")
