"""One count before the decoder, nothing merged: every decoder layer sees as many rows as were asked for.

Where the encoder runs several times, every run keeps the same number, as CDPruner, VisPruner and VisionZip have it for
the crops of LLaVA-NeXT; the average is then that number times the runs.
"""

from __future__ import annotations

from edgeprune.budget.schedule import Site, Stage
from edgeprune.errors import BudgetError


def reach(site: Site) -> tuple[int, int]:
    """From one patch of a run to all but one of it, and less than without pruning.

    Raises:
        BudgetError: there are too few visual tokens for that.
    """
    low, high = site.runs, site.runs * min(site.patches - 1, (site.tokens - 1) // site.runs)
    if low > high:
        raise BudgetError(f"{site.tokens} visual tokens of {site.runs} encoder runs are too few to prune")
    return low, high


def stages(keep: int, site: Site) -> tuple[Stage, ...]:
    """``keep`` rows, at the one place."""
    (place,), (weight,) = site.places, site.weights
    return (Stage(place, site.shared(keep), 0, weight, site.runs),)
