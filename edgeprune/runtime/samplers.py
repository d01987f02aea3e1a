"""Choosing rows on the host, one after the other: what a graph could only do in a loop.

A sampler reads a kernel graph's outputs and gives the chosen rows, ascending. Each step depends on the one before it,
so there is nothing for a GPU to do; at 576 rows a sampler takes about a millisecond.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Sampler = Callable[[Mapping[str, NDArray[Any]], int], NDArray[np.int64]]

_LEAST = 1e-12  # a residual below this is rounding
_TAKEN = 1e30


def dpp(outputs: Mapping[str, NDArray[Any]], count: int) -> NDArray[np.int64]:
    """Greedy maximum of a determinantal point process (Chen et al., NeurIPS 2018, algorithm 1).

    Args:
        outputs: ``kernel`` [B, N, N] fp32, symmetric and positive semidefinite.
        count: rows to choose, 1..N.

    Returns:
        [B, count] int64, ascending. Ties go to the lower row.
    """
    return np.stack([np.sort(_dpp(kernel, count)) for kernel in outputs["kernel"]])


def _dpp(kernel: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    rows = kernel.shape[0]
    gain = kernel.diagonal().copy()
    factor = np.zeros((count, rows), dtype=kernel.dtype)
    chosen = np.empty(count, dtype=np.int64)
    for step in range(count):
        pick = int(np.argmax(gain))
        chosen[step] = pick
        if gain[pick] > _LEAST:  # beyond the kernel's rank there is nothing left to explain, and rounding would grow
            projected = kernel[pick] - factor[:step, pick] @ factor[:step]
            factor[step] = projected / np.sqrt(gain[pick])
            gain -= factor[step] ** 2
        gain[chosen[: step + 1]] = -np.inf
    return chosen


def repulsion(outputs: Mapping[str, NDArray[Any]], count: int) -> NDArray[np.int64]:
    """Rows that repel each other, the least repelled one first.

    Args:
        outputs: ``kernel`` [B, N, N] fp32, the repulsion between two rows; ``start`` [B, N] fp32, added to it.
        count: rows to choose, 1..N.

    Returns:
        [B, count] int64, ascending. Ties go to the lower row.
    """
    pairs = zip(outputs["kernel"], outputs["start"], strict=True)
    return np.stack([np.sort(_repulsion(kernel, start, count)) for kernel, start in pairs])


def _repulsion(kernel: NDArray[np.float32], start: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    energy = start.copy()
    chosen = np.empty(count, dtype=np.int64)
    for step in range(count):
        pick = int(np.argmin(energy))
        chosen[step] = pick
        energy += kernel[pick]
        energy[pick] = _TAKEN
    return chosen


SAMPLERS: Mapping[str, Sampler] = {"dpp": dpp, "repulsion": repulsion}
"""By the names that the manifest gives."""
