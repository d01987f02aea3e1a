"""VisionDrop's rule: half as many again as the average after the encoder, then geometric decay.

The published row (32 tokens: 48, 35, 26, 19, of which 6, 5, 4, 3 merged) fixes three things: the encoder keeps
1.5 T, every cut keeps the same fraction rho of what reaches it, and one row in eight, rounded up, is merged. rho
follows from the layer-weighted average being T. The released code holds only that row; the others are derived
from it, and their four counts sum to exactly 4 T at a depth of 32.
"""

from __future__ import annotations

import math

from edgeprune.budget.schedule import Site, Stage
from edgeprune.errors import BudgetError

FIRST = 1.5  # tokens after the encoder, in units of the average
PER_MERGED = 8  # rows per merged row


def reach(site: Site) -> tuple[int, int]:
    """Smallest and largest average: the last stage holds at least eight rows, the first at most all.

    Below eight rows the published share of merged rows, one in eight, cannot be held.

    Raises:
        BudgetError: no average can be reached with these cuts.
    """
    if site.weights[0] * FIRST >= site.layers:
        raise BudgetError(
            f"visiondrop cannot reach any average with cuts at {', '.join(map(str, site.cuts))} of {site.layers} "
            "layers: the first cut must lie before two thirds of the depth"
        )
    high = int(site.tokens / FIRST)
    for low in range(1, high + 1):
        if stages(low, site)[-1].keep >= PER_MERGED:
            return low, high
    raise BudgetError(f"visiondrop cannot prune {site.tokens} visual tokens: too few for {len(site.places)} stages")


def stages(keep: int, site: Site) -> tuple[Stage, ...]:
    """Counts of every stage for an average of ``keep``; rounding moves the average by at most half a token."""
    rho = decay(site.weights)
    found = []
    for index, (cut, weight) in enumerate(zip(site.places, site.weights, strict=True)):
        count = math.floor(FIRST * keep * rho**index + 0.5)
        found.append(Stage(cut=cut, keep=count, merge=-(-count // PER_MERGED), layers=weight))
    return tuple(found)


def decay(weights: tuple[int, ...]) -> float:
    """The rho in 0..1 at which stages of FIRST * rho^k, weighted by their layers, average 1 (0.7336 for 8, 8, 8, 8).

    The weighted sum grows with rho, so bisection finds it.
    """
    target = sum(weights) / FIRST
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        total = sum(weight * middle**index for index, weight in enumerate(weights))
        low, high = (middle, high) if total < target else (low, middle)
    return (low + high) / 2
