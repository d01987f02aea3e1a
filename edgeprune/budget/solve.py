"""From an average to the one number that a rule's counts grow with."""

from __future__ import annotations

from collections.abc import Callable

from edgeprune.budget.schedule import Schedule, Site, Stage


def average(stages: tuple[Stage, ...], site: Site) -> float:
    """Visual tokens averaged over the decoder layers, each counted by the rows that enter it."""
    return Schedule(stages, 0, site.tokens, site.whole).average


def nearest(make: Callable[[float], tuple[Stage, ...]], keep: int, site: Site, most: float) -> tuple[Stage, ...]:
    """The stages whose average is nearest to ``keep``.

    Args:
        make: the rule, from a number in 0..most to stages; no count may fall when the number rises.
        keep: the average asked for, in reach of the rule.
        site: where the stages are.
        most: the number at which ``make`` keeps ``keep`` or more.

    Returns:
        What ``make`` gives just below or just above the crossing; on a tie above. The two differ by one row per stage
        at most where counts rise one by one, so one of them is within half a token.
    """
    low, high = 0.0, most
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (low, middle) if average(make(middle), site) >= keep else (middle, high)
    return min((make(high), make(low)), key=lambda stages: abs(average(stages, site) - keep))
