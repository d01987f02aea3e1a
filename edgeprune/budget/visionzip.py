"""VisionZip's rule: one count after the encoder, of which a fixed share is merged rows.

The published splits, dominant and merged, the class row among the dominant ones: 54 + 10 for 64 tokens, and in
LightCompress's configurations 108 + 20 and 162 + 30. All three merge 0.156 T, rounded.
"""

from __future__ import annotations

import math

from edgeprune.budget.schedule import Site, Stage
from edgeprune.errors import BudgetError

MERGED = 0.156  # merged rows, in units of the average


def reach(site: Site) -> tuple[int, int]:
    """From the first count of which a row is merged to all patches but one.

    Raises:
        BudgetError: there are too few visual tokens for that.
    """
    low, high = math.ceil(0.5 / MERGED), site.tokens - 1
    if low > high:
        raise BudgetError(f"visionzip cannot prune {site.tokens} visual tokens: it keeps at least {low}")
    return low, high


def stages(keep: int, site: Site) -> tuple[Stage, ...]:
    """``keep`` rows, which every decoder layer sees."""
    (place,), (weight,) = site.places, site.weights
    return (Stage(place, keep, math.floor(MERGED * keep + 0.5), weight),)
