"""Fits the shares of peak of one class of machines to published figures.

Coordinate descent over fixed grids, so that the result is the same everywhere. What is minimised is the mean of
|log(estimate / published)|, which a few rows that are far off do not move.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgeprune.estimate.machine import Efficiency, Machine

SHARES = tuple(step / 100 for step in range(5, 101))
GRIDS: dict[str, tuple[float, ...]] = {
    "vision": SHARES,
    "prefill": SHARES,
    "decode": SHARES,
    "overlap": tuple(step / 10 for step in range(11)),
    "launch": tuple(step * 50e-6 for step in range(21)),
}
_ROUNDS = 20


@dataclass(frozen=True)
class Point:
    """A published figure, the machine it is of, and what reckons it there."""

    published: float
    machine: Machine
    reckon: Callable[[Machine], float]


def fit(points: Sequence[Point], start: Efficiency, free: Sequence[str]) -> Efficiency:
    """The shares that fit best, those not in ``free`` as they are.

    Args:
        points: of one class of machines.
        start: where to begin.
        free: names of fields, in the order in which they are turned.
    """
    best, least = start, loss_of(points, start)
    for _ in range(_ROUNDS):
        before = best
        for name in free:
            for value in GRIDS[name]:
                tried = replace(best, **{name: value})
                loss = loss_of(points, tried)
                if loss < least - 1e-9:
                    best, least = tried, loss
        if best == before:
            break
    return best


def loss_of(points: Sequence[Point], efficiency: Efficiency) -> float:
    """The mean that is minimised."""
    errors = [
        abs(math.log(point.reckon(replace(point.machine, efficiency=efficiency)) / point.published)) for point in points
    ]
    return sum(errors) / len(errors)
