"""VScan (arXiv 2505.22654) in plain numpy: what its release computes.

After the projector half of the rows are those of highest class attention per window in a shallow encoder layer,
the others those of highest class attention in the selected one; the rest is averaged into them. In the middle of
the decoder the rows that the last prompt row attends to most are kept.

For Qwen2.5-VL, whose pictures have any size: the attention received, in the first layer that sees whole pictures and in
the last; a walk over all visual tokens that passes over full windows; in the decoder queries and keys without rotation.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def window_of(row: int, column: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Give the window of a place: of four per side, the last of which has what remains."""
    sizes = [max(side // WINDOWS, 1) for side in grid]
    last = [min(side, WINDOWS) - 1 for side in grid]
    return min(row // sizes[0], last[0]), min(column // sizes[1], last[1])


def walk(local: Array, deep: Array, grids: Sequence[tuple[int, int]], keep: int) -> Indices:
    """Choose visual tokens of pictures one behind the other by what they receive [N] in an early and in the last layer.

    Half are taken from the best down, as long as their window has not had its share, rounded up; then the others.
    """
    homes = [
        (number, *window_of(row, column, grid))
        for number, grid in enumerate(grids)
        for row in range(grid[0])
        for column in range(grid[1])
    ]
    taken = dict.fromkeys(homes, 0)
    half = keep // 2
    share = -(-half // len(taken))
    picked: list[int] = []
    for i in sorted(range(len(homes)), key=lambda i: (-local[i], i)):
        if len(picked) < half and taken[homes[i]] < share:
            taken[homes[i]] += 1
            picked.append(i)
    for i in sorted(range(len(homes)), key=lambda i: (-deep[i], i)):
        if len(picked) < keep and i not in picked:
            picked.append(i)
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
    if tower.grids:
        early, last = (tower.scores(layer).sum(axis=0) for layer in (0, -1))
        kept = walk(early, last, tower.grids, stage.keep)
        return Pruned(merge(visual, kept)[0], kept)
    side, across = tower.grid
    if side != across:
        raise ValueError("the reference knows only square grids")
    attention = [tower.scores(layer).mean(axis=0) for layer in range(len(tower.cls_attention))]
    kept = select(attention[local_layer(len(attention) - 1)], attention[-1], side, stage.keep)
    return Pruned(merge(visual, kept)[0], kept)


def cut(prompt: Prompt, stage: Stage) -> Pruned:
    """Keep the visual rows that the last row would attend to most in the layer after the cut."""
    plain = prompt.positions.ndim > 1  # of three axes, and what stands at 0 is not turned
    at = np.zeros_like(prompt.positions) if plain else prompt.positions
    query, key = layer_queries_keys(prompt.w, prompt.layer, prompt.hidden, at)
    attention = causal_attention(query[:, -1:], key).mean(axis=0)[0]
    scores = attention[prompt.places]
    kept = np.sort(np.argsort(-scores, kind="stable")[: stage.keep])
    return Pruned(prompt.hidden[prompt.places[kept]], kept)
