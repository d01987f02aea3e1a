"""SparseVLM's rule, version 2.0: its own lists, scaled as those of 1.5 are, and no clusters."""

from __future__ import annotations

from edgeprune.budget import sparsevlm
from edgeprune.budget.schedule import Site, Stage

LISTS: tuple[sparsevlm.Selected, ...] = ((300, 200, 118), (238, 108, 60), (246, 54, 28), (66, 34, 20))


def reach(site: Site) -> tuple[int, int]:
    """From one row per cut to one less at every cut.

    Raises:
        BudgetError: there are too few visual tokens for three cuts.
    """
    return sparsevlm.reach_of("sparsevlm-plus", site, recycling=False)


def stages(keep: int, site: Site) -> tuple[Stage, ...]:
    """Counts of every stage for the average nearest to ``keep``."""
    return sparsevlm.scaled_to(keep, site, LISTS, recycling=False)
