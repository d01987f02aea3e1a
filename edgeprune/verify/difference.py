"""How far one array is from another, in four numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Difference:
    """One output against its reference.

    Attributes:
        tensor: its name.
        cosine, worst_cosine: similarity of rows (the last axis), mean and least.
        norm_ratio: norm of the output over that of the reference.
        max_error: largest absolute error, in units of the reference's range.
    """

    tensor: str
    cosine: float
    worst_cosine: float
    norm_ratio: float
    max_error: float


def measure(tensor: str, reference: NDArray[Any], result: NDArray[Any]) -> Difference:
    """Compare two arrays of one shape, in fp64; whatever is not finite in the result gives NaN."""
    expected = np.asarray(reference, dtype=np.float64).reshape(-1, reference.shape[-1])
    got = np.asarray(result, dtype=np.float64).reshape(expected.shape)
    if not np.isfinite(got).all():
        return Difference(tensor, float("nan"), float("nan"), float("nan"), float("nan"))
    norms = np.linalg.norm(expected, axis=1), np.linalg.norm(got, axis=1)
    product = norms[0] * norms[1]
    dot = (expected * got).sum(axis=1)
    equal = (norms[0] == norms[1]).astype(np.float64)  # two rows of zeros are the same
    cosine = np.divide(dot, product, out=equal, where=product > 0)
    total = float(np.linalg.norm(norms[0]))
    spread = float(np.ptp(expected)) or float(np.abs(expected).max()) or 1.0
    return Difference(
        tensor=tensor,
        cosine=float(cosine.mean()),
        worst_cosine=float(cosine.min()),
        norm_ratio=float(np.linalg.norm(norms[1])) / total if total else 1.0 + float(np.linalg.norm(norms[1])),
        max_error=float(np.abs(got - expected).max()) / spread,
    )
