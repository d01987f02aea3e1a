"""FlowCut's rule for pictures in tiles: T rows from the second cut on, and half of T of every tile before it.

As released for LLaVA-NeXT: every run keeps int(T / 2) patches inside the encoder, so that C runs hand C int(T / 2) rows
to the decoder, and T of all of them pass the cut in it; with K of L layers before the cut that averages to
(K C int(T / 2) + (L - K) T) / L. Published for 640, 320 and 160 of the 2,880 tokens of five runs, which average to 700,
350 and 175 over 32 layers.

A run keeps one patch at least, and one less than it has at most; the cut leaves no more rows than reach it. Of two runs
it therefore drops nothing, nor of one, whose rows are half of T all the way.
"""

from __future__ import annotations

import functools
import math

from edgeprune.budget import encoder
from edgeprune.budget.schedule import Site, Stage
from edgeprune.budget.solve import average, nearest


def reach(site: Site) -> tuple[int, int]:
    """From one row of every run, and one of all after the cut, to all patches of a run but one.

    Raises:
        BudgetError: there are too few visual tokens for that.
    """
    _, high = encoder.reach(site)
    return math.ceil(average(halved(1, site), site)), high


def stages(keep: int, site: Site) -> tuple[Stage, ...]:
    """Counts of both stages for the average nearest to ``keep``.

    Averages lie 1 + K (C - 1) / L apart at most, with C runs and K of L layers before the cut, and within half of that
    of ``keep``; with two runs, whose counts are even, two apart.
    """
    return nearest(functools.partial(halved, site=site), keep, site, most=2.0 * encoder.reach(site)[1] + 1)


def halved(rows: float, site: Site) -> tuple[Stage, ...]:
    """The stages of T ``rows``, rounded down."""
    (early, late), (before, after) = site.places, site.weights
    most = encoder.reach(site)[1] // site.runs
    each = min(max(1, int(rows) // 2), most)
    return (
        Stage(early, each, 0, before, site.runs),
        Stage(late, max(1, min(int(rows), each * site.runs)), 0, after),
    )
