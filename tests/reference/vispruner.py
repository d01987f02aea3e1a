"""VisPruner (arXiv 2412.01818) in plain numpy: what its release computes.

At the encoder's output: half of the budget goes to the patches that the class row attends to most. The others are
halved again and again into two interleaved sets, and those of the first most like one of the second are dropped.
"""

from __future__ import annotations

import numpy as np

from tests.reference.llava import Array
from tests.reference.pruning import Indices, Pruned, Stage, Tower

POSITIONS = "repack"
IMPORTANT_RATIO = 0.5
STEP = 8  # rows dropped per round


def cuts(layers: int) -> tuple[int, ...]:
    """Give no layer: the decoder is not cut."""
    return ()


def important_count(count: int, keep: int, ratio: float = IMPORTANT_RATIO) -> int:
    """Give how many rows are kept by attention: one more where the others could not be paired."""
    important = int(keep * ratio)
    return important + 1 if (count - important) % 2 and important < keep else important


def thin(order: list[int], similarity: Array, keep: int) -> tuple[list[int], int]:
    """Drop rows until ``keep`` are left; give those, in the order the next round would see, and the rounds."""
    rounds = 0
    while len(order) > keep:
        drop = min(STEP, len(order) - keep)
        first, second = order[0::2], order[1::2]
        # Without a second set, which takes keep = 0, the order does not matter.
        likeness = {a: max((float(similarity[a, b]) for b in second), default=0.0) for a in first}
        first.sort(key=lambda a: -likeness[a])  # stable: of equals, the one that came first is dropped
        order, rounds = first[drop:] + second, rounds + 1
    return order, rounds


def select(attention: Array, features: Array, keep: int, ratio: float = IMPORTANT_RATIO) -> Indices:
    """Choose among patches by the class row's attention [N] and the features [N, Dv]."""
    unit = features / np.sqrt((features**2).sum(axis=-1, keepdims=True))
    order = sorted(range(len(attention)), key=lambda i: (-attention[i], i))
    important = important_count(len(order), keep, ratio)
    diverse, _ = thin(order[important:], unit @ unit.T, keep - important)
    return np.asarray(sorted(order[:important] + diverse), dtype=np.int64)


def vision(tower: Tower, stage: Stage, ratio: float = IMPORTANT_RATIO) -> Pruned:
    """Prune at the encoder's output, by the attention inside the layer whose output is selected."""
    rows = tower.patches
    kept = select(tower.scores().mean(axis=0), rows, stage.keep, ratio)
    return Pruned(rows[kept], kept)
