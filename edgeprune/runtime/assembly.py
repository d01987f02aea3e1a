"""The rows of a prompt in the order in which they enter the decoder: text, pictures, text.

It computes row numbers and positions and moves no row: the graph ``assemble`` gathers, from a table that holds the
text rows of all prompts, then the visual rows of all runs, then the model's newline row, where it has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeprune.bundle.manifest import Manifest
from edgeprune.runtime import mrope
from edgeprune.runtime.layout import Rows
from edgeprune.runtime.pixels import Pixels

Parts = Sequence[Sequence[int]]
"""Token ids around the pictures of a prompt, one more run of them than there are pictures."""


@dataclass(frozen=True)
class Assembly:
    """Prompts of the same text, and as many visual rows each.

    Attributes:
        order: [B, S] int64 numbers of rows of the table; [B, S, J] where a row is blended from up to J.
        weight: [B, S, J] float32, how much each counts; None where rows are gathered as they are.
        visual_rows: [B, V] int64, which of the S rows are visual, ascending.
        origin: [B, V] int64, where those come from, see ``Rows``.
        source: [B, V] int64, the number of each among the rows of its prompt's runs; -1 of the newline row.
    """

    order: NDArray[np.int64]
    weight: NDArray[np.float32] | None
    visual_rows: NDArray[np.int64]
    origin: NDArray[np.int64]
    source: NDArray[np.int64]

    def merged(self, count: int, rows: int) -> NDArray[np.bool_]:
        """Which visual rows [B, V] are merged ones, where they are the last ``count`` of every run's ``rows``."""
        return (self.source >= 0) & (self.source % rows >= rows - count)


def assemble(parts: Parts, placed: Sequence[Sequence[Rows]], rows: int, blends: bool) -> Assembly:
    """Lay out prompts.

    Args:
        parts: the text, the same for all.
        placed: per prompt and picture, its visual rows.
        rows: visual rows of all runs of all prompts, whether or not they enter.
        blends: whether the graph takes weights.
    """
    words, prompts = sum(map(len, parts)), len(placed)
    taps = max(found.source.shape[1] for pictures in placed for found in pictures)
    orders, weights, visual = [], [], []
    for number, pictures in enumerate(placed):
        order, weight, is_visual = [], [], []
        word, first = number * words, prompts * words + number * (rows // prompts)
        for part, found in zip(parts, (*pictures, None), strict=True):
            order.append(np.tile(np.arange(word, word + len(part))[:, None], taps))
            weight.append(np.tile(np.eye(1, taps, dtype=np.float32), (len(part), 1)))
            is_visual.append(np.zeros(len(part), bool))
            word += len(part)
            if found is not None:
                own = np.where(found.source < 0, prompts * words + rows, found.source + first)
                order.append(np.pad(own, ((0, 0), (0, taps - own.shape[1])), mode="edge"))
                shares = np.eye(1, own.shape[1], dtype=np.float32) if found.weight is None else found.weight
                shares = np.broadcast_to(shares, own.shape)
                weight.append(np.pad(shares, ((0, 0), (0, taps - own.shape[1]))))
                is_visual.append(np.ones(len(own), bool))
        orders.append(np.concatenate(order))
        weights.append(np.concatenate(weight))
        visual.append(np.flatnonzero(np.concatenate(is_visual)))
    return Assembly(
        order=np.stack(orders) if blends else np.stack(orders)[:, :, 0],
        weight=np.stack(weights) if blends else None,
        visual_rows=np.stack(visual),
        origin=np.stack([np.concatenate([found.origin for found in pictures]) for pictures in placed]),
        source=np.stack([np.concatenate([found.source[:, 0] for found in pictures]) for pictures in placed]),
    )


def positions(facts: Manifest, laid: Assembly, parts: Parts, pixels: Pixels | None) -> tuple[NDArray[np.int64], int]:
    """Position ids of a prompt's rows before any cut in the decoder.

    Args:
        facts: of the bundle.
        laid: the prompts.
        parts: their text.
        pixels: their pictures; None counts all rows alike.

    Returns:
        [B, S], or [3, B, S] where positions have three axes; and that of what follows the prompt.
    """
    prompts, rows = laid.order.shape[:2]
    if facts.decoder.axes == 1:
        return np.tile(np.arange(rows), (prompts, 1)), rows
    if pixels is None:
        return np.tile(np.arange(rows), (mrope.AXES, prompts, 1)), rows
    grids = [picture.grid for picture in pixels.pictures if picture.grid is not None]
    native, interval = facts.image.native, 1.0
    if native is not None and native.video is not None:
        interval = mrope.time_interval(native.video.tokens_per_second, pixels.pictures[0].seconds)
    counted = mrope.positions([len(part) for part in parts], grids, interval)
    return place(laid, counted.text, counted.visual), counted.end


def place(laid: Assembly, text: NDArray[np.int64], visual: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position ids [A, B, S] of A axes, where every row keeps the position of the unpruned prompt.

    Args:
        laid: the prompts.
        text: [A, t] positions of the text's tokens.
        visual: [A, N] positions of the visual tokens, by the number that ``origin`` gives.
    """
    prompts, rows = laid.order.shape[:2]
    ids = np.empty((text.shape[0], prompts, rows), np.int64)
    for number, places in enumerate(laid.visual_rows):
        is_text = np.ones(rows, bool)
        is_text[places] = False
        ids[:, number, is_text] = text
        ids[:, number, places] = visual[:, laid.origin[number]]
    return ids
