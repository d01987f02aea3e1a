"""VScan (arXiv 2505.22654) in plain numpy: what its release computes.

After the projector half of the rows are those of highest class attention per window in a shallow encoder layer,
the others those of highest class attention in the selected one; the rest is averaged into them. In the middle of
the decoder the rows that the last prompt row attends to most are kept.
"""

from __future__ import annotations

import numpy as np

from tests.reference.llava import Array, causal_attention, layer_queries_keys
from tests.reference.pruning import Indices, Prompt, Pruned, Stage, Tower

POSITIONS = "repack"
WINDOWS = 4  # per side


def cuts(layers: int) -> tuple[int, ...]:
    """Give the layer before which the decoder is cut."""
    return (layers // 2,)


def local_layer(selected: int) -> int:
    """Give the shallow encoder layer: 5 where layer 22 is selected, else as deep in proportion."""
    return int(5 * selected / 22 + 0.5)


def local_count(keep: int) -> int:
    """Give how many rows the windows choose together: half, but as many in each window."""
    return keep // 2 // WINDOWS**2 * WINDOWS**2


def select(local: Array, deep: Array, side: int, keep: int) -> Indices:
    """Choose patches by class attention [N] in the shallow and in the selected layer."""
    if side % WINDOWS:
        raise ValueError(f"a grid of {side} patches per side has no {WINDOWS} x {WINDOWS} windows")
    size = side // WINDOWS
    windows: list[list[int]] = [[] for _ in range(WINDOWS**2)]
    for i in range(side**2):
        row, column = divmod(i, side)
        windows[row // size * WINDOWS + column // size].append(i)
    each = local_count(keep) // len(windows)
    picked = [i for window in windows for i in sorted(window, key=lambda i: (-local[i], i))[:each]]
    # The release sets the attention of picked rows to zero, which picks one twice where another has zero too.
    others = [i for i in range(side**2) if i not in picked]
    picked += sorted(others, key=lambda i: (-deep[i], i))[: keep - len(picked)]
    return np.asarray(sorted(picked), dtype=np.int64)


def merge(x: Array, kept: Indices) -> tuple[Array, list[int]]:
    """Average every row not kept into the kept row of highest cosine; give the rows and how many joined each."""
    unit = x / np.sqrt((x**2).sum(axis=-1, keepdims=True))
    total, members = [x[k] for k in kept], [0] * len(kept)
    for i in range(len(x)):
        if i not in kept:
            cosine = [float(unit[i] @ unit[k]) for k in kept]
            target = cosine.index(max(cosine))
            total[target] = total[target] + x[i]
            members[target] += 1
    return np.stack([t / (1 + m) for t, m in zip(total, members, strict=True)]), members


def projected(tower: Tower, visual: Array, question: Array, stage: Stage) -> Pruned:
    """Select and merge the projected rows; the question plays no part."""
    side, across = tower.grid
    if side != across:
        raise ValueError("the reference knows only square grids")
    attention = [tower.scores(layer).mean(axis=0) for layer in range(len(tower.cls_attention))]
    kept = select(attention[local_layer(len(attention) - 1)], attention[-1], side, stage.keep)
    return Pruned(merge(visual, kept)[0], kept)


def cut(prompt: Prompt, stage: Stage) -> Pruned:
    """Keep the visual rows that the last row would attend to most in the layer after the cut."""
    query, key = layer_queries_keys(prompt.w, prompt.layer, prompt.hidden, prompt.positions)
    attention = causal_attention(query[:, -1:], key).mean(axis=0)[0]
    scores = attention[prompt.places]
    kept = np.sort(np.argsort(-scores, kind="stable")[: stage.keep])
    return Pruned(prompt.hidden[prompt.places[kept]], kept)
