"""SparseVLM's rule, version 1.5: the counts of its code, scaled, and a few rows more that are clustered from the rest.

The code lists rows to select per cut for the labels 192, 128, 96 and 64; after each cut about 3 % of the rows dropped
come back as clusters. The labels average over what each layer puts out. Here, as for every method, an average is over
what each layer takes in, which is what costs: by that the four lists average 206.5, 145.4, 114.1 and 82.3. For an
average of T the list with the nearest average is scaled until it meets T.
"""

from __future__ import annotations

import functools
import math

from edgeprune.budget.schedule import Site, Stage
from edgeprune.budget.solve import average, nearest
from edgeprune.errors import BudgetError

Selected = tuple[int, int, int]

LISTS: tuple[Selected, ...] = ((300, 200, 110), (303, 110, 36), (238, 48, 26), (66, 30, 17))
PUBLISHED = Site(tokens=576, places=(3, 7, 16), layers=32)


def reach(site: Site) -> tuple[int, int]:
    """From one selected row per cut to all tokens but one.

    Raises:
        BudgetError: there are too few visual tokens for three cuts.
    """
    return reach_of("sparsevlm", site, recycling=True)


def stages(keep: int, site: Site) -> tuple[Stage, ...]:
    """Counts of every stage, clusters included, for the average nearest to ``keep``."""
    return scaled_to(keep, site, LISTS, recycling=True)


def looked_at(dropped: int) -> int:
    """How many of the rows dropped, the best ones, are clustered: int(0.3 P) + 1."""
    return 3 * dropped // 10 + 1


def clusters(dropped: int) -> int:
    """How many clusters they make: int(T / 10) + 1."""
    return looked_at(dropped) // 10 + 1


def reach_of(name: str, site: Site, recycling: bool) -> tuple[int, int]:
    """Smallest and largest average of either version.

    Raises:
        BudgetError: there are too few visual tokens for three cuts.
    """
    low = math.ceil(average(select((1, 1, 1), 0.0, site, recycling), site))
    high = math.floor(average(select((1, 1, 1), site.tokens, site, recycling), site))
    if low > min(high, site.tokens - 1):
        raise BudgetError(f"{name} cannot prune {site.tokens} visual tokens: too few for {len(site.places)} stages")
    return low, min(high, site.tokens - 1)


def scaled_to(keep: int, site: Site, lists: tuple[Selected, ...], recycling: bool) -> tuple[Stage, ...]:
    """The stages of the list with the nearest average, scaled to ``keep``."""
    wanted = keep * PUBLISHED.tokens / site.tokens
    own = {counts: average(select(counts, 1.0, PUBLISHED, recycling), PUBLISHED) for counts in lists}
    chosen = min(lists, key=lambda counts: abs(own[counts] - wanted))
    make = functools.partial(_scaled, counts=chosen, site=site, recycling=recycling)
    return nearest(make, keep, site, most=site.tokens / min(chosen))


def _scaled(factor: float, counts: Selected, site: Site, recycling: bool) -> tuple[Stage, ...]:
    return select(counts, factor, site, recycling)


def select(counts: Selected, factor: float, site: Site, recycling: bool) -> tuple[Stage, ...]:
    """The stages of a list times a factor: at least one row is selected, and at least one dropped where two are left.

    A cluster counts among the rows of the next stage, like any other.
    """
    found, rows = [], site.tokens
    for count, cut, weight in zip(counts, site.places, site.weights, strict=True):
        selected = max(1, min(math.floor(count * factor + 0.5), rows - 1))
        merged = clusters(rows - selected) if recycling else 0
        rows = selected + merged
        found.append(Stage(cut, rows, merged, weight))
    return tuple(found)
