"""Positions of three axes (time, row, column) for text and visual tokens: M-RoPE, as Qwen2.5-VL counts them.

The numbers are those of ``Qwen2_5_VLModel.get_rope_index`` in Transformers. Text and visual tokens come apart, so that
a prompt whose visual tokens were pruned gathers what it kept: no position is ever counted anew. Knows nothing about
pixels or rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AXES = 3

Grid = tuple[int, int, int]
"""Visual tokens of a picture or video: frame pairs (1 of a picture), rows, columns."""


@dataclass(frozen=True, eq=False)
class Positions:
    """Where the tokens of an unpruned prompt stand.

    Attributes:
        text: [3, t] int64, of all text tokens.
        visual: [3, N] int64, of the visual tokens of all pictures.
        end: the position of the first token behind the prompt, on every axis.
    """

    text: NDArray[np.int64]
    visual: NDArray[np.int64]
    end: int


def positions(parts: Sequence[int], grids: Sequence[Grid], interval: float = 1.0) -> Positions:
    """Count a prompt's positions.

    A text token is one further than the token before it, on all axes. The visual tokens of a picture start there and
    spread by their rows and columns; what follows starts behind the longer of the two edges, even where the time
    of a video has come further.

    Args:
        parts: how many text tokens stand before, between and behind the pictures: one more than there are pictures.
        grids: of the pictures, or of the one video.
        interval: time positions from one frame pair to the next; see ``time_interval``.

    Raises:
        ValueError: the parts do not surround the pictures, or there is no token at all.
    """
    if len(parts) != len(grids) + 1:
        raise ValueError(f"{len(parts)} parts of text around {len(grids)} pictures; expected {len(grids) + 1}")
    if not any(parts) and not grids:
        raise ValueError("a prompt without tokens has no positions")
    text, visual, at = [], [], 0
    for length, grid in zip(parts, (*grids, None), strict=True):
        text.append(np.arange(at, at + length))
        at += length
        if grid is not None:
            visual.append(_spread(grid, interval) + at)
            at += max(grid[1:])
    words = np.tile(np.concatenate(text), (AXES, 1))
    seen = np.concatenate(visual, axis=1) if visual else np.empty((AXES, 0), np.int64)
    return Positions(words, seen, int(max(words.max(initial=-1), seen.max(initial=-1))) + 1)


def time_interval(tokens_per_second: float, seconds: float) -> float:
    """Time positions from one frame pair of a video to the next.

    Args:
        tokens_per_second: time positions of a second, from the checkpoint.
        seconds: from one frame pair to the next.
    """
    return float(np.float32(tokens_per_second) * np.float32(seconds))


def _spread(grid: Grid, interval: float) -> NDArray[np.int64]:
    """[3, tokens] from 0; times are rounded down from single precision, as Transformers does."""
    frames, rows, columns = grid
    time = (np.arange(frames, dtype=np.float32) * np.float32(interval)).astype(np.int64)
    axes = np.meshgrid(time, np.arange(rows), np.arange(columns), indexing="ij")
    return np.stack(axes).reshape(AXES, -1)
