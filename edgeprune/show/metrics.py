"""What can be said about the patches a method kept, in numbers.

Indices are those of ``Sheet``'s blocks: of a picture, its mosaic of tiles and its overview, or its frames. Class rows
and ends of lines (below 0) are no patches and are left out everywhere; a merged row counts as its reference patch.
Nothing here knows a method or a model.
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
        tokens: visual rows out of every stage, class rows and merged rows included.
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
    blocks: Sequence[NDArray[np.int64]],
    features: NDArray[np.floating],
    attention: NDArray[np.floating] | None,
) -> Measures:
    """Measure what every stage kept, in order of execution.

    Args:
        stages: indices kept, at least one stage.
        blocks: [rows, columns] each, the indices of their patches.
        features: [N, D], a row for every index.
        attention: [N], or None where there is none.
    """
    last = stages[-1]
    return Measures(
        tokens=tuple(map(len, stages)),
        gap_first=largest_gap(stages[0], blocks),
        gap_last=largest_gap(last, blocks),
        diversity=diversity(features, last),
        vertical_centre=vertical_centre(last, blocks),
        attention_share=None if attention is None else attention_share(attention, last),
    )


def patches(kept: Iterable[int]) -> tuple[int, ...]:
    """The patches among the rows kept: without class rows and ends of lines, ascending, each once."""
    return tuple(sorted({index for index in kept if index >= 0}))


def largest_gap(kept: Iterable[int], blocks: Sequence[NDArray[np.int64]]) -> int:
    """Side, in patches, of the largest square that holds no kept patch; of the blocks' the largest."""
    taken = list(patches(kept))
    return max(_gap(np.isin(block, taken)) for block in blocks)


def _gap(kept: NDArray[np.bool_]) -> int:
    rows, columns = kept.shape
    sides = np.zeros((rows + 1, columns + 1), np.int64)  # of the largest empty square with its lower right corner here
    for row in range(rows):
        for column in range(columns):
            if not kept[row, column]:
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


def vertical_centre(kept: Iterable[int], blocks: Sequence[NDArray[np.int64]]) -> float | None:
    """Mean row of the kept patches, 0 at the top of a block and 1 at its bottom; None without patches in rows."""
    taken = list(patches(kept))
    heights = [np.nonzero(np.isin(block, taken))[0] / (len(block) - 1) for block in blocks if len(block) > 1]
    found = np.concatenate(heights) if heights else np.empty(0)
    return float(found.mean()) if len(found) else None


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
