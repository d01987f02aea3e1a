"""One stage before the decoder and one cut inside it (VScan, STS): the first keeps half as many again as the average.

Published for a cut at half the depth (VScan): 1.5 T rows enter the decoder and 0.5 T of them pass the cut, which
averages to T. At other depths the first stage keeps 1.5 T too and the cut what the average leaves:
with K of L layers before the cut, (L T - K 1.5 T) / (L - K). Where the encoder runs several times, every run keeps its
share of the first count, rounded, and the cut in the decoder takes what that leaves, over all of them.
"""

from __future__ import annotations

from edgeprune.budget.schedule import Site, Stage
from edgeprune.errors import BudgetError


def reach(site: Site) -> tuple[int, int]:
    """Smallest and largest average: the cut leaves at least one row, the first stage at most all.

    Raises:
        BudgetError: no average can be reached with this cut.
    """
    before = site.weights[0]
    if 3 * before >= 2 * site.layers:
        raise BudgetError(
            f"no average can be reached with a cut before layer {before} of {site.layers}: "
            "it must lie before two thirds of the depth"
        )
    high = 2 * site.most // 3
    while high > 0 and _counts(high, site)[0] > min(site.patches, site.most // site.runs):
        high -= 1
    low = high + 1
    while low > 1 and _holds(low - 1, site):  # downwards: roundings may leave gaps further below
        low -= 1
    if low > high:
        raise BudgetError(f"{site.tokens} visual tokens are too few for a stage before the decoder and a cut in it")
    return low, high


def stages(keep: int, site: Site) -> tuple[Stage, ...]:
    """Counts of both stages; the second is rounded, which moves the average by less than half a token."""
    (early, late), (before, after) = site.places, site.weights
    first, second = _counts(keep, site)
    return (Stage(early, first, 0, before, site.runs), Stage(late, second, 0, after))


def _holds(keep: int, site: Site) -> bool:
    """Whether every run and the cut leave a row, and the cut no more than reach it."""
    first, second = _counts(keep, site)
    return first >= 1 and 1 <= second <= first * site.runs


def _counts(keep: int, site: Site) -> tuple[int, int]:
    """Rows out of both stages, the first of each run: 1.5 ``keep``, and what the average leaves; halves rounded up."""
    before, after = site.weights
    first = site.shared(1.5 * keep)
    rest = (before + after) * keep - before * first * site.runs
    return first, (2 * rest + after) // (2 * after)
