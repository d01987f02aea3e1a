"""PyramidDrop's rule: every cut keeps the same fraction lambda of what reached the one before it.

The k-th cut leaves int(N lambda^k) rows, rounded down as in the released code, but one at least. Published is lambda =
0.5, which averages to 270 of 576; for other averages lambda is solved for. The layers before the first cut see all
rows, which no lambda can lower: a quarter of them at the published cuts.
"""

from __future__ import annotations

import functools
import math

from edgeprune.budget.schedule import Site, Stage
from edgeprune.budget.solve import average, nearest
from edgeprune.errors import BudgetError


def reach(site: Site) -> tuple[int, int]:
    """From one row after the first cut to all but one.

    Raises:
        BudgetError: the layers before the first cut leave no whole number between these.
    """
    low, high = math.ceil(average(decayed(0.0, site), site)), site.tokens - 1
    if low > high:
        raise BudgetError(
            f"pyramiddrop cannot prune {site.tokens} visual tokens with cuts at {', '.join(map(str, site.cuts))} of "
            f"{site.layers} layers: too few"
        )
    return low, high


def stages(keep: int, site: Site) -> tuple[Stage, ...]:
    """Counts of every stage for the average nearest to ``keep``."""
    return nearest(functools.partial(decayed, site=site), keep, site, most=1.0)


def decayed(fraction: float, site: Site) -> tuple[Stage, ...]:
    """The stages of a lambda in 0..1."""
    return tuple(
        Stage(cut, max(1, int(site.tokens * fraction**index)), 0, weight)
        for index, (cut, weight) in enumerate(zip(site.places, site.weights, strict=True), start=1)
    )
