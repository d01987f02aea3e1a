"""VisionZip's rule: one count after the encoder, of which a fixed share is merged rows.

The published splits, dominant and merged, the class row among the dominant ones: 54 + 10 for 64 tokens, and in
LightCompress's configurations 108 + 20 and 162 + 30. All three merge 0.156 T, rounded. LLaVA-NeXT has the same splits
for every crop: 5 x (108 + 20), 5 x (54 + 10), 5 x (27 + 5).
"""

from __future__ import annotations

import math

from edgeprune.budget.schedule import Site, Stage
from edgeprune.errors import BudgetError

MERGED = 0.156  # merged rows, in units of the rows of a run


def reach(site: Site) -> tuple[int, int]:
    """From the first count of which a row is merged to all patches but one, each times the runs.

    Raises:
        BudgetError: there are too few visual tokens for that.
    """
    low = site.runs * math.ceil(0.5 / MERGED)
    high = site.runs * min(site.of_run - 1, (site.tokens - 1) // site.runs)
    if low > high:
        raise BudgetError(f"visionzip cannot prune {site.tokens} visual tokens: it keeps at least {low}")
    return low, high


def stages(keep: int, site: Site) -> tuple[Stage, ...]:
    """``keep`` rows, which every decoder layer sees."""
    (place,), (weight,) = site.places, site.weights
    count = site.shared(keep)
    return (Stage(place, count, math.floor(MERGED * count + 0.5), weight, site.runs),)
