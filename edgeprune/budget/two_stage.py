"""One stage before the decoder and one cut inside it (VScan, STS): the first keeps half as many again as the average.

Published for a cut at half the depth (VScan): 1.5 T rows enter the decoder and 0.5 T of them pass the cut, which
averages to T. At other depths the first stage keeps 1.5 T too and the cut what the average leaves:
with K of L layers before the cut, (L T - K 1.5 T) / (L - K).
"""

from __future__ import annotations

from edgeprune.budget.schedule import Site, Stage
from edgeprune.errors import BudgetError


def reach(site: Site) -> tuple[int, int]:
    """Smallest and largest average: the cut leaves at least one row, the first stage at most all.

    Raises:
        BudgetError: no average can be reached with this cut.
    """
    before, after = site.weights
    if 3 * before >= 2 * site.layers:
        raise BudgetError(
            f"no average can be reached with a cut before layer {before} of {site.layers}: "
            "it must lie before two thirds of the depth"
        )
    high = 2 * site.tokens // 3
    low = high + 1
    while low > 1 and _counts(low - 1, before, after)[1] >= 1:  # downwards: roundings may leave gaps further below
        low -= 1
    if low > high:
        raise BudgetError(f"{site.tokens} visual tokens are too few for a stage before the decoder and a cut in it")
    return low, high


def stages(keep: int, site: Site) -> tuple[Stage, ...]:
    """Counts of both stages; the second is rounded, which moves the average by less than half a token."""
    counts = _counts(keep, *site.weights)
    return tuple(
        Stage(place, count, 0, weight) for place, count, weight in zip(site.places, counts, site.weights, strict=True)
    )


def _counts(keep: int, before: int, after: int) -> tuple[int, int]:
    """Rows out of both stages: 1.5 ``keep``, and what the average leaves; halves are rounded up."""
    first = (3 * keep + 1) // 2
    rest = (before + after) * keep - before * first
    return first, (2 * rest + after) // (2 * after)
