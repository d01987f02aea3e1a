"""One cut inside the decoder (FastV, COAST): all rows before it, as many after it as the average leaves.

With K of L layers before the cut, T = (K N + (L - K) keep) / L.
"""

from __future__ import annotations

import math

from edgeprune.budget.schedule import Site, Stage
from edgeprune.errors import BudgetError


def reach(site: Site) -> tuple[int, int]:
    """From one row after the cut to all but one.

    Raises:
        BudgetError: no whole average lies between.
    """
    low, high = math.ceil(_average(1, site)), math.floor(_average(site.tokens - 1, site))
    if low > high:
        raise BudgetError(f"{site.tokens} visual tokens are too few for a cut before layer {site.cuts[0]}")
    return low, high


def stages(keep: int, site: Site) -> tuple[Stage, ...]:
    """The count that averages to ``keep``, rounded to a whole row."""
    (place,), (weight,) = site.places, site.weights
    count = math.floor((site.layers * keep - site.whole * site.tokens) / weight + 0.5)
    return (Stage(place, count, 0, weight),)


def _average(count: int, site: Site) -> float:
    return (site.whole * site.tokens + site.weights[0] * count) / site.layers
