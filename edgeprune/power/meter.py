"""Energy of a piece of work: a thread reads the device's power while it runs.

Joules are the area below the samples (trapezoids, from the beginning of the work to its end), or the device's own
counter over at least ``COUNTER_LEAST_S``, below which its steps are too coarse. What the device draws at rest is part
of them: nothing is subtracted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event, Thread
from time import perf_counter
from typing import TypeVar

from edgeprune.power.device import Device

T = TypeVar("T")

COUNTER_LEAST_S = 2.0
"""The counter moves ten times a second on some GPUs; over as long that is at most a twentieth."""

_PERIOD_S = 0.05
_REASONS_EVERY = 10  # samples of power


@dataclass(frozen=True)
class Reading:
    """Of one piece of work.

    Attributes:
        joules: None where the power could not be read.
        seconds: it took.
        throttled: why the device was slowed down meanwhile.
    """

    joules: float | None
    seconds: float
    throttled: tuple[str, ...]


class Meter:
    """Reads a device while work is done.

    Args:
        device: to read.
        period_s: between two samples.
    """

    def __init__(self, device: Device, period_s: float = _PERIOD_S) -> None:
        self._device, self._period_s = device, period_s

    def measure(self, work: Callable[[], T]) -> tuple[T, Reading]:
        """Do the work; one sample is taken before and one after it, outside of what it may time itself."""
        samples: list[tuple[float, float]] = []
        throttled: dict[str, None] = {}
        stop = Event()

        def look(reasons: bool = True) -> None:
            watts = self._device.watts()
            if watts is not None:
                samples.append((perf_counter(), watts))
            if reasons:  # a dozen files on a Jetson, some of them slow
                throttled.update(dict.fromkeys(self._device.throttled()))

        def watch() -> None:
            for turn in itertools.count(1):
                if stop.wait(self._period_s):
                    return
                look(turn % _REASONS_EVERY == 0)

        thread = Thread(target=watch, daemon=True)
        counted = self._device.joules()
        look()
        start = perf_counter()
        thread.start()
        try:
            result = work()
        finally:
            seconds = perf_counter() - start
            stop.set()
            thread.join()
        look()
        counter = self._device.joules()
        # The outermost samples lie outside of the work, by as long as reading the device takes.
        inside = [(min(max(moment, start), start + seconds), watts) for moment, watts in samples]
        return result, Reading(_joules(inside, counted, counter, seconds), seconds, tuple(throttled))


def area(samples: Sequence[tuple[float, float]]) -> float:
    """Joules below samples of (seconds, watts), in rising order."""
    pairs = itertools.pairwise(samples)
    return sum((later - earlier) * (first + second) / 2 for (earlier, first), (later, second) in pairs)


def _joules(
    samples: Sequence[tuple[float, float]], before: float | None, after: float | None, seconds: float
) -> float | None:
    if before is not None and after is not None and seconds >= COUNTER_LEAST_S:
        return after - before
    return area(samples) if len(samples) > 1 else None
