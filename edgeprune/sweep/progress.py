"""How far a sweep is and how long it will take: a bar on stderr over timing, questions and memory together."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from time import perf_counter
from typing import Any

_WHILE_UNKNOWN = {"time": 1.0, "reply": 1.0, "memory": 4.0}
"""What a unit of each kind takes before one was seen, in runs: a memory run also starts Python and loads the model."""


class Pace:
    """Seconds left, from what the units of each kind took so far.

    Args:
        units: how many units of each kind are to be done.
    """

    def __init__(self, units: Mapping[str, int]) -> None:
        self.left = dict(units)
        self._done = dict.fromkeys(units, 0)
        self._seconds = dict.fromkeys(units, 0.0)

    def took(self, kind: str, seconds: float) -> None:
        """A unit is done."""
        self.left[kind] -= 1
        self._done[kind] += 1
        self._seconds[kind] += seconds

    def drop(self, kind: str, count: int) -> None:
        """So many units will not be done."""
        self.left[kind] -= count

    def seconds_left(self) -> float | None:
        """None before any unit is done. A kind that was not seen yet is taken for a multiple of those that were."""
        seen = {kind: self._seconds[kind] / done for kind, done in self._done.items() if done}
        if not seen:
            return None
        run = sum(seconds / _WHILE_UNKNOWN[kind] for kind, seconds in seen.items()) / len(seen)
        return sum(count * seen.get(kind, run * _WHILE_UNKNOWN[kind]) for kind, count in self.left.items())


class SweepBar:
    """The bar; without tqdm, which no measurement needs, or where it is to be quiet, only the pace is kept.

    Args:
        units: how many units of each kind are to be done.
        quiet: draw nothing.
    """

    def __init__(self, units: Mapping[str, int], quiet: bool) -> None:
        self.pace = Pace(units)
        self._kind, self._since = "time", perf_counter()
        self._bar: Any = None
        if not quiet:
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(
                total=sum(units.values()),
                desc="sweep",
                file=sys.stderr,
                mininterval=0.1 if sys.stderr.isatty() else 30,  # a log file needs no more
                bar_format="{desc} {percentage:3.0f}% {bar:20} {elapsed}{postfix}",
            )

    def __enter__(self) -> SweepBar:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def begin(self, kind: str, what: str) -> None:
        """A unit begins; ``what`` names it."""
        self._kind, self._since = kind, perf_counter()
        if self._bar is not None:
            seconds = self.pace.seconds_left()
            left = "" if seconds is None else f"{_spoken(seconds)} left, "
            self._bar.set_postfix_str(f"{left}{what}", refresh=False)

    def advance(self) -> None:
        """The unit that began is done."""
        self.pace.took(self._kind, perf_counter() - self._since)
        self._move(1)

    def drop(self, kind: str, count: int) -> None:
        """So many units will not be done: their cell failed."""
        self.pace.drop(kind, count)
        self._move(count)

    def _move(self, count: int) -> None:
        if self._bar is not None:
            self._bar.update(count)


def _spoken(seconds: float) -> str:
    """Such as "2 h 05 min", "12 min", "40 s"."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
