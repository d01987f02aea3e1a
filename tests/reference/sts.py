"""STS, Structure-to-Semantics (arXiv 2606.03569), in plain numpy, as reconstructed: no release exists.

At the encoder's output rows repel each other by distance on the grid and by likeness, and rows of low energy are
sampled. In the middle of the decoder the rows that the text after the image attends to most are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import numpy as np

from tests.reference.llava import Array, causal_attention
from tests.reference.pruning import Indices, Prompt, Pruned, Stage, Tower

POSITIONS = "keep"
LIKENESS_FLOOR = 0.2  # how much rows without any likeness repel each other still
ATTENTION_SCALE = 1e-3  # attention only breaks ties

Sampler = Callable[[Array, Array, int, int], Indices]


def cuts(layers: int) -> tuple[int, ...]:
    """Give the layer before which the decoder is cut."""
    return (layers // 2,)


def potential(features: Array, side: int, keep: int) -> Array:
    """Give how much each two patches [N, N] repel each other."""
    count = len(features)
    unit = features / np.sqrt((features**2).sum(axis=-1, keepdims=True))
    place = np.asarray([divmod(i, side) for i in range(count)], dtype=np.float64)
    squared = ((place[:, None] - place[None, :]) ** 2).sum(axis=-1)
    near = np.exp(-squared / (2 * count / keep))
    result: Array = near * (LIKENESS_FLOOR + (1 - LIKENESS_FLOOR) * np.maximum(0, unit @ unit.T))
    return result


def start_energy(attention: Array) -> Array:
    """Give the energy of each patch before any is picked; equal attention gives zeros."""
    low, high = attention.min(), attention.max()
    result: Array = np.zeros(len(attention)) if high == low else -ATTENTION_SCALE * (attention - low) / (high - low)
    return result


def cell_size(side: int, keep: int) -> int:
    """Give the smallest divisor of the side, 1 excluded, that makes at most keep / 3 cells; else one cell."""
    fitting = [c for c in range(2, side) if side % c == 0 and 3 * (side // c) ** 2 <= keep]
    return fitting[0] if fitting else side


def rounds(phi: Array, energy: Array, side: int, keep: int) -> Indices:
    """Pick one patch of every cell per round; what the rounds leave comes from the cells of lowest energy."""
    u, size = energy.astype(np.float64), cell_size(side, keep)
    across = side // size
    cells: list[list[int]] = [[] for _ in range(across**2)]
    for i in range(side**2):
        row, column = divmod(i, side)
        cells[row // size * across + column // size].append(i)
    picked: list[int] = []
    for _ in range(keep // len(cells)):
        picks = [min(cell, key=lambda i: (u[i], i)) for cell in cells]
        picked += picks
        u = u + phi[picks].sum(axis=0)
        u[picked] = np.inf
    best = [min(cell, key=lambda i: (u[i], i)) for cell in cells]
    order = sorted(range(len(cells)), key=lambda c: (u[best[c]], c))
    picked += [best[c] for c in order[: keep % len(cells)]]
    return np.asarray(sorted(picked), dtype=np.int64)


def greedy(phi: Array, energy: Array, side: int, keep: int) -> Indices:
    """Pick the patch of lowest energy, one after the other."""
    u = energy.astype(np.float64)
    picked = []
    for _ in range(keep):
        j = int(np.argmin(u))
        picked.append(j)
        u = u + phi[j]
        u[picked] = np.inf
    return np.asarray(sorted(picked), dtype=np.int64)


def vision(tower: Tower, stage: Stage, sampler: Sampler = rounds) -> Pruned:
    """Sample patches at the encoder's output."""
    side, across = tower.grid
    if side != across:
        raise ValueError("the reference knows only square grids")
    rows = tower.patches
    energy = start_energy(tower.scores().mean(axis=0))
    kept = sampler(potential(rows, side, stage.keep), energy, side, stage.keep)
    return Pruned(rows[kept], kept)


def cut(prompt: Prompt, stage: Stage) -> Pruned:
    """Keep the visual rows with the highest mean attention of the text after them, in the layer before the cut."""
    attention = causal_attention(prompt.query[:, prompt.end :], prompt.key).mean(axis=0)
    scores = attention[:, prompt.places].mean(axis=0)
    kept = np.sort(np.argsort(-scores, kind="stable")[: stage.keep])
    return Pruned(prompt.hidden[prompt.places[kept]], kept)


# The same with the other sampler: a reference by itself.
GREEDY = SimpleNamespace(POSITIONS=POSITIONS, cuts=cuts, vision=partial(vision, sampler=greedy), cut=cut)
