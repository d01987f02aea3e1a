"""VisionDrop's rule: half as many again as the average after the encoder, then geometric decay.

The published row (32 tokens: 48, 35, 26, 19, of which 6, 5, 4, 3 merged) fixes three things: the encoder keeps
1.5 T, every cut keeps the same fraction rho of what reaches it, and one row in eight, rounded up, is merged. rho
follows from the layer-weighted average being T. The released code holds only that row; the others are derived
from it, and their four counts sum to exactly 4 T at a depth of 32.

Of a video the encoder keeps 3 T, as the paper states, which makes the decay steeper (0.25308 at a depth of 32). Where
the encoder runs several times, every run keeps its share of the first count, rounded; the cuts in the decoder follow
the same rule on the sum: 5 x (168 + 24), then 616 + 88, 452 + 65, 331 + 48 for 640 of LLaVA-NeXT's 2,880 tokens.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count

from edgeprune.budget.schedule import Site, Stage
from edgeprune.bundle.prompt import Medium
from edgeprune.errors import BudgetError

FIRST: dict[Medium, float] = {"image": 1.5, "video": 3.0}
"""Tokens after the encoder, in units of the average."""
PER_MERGED = 8  # rows per merged row
_MANY = 1 << 20  # visual tokens that any average can be reached with


def reach(site: Site) -> tuple[int, int]:
    """Smallest and largest average: the last stage, and every run, hold at least eight rows, the first at most all.

    Below eight rows the published share of merged rows, one in eight, cannot be held.

    Raises:
        BudgetError: no average can be reached with these cuts.
    """
    first = FIRST[site.medium]
    if site.weights[0] * first >= site.layers:
        latest = "two thirds" if site.medium == "image" else "a third"
        raise BudgetError(
            f"visiondrop cannot reach any average with cuts at {', '.join(map(str, site.cuts))} of {site.layers} "
            f"layers: the first cut must lie before {latest} of the depth"
        )
    high, low = int(site.most / first), _least(site)
    if low is not None:
        return low, high
    start = math.floor(first * (_least(replace(site, tokens=_MANY, per_run=None)) or 1))
    fewest = next(tokens for tokens in count(start) if _least(replace(site, tokens=tokens, per_run=None)))
    what = "every run of the encoder and the last stage" if site.runs > 1 else "the last stage"
    asked = "a video" if site.medium == "video" else "pictures"
    raise BudgetError(
        f"visiondrop cannot prune {site.tokens} visual tokens, too few: of {asked} it keeps {first:g} times the "
        f"average at first, and for {PER_MERGED} rows in {what} of {len(site.places)} there must be {fewest} or more"
    )


def _least(site: Site) -> int | None:
    """The smallest average; None where there is none."""
    for low in range(1, int(site.most / FIRST[site.medium]) + 1):
        counts = stages(low, site)
        if min(counts[0].keep, counts[-1].keep) >= PER_MERGED:
            return low
    return None


def stages(keep: int, site: Site) -> tuple[Stage, ...]:
    """Counts of every stage for an average of ``keep``.

    Rounding moves the average by at most half a token, and by less than half a token per run more where the runs share.
    """
    start, rho = FIRST[site.medium] * keep, decay(site.weights, FIRST[site.medium])
    found: list[Stage] = []
    for index, (cut, weight) in enumerate(zip(site.places, site.weights, strict=True)):
        if isinstance(cut, int):
            count, runs = min(math.floor(start * rho**index + 0.5), found[-1].rows), 1
        else:
            count, runs = min(site.shared(start), site.most // site.runs), site.runs
        found.append(Stage(cut, count, -(-count // PER_MERGED), weight, runs))
    return tuple(found)


def decay(weights: tuple[int, ...], first: float) -> float:
    """The rho in 0..1 at which stages of ``first`` * rho^k, weighted by their layers, average 1.

    For weights of 8, 8, 8, 8 that is 0.7336 with 1.5 first, 0.2531 with 3. The weighted sum grows with rho, so
    bisection finds it.
    """
    target = sum(weights) / first
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        total = sum(weight * middle**index for index, weight in enumerate(weights))
        low, high = (middle, high) if total < target else (low, middle)
    return (low + high) / 2
