"""What can be said about the patches a method kept, in numbers.

Indices are those of the grid in raster order. The class row (-1) is no patch and is left out everywhere; a merged
row counts as its reference patch. Nothing here knows a method or a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Measures:
    """What one method kept of one picture; of the last stage where nothing else is said.

    Attributes:
        tokens: visual rows out of every stage, class row and merged rows included.
        gap_first, gap_last: ``largest_gap`` after the first and after the last stage.
        diversity: of the encoder's features.
        vertical_centre: of the patches.
        attention_share: of the class row's attention; None also where the encoder's graph does not give it.
    """

    tokens: tuple[int, ...]
    gap_first: int
    gap_last: int
    diversity: float | None
    vertical_centre: float | None
    attention_share: float | None


def measure(
    stages: Sequence[Sequence[int]],
    grid: tuple[int, int],
    features: NDArray[np.floating],
    attention: NDArray[np.floating] | None,
) -> Measures:
    """Measure what every stage kept, in order of execution.

    Args:
        stages: indices kept, at least one stage.
        grid: (rows, columns) of patches, N in all.
        features: [N, D].
        attention: [N], or None where there is none.
    """
    last = stages[-1]
    return Measures(
        tokens=tuple(map(len, stages)),
        gap_first=largest_gap(stages[0], grid),
        gap_last=largest_gap(last, grid),
        diversity=diversity(features, last),
        vertical_centre=vertical_centre(last, grid),
        attention_share=None if attention is None else attention_share(attention, last),
    )


def patches(kept: Iterable[int]) -> tuple[int, ...]:
    """The patches among the rows kept: without the class row, ascending, each once."""
    return tuple(sorted({index for index in kept if index >= 0}))


def largest_gap(kept: Iterable[int], grid: tuple[int, int]) -> int:
    """Side, in patches, of the largest square of the grid (rows, columns) that holds no kept patch."""
    rows, columns = grid
    taken = set(kept)
    sides = np.zeros((rows + 1, columns + 1), np.int64)  # of the largest empty square with its lower right corner here
    for row in range(rows):
        for column in range(columns):
            if row * columns + column not in taken:
                above, left, corner = sides[row, column + 1], sides[row + 1, column], sides[row, column]
                sides[row + 1, column + 1] = 1 + min(above, left, corner)
    return int(sides.max())


def diversity(features: NDArray[np.floating], kept: Iterable[int]) -> float | None:
    """1 minus the mean cosine between pairs of kept patches' features [N, D]: 0 where all point the same way.

    None with fewer than two patches. A feature of zeros points nowhere: its cosines are 0.
    """
    chosen = features[list(patches(kept))].astype(np.float64)
    count = len(chosen)
    if count < 2:
        return None
    length = np.linalg.norm(chosen, axis=1, keepdims=True)
    units = np.divide(chosen, length, out=np.zeros_like(chosen), where=length > 0)
    # The squared sum of all holds every pair twice, and every unit with itself.
    pairs = float(np.square(units.sum(axis=0)).sum() - np.square(units).sum())
    return 1 - pairs / (count * (count - 1))


def vertical_centre(kept: Iterable[int], grid: tuple[int, int]) -> float | None:
    """Mean row of the kept patches, 0 at the top and 1 at the bottom; None without patches or with one row."""
    rows, columns = grid
    chosen = patches(kept)
    if not chosen or rows < 2:
        return None
    return sum(index // columns for index in chosen) / (len(chosen) * (rows - 1))


def attention_share(attention: NDArray[np.floating], kept: Iterable[int]) -> float | None:
    """Part of the attention [N] to all patches that falls on kept ones; None where there is none at all."""
    total = float(attention.sum(dtype=np.float64))
    if total <= 0:
        return None
    return float(attention[list(patches(kept))].sum(dtype=np.float64)) / total


def overlap(one: Iterable[int], other: Iterable[int]) -> float:
    """Jaccard index of two sets of kept patches: common ones over those in either; 1 where both are empty."""
    first, second = set(patches(one)), set(patches(other))
    return len(first & second) / len(first | second) if first | second else 1.0


def deepest_attention(outputs: Iterable[str]) -> str | None:
    """The class row's attention in the deepest layer among a vision graph's outputs ("cls_attention_22")."""
    head = "cls_attention_"
    layers = [int(name.removeprefix(head)) for name in outputs if name.startswith(head) and name[len(head) :].isdigit()]
    return f"{head}{max(layers)}" if layers else None
