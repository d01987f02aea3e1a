"""The chain's first logits against PyTorch eager's at the same budget, both on the GPU and in the same element type.

Where both kept the same rows the logits are held to ``edgeprune verify``'s limits. With random weights scores lie
close together, so in fp16 a few rows may rightly be others: then the share of rows is judged, and the logits are shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeprune.verify.difference import measure
from edgeprune.verify.thresholds import LIMITS, Kind, judge
from tools.gpu.report import Comparison
from tools.gpu.variant import Variant, label


@dataclass(frozen=True)
class Outcome:
    """What a prefill gave: logits [vocab], and the rows kept at every cut."""

    logits: NDArray[np.float32]
    kept: tuple[NDArray[np.int64], ...]


def outcome(variant: Variant) -> Outcome:
    """Run a variant's prefill once."""
    variant.prefill()
    return Outcome(variant.logits().copy(), variant.kept())


def compare(case: str, dialect: str, variant: Variant, expected: Outcome, dtype: str) -> Comparison:
    """Hold a variant that has just run against what eager gave.

    Args:
        case: its name.
        dialect: of the graphs.
        variant: of the chain.
        expected: eager's outcome at the same budget.
        dtype: "fp16" or "fp32".
    """
    found = Outcome(variant.logits(), variant.kept())
    kind: Kind = "pruned" if expected.kept else "chain"
    limits = LIMITS[dtype, kind]
    shared = shared_rows(expected.kept, found.kept)
    difference = measure("logits", expected.logits[None], found.logits[None])
    failures: tuple[str, ...] = ()
    note = None
    if shared is not None and shared < limits.kept:
        failures = (f"{shared:.1%} of the rows kept are the same, below {limits.kept:.0%}",)
    elif shared is not None and shared < 1.0:
        note = "logits not judged: other rows were kept"
        if not np.isfinite(found.logits).all():
            failures = ("logits are not finite",)
    else:
        failures = judge(difference, limits)
    return Comparison(
        case=case,
        variant=label(variant),
        dialect=dialect,
        cosine=difference.cosine,
        max_error=difference.max_error,
        same_token=bool(expected.logits.argmax() == found.logits.argmax()),
        kept=shared,
        failures=failures,
        note=note,
    )


def shared_rows(expected: tuple[NDArray[np.int64], ...], found: tuple[NDArray[np.int64], ...]) -> float | None:
    """Share of the rows kept, over all cuts, that both kept; None without cuts."""
    if not expected:
        return None
    same = sum(len(np.intersect1d(a, b)) for a, b in zip(expected, found, strict=True))
    return same / sum(len(rows) for rows in expected)
