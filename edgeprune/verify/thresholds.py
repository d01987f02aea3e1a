"""How far a bundle may be from its checkpoint: one table, per dtype and kind of check.

The numbers are chosen from what was measured, with a margin; they know no model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from edgeprune.verify.difference import Difference

Kind = Literal["inputs", "graph", "merged", "chain", "pruned"]
"""The prepared picture; a graph; rows that a prune graph merged; the unpruned chain; the pruned chain."""


@dataclass(frozen=True)
class Limits:
    """What passes.

    Attributes:
        cosine: least mean cosine similarity of rows.
        worst_cosine: least cosine similarity of any row.
        norm: most that the ratio of norms may be off 1.
        error: largest absolute error, in units of the reference's range.
        kept: least fraction of selected rows that the reference selects, too.
        tokens: least fraction of decode steps with the reference's token.
    """

    cosine: float
    worst_cosine: float
    norm: float
    error: float
    kept: float
    tokens: float


# Measured on random checkpoints on ONNX Runtime's CPU provider, worst of all tensors: fp32 graph 6e-7 and chain
# 2e-6 of the range, no row below cosine 0.999999; fp16 graph 1e-3 and chain 2.3e-3, no row below 0.99995. The margin
# is for depth: 32 layers add up what 8 do. In fp16 two scores can round to one number or change places: another row is
# then kept, rightly, and what is computed from it is not compared. Likewise a row can be merged to another reference:
# the merged rows of both are then others, and a little of everything that attends to them (one such row in 192 gave
# an error of 3e-2 and a row of cosine 0.996). A weight that is wrong is far beyond all of these.
_EXACT = Limits(cosine=0.99999, worst_cosine=0.9999, norm=1e-4, error=1e-4, kept=1.0, tokens=1.0)
# Both sides resize with Pillow; what is left is the order of two multiplications.
_INPUTS = Limits(cosine=0.99999, worst_cosine=0.9999, norm=1e-5, error=1e-5, kept=1.0, tokens=1.0)
LIMITS: dict[tuple[str, Kind], Limits] = {
    ("fp32", "inputs"): _INPUTS,
    ("fp32", "graph"): _EXACT,
    ("fp32", "merged"): _EXACT,
    ("fp32", "chain"): _EXACT,
    ("fp32", "pruned"): _EXACT,
    ("fp16", "inputs"): _INPUTS,
    ("fp16", "graph"): Limits(cosine=0.9999, worst_cosine=0.999, norm=1e-2, error=1e-2, kept=0.9, tokens=1.0),
    ("fp16", "merged"): Limits(cosine=0.99, worst_cosine=0.7, norm=5e-2, error=0.5, kept=0.9, tokens=1.0),
    ("fp16", "chain"): Limits(cosine=0.999, worst_cosine=0.99, norm=1e-2, error=3e-2, kept=1.0, tokens=0.8),
    ("fp16", "pruned"): Limits(cosine=0.995, worst_cosine=0.7, norm=5e-2, error=0.5, kept=0.8, tokens=0.8),
}


def judge(difference: Difference, limits: Limits) -> tuple[str, ...]:
    """What of a difference is beyond the limits, in words; empty if nothing is. NaN is beyond any limit."""
    found = []
    for name, least in (("cosine", limits.cosine), ("worst_cosine", limits.worst_cosine)):
        value = getattr(difference, name)
        if not value >= least:
            found.append(f"{difference.tensor}: {name.replace('_', ' ')} {value:.7g} is below {least}")
    if not abs(difference.norm_ratio - 1) <= limits.norm:
        found.append(f"{difference.tensor}: norm ratio {difference.norm_ratio:.7g} is off 1 by more than {limits.norm}")
    if not difference.max_error <= limits.error or math.isnan(difference.max_error):
        found.append(f"{difference.tensor}: max error {difference.max_error:.3g} is above {limits.error} of the range")
    return tuple(found)
