"""Which of an encoder's rows enter the language model, and in which order.

It computes numbers of rows and moves none. Without pruning a picture's rows lie as Hugging Face's models pack them;
rows that a cut before the decoder left lie run by run, or in VisionZip's order.

Letters: N rows a run gives, K rows left of them, V rows of a picture, J rows that one is blended from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.bundle.extent import shrunk
from edgeprune.bundle.layout import Layout
from edgeprune.bundle.sizes import Vision
from edgeprune.runtime.pixels import Picture

CLASS_ROW = -1
"""In ``Rows.origin``: the encoder's class row, which has no place in the picture."""

NO_PLACE = -2
"""In ``Rows.origin``: the newline row."""

_NEWLINE = -1  # in Rows.source

_Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Rows:
    """The visual rows of one picture.

    Attributes:
        source: [V, J] int64, rows r * K + k of the prompt's runs r, all its pictures counted; -1 is the newline row.
        weight: [V, J] float32, how much each counts; None where J is 1.
        origin: [V] int64, run * N + patch; ``CLASS_ROW``, ``NO_PLACE``. A blended row counts as the patch that has most
            part in it. Of native resolution the number of the visual token, all pictures counted.
    """

    source: _Numbers
    weight: NDArray[np.float32] | None
    origin: _Numbers


def whole(layout: Layout, vision: Vision, pictures: Sequence[Picture]) -> list[Rows]:
    """All rows of every picture, as the model packs them.

    "rows": as they are. "mosaic": ``pack_image_features`` of ``LlavaNextModel`` and ``LlavaOnevisionModel``.
    "pooled": ``apply_pooling`` of the latter, and one newline row.
    """
    packed, first = [], 0
    for picture in pictures:
        if picture.grid is not None:
            count = _tokens(picture)
            own = np.arange(first, first + count)
            packed.append(_gather(own, own))
            first += count
        else:
            runs = [_run(vision, first + run) for run in range(picture.runs)]
            packed.append(_pack(layout, vision, picture, runs))
            first += picture.runs
    return packed


def pruned(order: str, vision: Vision, pictures: Sequence[Picture], kept: NDArray[np.int64], merged: int) -> list[Rows]:
    """The rows that a cut before the decoder left of every picture, without newlines; padding's go in if kept.

    Args:
        order: "runs": run by run. "mosaic": VisionZip's (its ``llava_arch.py``): the overview's rows, the tiles' plain
            rows line by line across all tiles, their class rows tile by tile, their merged rows tile by tile. An
            overview that is the last run stays behind its tiles, and runs that are no tiles lie run by run.
        vision: of the bundle.
        pictures: of the prompt.
        kept: [runs, K] int64, the patch of every row within its run, -1 the class row; merged rows last, with the patch
            of their reference. Of native resolution [1, K] numbers of visual tokens: a row goes to the picture that
            its token lies in.
        merged: how many of the K are merged ones.
    """
    rows = np.arange(kept.size).reshape(kept.shape)
    if any(picture.grid for picture in pictures):
        ends = np.cumsum([_tokens(picture) for picture in pictures])
        owner = np.searchsorted(ends, kept[0], side="right")
        return [_gather(rows[0][owner == number], kept[0][owner == number]) for number in range(len(pictures))]
    packed, first = [], 0
    for picture in pictures:
        own = slice(first, first + picture.runs)
        origin = np.where(kept[own] < 0, CLASS_ROW, kept[own] + np.arange(first, own.stop)[:, None] * vision.tokens)
        if order == "mosaic" and picture.tiles is not None and picture.overview is not None:
            take = _mosaic_order(vision, picture, kept[own], merged)
        else:
            take = np.arange(origin.size)
        packed.append(_gather(rows[own].reshape(-1)[take], origin.reshape(-1)[take]))
        first = own.stop
    return packed


def by_origin(values: NDArray[Any], vision: Vision) -> NDArray[Any]:
    """What an encoder gives for every row or patch of its runs, in an array that an origin is an index of.

    Args:
        values: [C, n, ...] of one prompt, n rows with or without the class row.
        vision: of the bundle.

    Returns:
        [C * N, ...]; zeros where no patch has that number.
    """
    if vision.grid is None:
        return values.reshape(-1, *values.shape[2:])
    placed = np.zeros((values.shape[0], vision.tokens, *values.shape[2:]), values.dtype)
    placed[:, : vision.cells] = values[:, values.shape[1] - vision.cells :]
    return placed.reshape(-1, *values.shape[2:])


@dataclass(frozen=True, eq=False)
class _Run:
    """All rows of one run: numbers [N] and where they come from [N]; ``lines`` [rows, columns] are the patches'."""

    rows: _Numbers
    origin: _Numbers
    lines: _Numbers


def _run(vision: Vision, number: int) -> _Run:
    assert vision.grid is not None  # pictures without one have a grid of their own
    rows = number * vision.tokens + np.arange(vision.tokens)
    inside = vision.tokens - vision.cells  # class rows among them, before the patches
    origin = np.concatenate([np.full(inside, CLASS_ROW), rows[: vision.cells]])
    return _Run(rows, origin, rows[inside:].reshape(vision.grid))


def _pack(layout: Layout, vision: Vision, picture: Picture, runs: Sequence[_Run]) -> Rows:
    inside = vision.tokens - vision.cells
    if layout.kind == "pooled":
        parts = [_shrink(run.lines, ceil(run.lines.shape[0] / 2), ceil(run.lines.shape[1] / 2), inside) for run in runs]
        return _join([*parts, _newline(layout)])
    if layout.kind == "rows" or picture.tiles is None:
        plain = [_gather(run.rows, run.origin) for run in runs]
        return _join([*plain, _newline(layout)])
    overview, tiles = runs[0], runs[1:]
    down, across = picture.tiles
    lines = np.concatenate(
        [np.concatenate([run.lines for run in tiles[row * across : (row + 1) * across]], axis=1) for row in range(down)]
    )
    lines = _unpad(lines, picture.size)
    down, across = lines.shape
    size = shrunk(down, across, runs[0].lines.shape[0], layout.limit)
    height, width = size or lines.shape
    flat = lines.reshape(-1)
    mosaic = _shrink(lines, height, width, inside) if size else _gather(flat, flat - inside)
    if layout.newline:
        mosaic = _end_lines(mosaic, height, width)
    return _join([_gather(overview.rows, overview.origin), mosaic])


def _unpad(lines: _Numbers, size: tuple[int, int]) -> _Numbers:
    """``unpad_image``: without the lines or columns that show padding alone; those that show a little of it stay."""
    height, width = size
    rows, columns = lines.shape
    if width / height > columns / rows:
        shown = int(round(height * (columns / width), 7))
        padding = (rows - shown) // 2
        return lines[padding : rows - padding]
    shown = int(round(width * (rows / height), 7))
    padding = (columns - shown) // 2
    return lines[:, padding : columns - padding]


def _shrink(lines: _Numbers, height: int, width: int, inside: int) -> Rows:
    """Bilinear, as ``torch.nn.functional.interpolate`` without aligned corners and without antialiasing.

    ``inside`` is how many class rows a run has, which origins do not count.
    """
    (top, bottom, down), (left, right, along) = _taps(lines.shape[0], height), _taps(lines.shape[1], width)
    source = np.stack([lines[np.ix_(rows, columns)] for rows in (top, bottom) for columns in (left, right)], axis=-1)
    weight = np.stack([np.outer(one, two) for one in (1 - down, down) for two in (1 - along, along)], axis=-1)
    source, weight = source.reshape(-1, 4), weight.reshape(-1, 4)
    nearest = np.take_along_axis(source, weight.argmax(axis=1)[:, None], axis=1)[:, 0]
    return Rows(source, weight, nearest - inside)


def _taps(have: int, want: int) -> tuple[_Numbers, _Numbers, NDArray[np.float32]]:
    """Along one edge: the place before every new one, that behind it, and how much the latter counts.

    Rounded to fp32 where torch's kernels round, which fuse the multiplication and the subtraction.
    """
    scale = float(np.float32(have) / np.float32(want))
    place = np.maximum((scale * (np.arange(want) + 0.5) - 0.5).astype(np.float32), np.float32(0))
    before = np.minimum(place.astype(np.int64), have - 1)
    return before, np.minimum(before + 1, have - 1), (place - before).astype(np.float32)


def _end_lines(mosaic: Rows, height: int, width: int) -> Rows:
    """The newline row behind every line."""
    end = _gather(np.full(height, _NEWLINE), np.full(height, NO_PLACE))
    both = _join([mosaic, end])
    lines = np.arange(height * width).reshape(height, width)
    take = np.concatenate([lines, height * width + np.arange(height)[:, None]], axis=1).reshape(-1)
    return Rows(both.source[take], None if both.weight is None else both.weight[take], both.origin[take])


def _mosaic_order(vision: Vision, picture: Picture, kept: NDArray[np.int64], merged: int) -> _Numbers:
    """VisionZip's order of the rows of a picture, as numbers of them run by run; ``kept`` [runs, K] are its own."""
    assert vision.grid is not None and picture.tiles is not None  # the caller looked
    rows, columns = vision.grid
    across = picture.tiles[1]
    numbers = np.arange(kept.size).reshape(kept.shape)
    tiles = np.delete(numbers, picture.overview, axis=0) if picture.overview is not None else numbers
    patch = kept.reshape(-1)[tiles]
    tile = np.arange(len(tiles))[:, None]
    plain = kept.shape[1] - merged
    line = tile // across * rows + patch // columns
    place = line * (columns * across) + tile % across * columns + patch % columns
    is_patch, is_class = patch[:, :plain] >= 0, patch[:, :plain] < 0
    raster = tiles[:, :plain][is_patch][np.argsort(place[:, :plain][is_patch], kind="stable")]
    order = [raster, tiles[:, :plain][is_class], tiles[:, plain:].reshape(-1)]
    if picture.overview is not None:
        order.insert(0 if picture.overview == 0 else len(order), numbers[picture.overview])
    return np.concatenate(order)


def _newline(layout: Layout) -> Rows:
    """The newline row alone, or no row where the model has none."""
    count = int(layout.newline)
    return _gather(np.full(count, _NEWLINE), np.full(count, NO_PLACE))


def _gather(rows: _Numbers, origin: _Numbers) -> Rows:
    return Rows(rows[:, None], None, origin)


def _join(parts: Sequence[Rows]) -> Rows:
    """Rows one behind the other, all with as many taps as the one that has most."""
    origin = np.concatenate([part.origin for part in parts])
    taps = max(part.source.shape[1] for part in parts)
    source = np.concatenate([np.broadcast_to(part.source, (len(part.source), taps)) for part in parts])
    if taps == 1:
        return Rows(source, None, origin)
    alone = np.eye(1, taps, dtype=np.float32)
    weights = [
        np.broadcast_to(alone, (len(part.source), taps)) if part.weight is None else part.weight for part in parts
    ]
    return Rows(source, np.concatenate(weights), origin)


def _tokens(picture: Picture) -> int:
    assert picture.grid is not None  # the caller looked
    frames, rows, columns = picture.grid
    return frames * rows * columns
