"""CDPruner (arXiv 2506.10967) in plain numpy: rows by greedy MAP of a DPP conditioned on the question.

The kernel is the cosine of projected rows, weighted on both sides by how relevant each row is. Relevance is CLIP's,
or, for encoders whose text tower is not at hand, likeness to the embedded question.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tests.reference.llava import Array
from tests.reference.pruning import Pruned, Stage, Tower

POSITIONS = "repack"
RESIDUAL_FLOOR = 1e-12  # beyond the kernel's rank the residual is zero, or less by rounding


def cuts(layers: int) -> tuple[int, ...]:
    """Give no layer: the decoder is not cut."""
    return ()


def _unit(x: Array) -> Array:
    result: Array = x / np.sqrt((x**2).sum(axis=-1, keepdims=True))
    return result


def _spread(scores: Array) -> Array:
    """Map to (0, 1]; the small number keeps the lowest row in the kernel. Equal scores weigh nothing: ones."""
    low, high = scores.min(), scores.max()
    result: Array = np.ones(len(scores)) if high == low else (scores - low + 1e-6) / (high - low)
    return result


def relevance(patch_embeds: Array, text_embeds: Array) -> Array:
    """Give the relevance of patches [N, E] to text segments [M, E], both in CLIP's shared space.

    The sign is the release's: patches of CLIP resemble the text less where they show what it names. The patches are
    those of all runs of a prompt: the release spreads the scores of all tiles of an image together.
    """
    return _spread(-(_unit(patch_embeds) @ _unit(text_embeds).T).mean(axis=1))


def relevance_llm(visual: Array, question: Array) -> Array:
    """Give the relevance of the projected rows [N, D] of all runs to the embedded tokens of the question [q, D]."""
    return _spread((_unit(visual) @ _unit(question).T).mean(axis=1))


def kernel(visual: Array, weights: Array) -> Array:
    """Give the conditional kernel [N, N]."""
    unit = _unit(visual)
    result: Array = weights[:, None] * (unit @ unit.T) * weights[None, :]
    return result


def greedy_map(matrix: Array, count: int) -> list[int]:
    """Give the rows that greedily maximise the determinant of the kernel, in the order they are picked."""
    residual, factors = np.diag(matrix).astype(np.float64), np.zeros((count, len(matrix)))
    picked: list[int] = []
    for i in range(count):
        j = int(np.argmax(residual))
        explained = sum((factors[t, j] * factors[t] for t in range(i)), np.zeros(len(matrix)))
        factors[i] = (matrix[j] - explained) / math.sqrt(max(float(residual[j]), RESIDUAL_FLOOR))
        residual = residual - factors[i] ** 2
        picked.append(j)
        residual[picked] = -np.inf
    return picked


def projected(tower: Tower, visual: Array, question: Array, stage: Stage) -> Pruned:
    """Prune the projected rows of the only run."""
    return projected_runs([tower], [visual], question, stage)[0]


def projected_runs(towers: Sequence[Tower], visual: Sequence[Array], question: Array, stage: Stage) -> list[Pruned]:
    """Prune the projected rows of every run by their likeness to the question's embedded tokens [q, D]."""
    weights = relevance_llm(np.concatenate(list(visual)), question)
    done = []
    for rows, own in zip(visual, np.split(weights, np.cumsum([len(rows) for rows in visual])[:-1]), strict=True):
        kept = np.asarray(sorted(greedy_map(kernel(rows, own), stage.keep)), dtype=np.int64)
        done.append(Pruned(rows[kept], kept))
    return done
