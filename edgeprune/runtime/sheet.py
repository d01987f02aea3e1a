"""What a model sees of a prompt's pictures or video, and where in it every visual token lies.

A picture in tiles is its mosaic, padding included, beside the overview; a video is a sheet of its frames. Knows
nothing about stages or colours: ``overlay`` draws over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeprune.bundle.image import ImageProcessing
from edgeprune.bundle.sizes import Vision
from edgeprune.errors import UsageError
from edgeprune.runtime.native import prepare_native, prepare_native_video
from edgeprune.runtime.pixels import Opened, open_sources
from edgeprune.runtime.preprocess import Source, fit
from edgeprune.runtime.tiles import Cut, cut

_WIDE = 1.5  # width over height that several pictures or frames are arranged to about
_LEAST_PATCH = 4  # pixels, however much a sheet is made smaller


@dataclass(frozen=True, eq=False)
class Block:
    """A part of what the model sees, cut into patches from its upper left corner.

    Attributes:
        view: a picture in mode RGB; what is left right of and below the patches belongs to none.
        numbers: [rows, columns] int64, the visual token of every patch, as in ``Rows.origin``.
        patch: (height, width) of one in the view's pixels.
    """

    view: Image.Image
    numbers: NDArray[np.int64]
    patch: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Sheet:
    """All blocks of a prompt.

    Attributes:
        groups: one per picture or frame, of one block, or of a mosaic and its overview.
        opened: what was opened, in words: "640 x 480".
        seen: what the model makes of it, in words: "24 x 24 patches".
        names: of the groups, where they are several pictures: "picture 1"; else empty.
    """

    groups: tuple[tuple[Block, ...], ...]
    opened: str
    seen: str
    names: tuple[str, ...] = ()

    @property
    def blocks(self) -> tuple[Block, ...]:
        """In the order of their groups."""
        return tuple(block for group in self.groups for block in group)

    @property
    def tokens(self) -> int:
        """Visual tokens that have a place."""
        return sum(block.numbers.size for block in self.blocks)

    def arranged(self, gap: int, head: int = 0) -> tuple[tuple[int, int], list[tuple[int, int]]]:
        """Where the blocks go: (width, height) of all, and (left, top) per block.

        ``gap`` pixels lie between two, and ``head`` above every group.
        """
        sizes = [_side_by_side(group, gap) for group in self.groups]
        wide, high = (max(edges) for edges in zip(*(size for size, _ in sizes), strict=True))
        high += head
        count = len(sizes)
        columns = min(count, ceil(sqrt(count * _WIDE * high / wide)))
        columns = ceil(count / ceil(count / columns))  # as few as make as many rows
        corners = []
        for number, (_, inside) in enumerate(sizes):
            left, top = number % columns * (wide + gap), number // columns * (high + gap)
            corners += [(left + x, top + head + y) for x, y in inside]
        rows = ceil(count / columns)
        return (columns * (wide + gap) - gap, rows * (high + gap) - gap), corners

    def scaled(self, least: int, most: int) -> Sheet:
        """The same with a shorter edge of ``least`` pixels or more, but a longer one of about ``most`` at most.

        It becomes larger by whole factors; it becomes smaller only as far as patches stay visible.
        """
        size, _ = self.arranged(0)
        factor: float = max(1, ceil(least / min(size)))
        if factor * max(size) > most:
            factor = max(1, most // max(size))
        patch = min(edge for block in self.blocks for edge in block.patch)
        if max(size) > most:
            factor = max(min(_LEAST_PATCH, patch), patch * most // max(size)) / patch
        groups = tuple(tuple(_resized(block, factor) for block in group) for group in self.groups)
        return Sheet(groups, self.opened, self.seen, self.names)


def make_sheet(sources: Sequence[Source | Sequence[Source]], processing: ImageProcessing, vision: Vision) -> Sheet:
    """Open the pictures or the video of one prompt, and cut them as the model does.

    Raises:
        UsageError: the grid of patches is finer than the pixels.
        UsageError, ImageError, MissingExtra: as ``prepare``.
    """
    opened = open_sources(sources, processing)
    if processing.native is not None:
        groups, seen = _native(opened, processing)
    elif processing.tiles is not None:
        cuts = [cut(picture, processing, len(opened.pictures) == 1) for picture in opened.pictures]
        groups, seen = _tiles(cuts, vision), _tiles_in_words(cuts, vision)
    else:
        groups = [(_block(fit(picture, processing), _run(vision, run)),) for run, picture in enumerate(opened.pictures)]
        seen = _patches(groups[0][0].numbers.shape)
    several = opened.total is None and len(groups) > 1
    names = tuple(f"picture {number}" for number in range(1, len(groups) + 1)) if several else ()
    seen = f"{seen} each" if len(groups) > 1 and "tiles" not in seen else seen
    return Sheet(tuple(groups), _in_words(opened), seen, names)


def _tiles(cuts: Sequence[Cut], vision: Vision) -> list[tuple[Block, ...]]:
    groups, first = [], 0
    for one in cuts:
        blocks = [_block(run, _run(vision, first + number)) for number, run in enumerate(one.runs)]
        if one.grid is None:
            groups.append(tuple(blocks))
        else:
            tiles = [block for number, block in enumerate(blocks) if number != one.overview]
            overview = [] if one.overview is None else [blocks[one.overview]]
            groups.append((_mosaic(tiles, one.grid[1]), *overview))
        first += len(blocks)
    return groups


def _mosaic(tiles: Sequence[Block], across: int) -> Block:
    """Tiles put together, without the margins of each that belong to no patch."""
    (rows, columns), (height, width) = tiles[0].numbers.shape, tiles[0].patch
    views = [np.asarray(tile.view)[: rows * height, : columns * width] for tile in tiles]
    lines = [slice(start, start + across) for start in range(0, len(tiles), across)]
    view = np.concatenate([np.concatenate(views[line], axis=1) for line in lines])
    numbers = np.concatenate([np.concatenate([tile.numbers for tile in tiles[line]], axis=1) for line in lines])
    return Block(Image.fromarray(view), numbers, tiles[0].patch)


def _native(opened: Opened, processing: ImageProcessing) -> tuple[list[tuple[Block, ...]], str]:
    """A picture as it is resized; of a video the first of every pair of frames."""
    native, pictures = processing.native, opened.pictures
    assert native is not None  # the caller looked
    if opened.total is None:
        _, grids = prepare_native(pictures, processing)
        shown = list(zip(pictures, grids, strict=True))
    else:
        _, ((pairs, rows, columns),) = prepare_native_video(pictures, processing)
        shown = [(pictures[pair * native.temporal], (1, rows, columns)) for pair in range(pairs)]
    groups: list[tuple[Block, ...]] = []
    first = 0
    for picture, (_, rows, columns) in shown:
        size = columns * native.factor, rows * native.factor
        view = picture.resize(size, Image.Resampling(processing.resample))
        numbers = np.arange(first, first + rows * columns).reshape(rows, columns)
        groups.append((_block(view, numbers),))
        first += rows * columns
    return groups, _patches(groups[0][0].numbers.shape)


def _run(vision: Vision, number: int) -> NDArray[np.int64]:
    assert vision.grid is not None  # only pictures of native resolution have none
    return number * vision.tokens + np.arange(vision.cells).reshape(vision.grid)


def _block(view: Image.Image, numbers: NDArray[np.int64]) -> Block:
    rows, columns = numbers.shape
    if rows > view.height or columns > view.width:
        raise UsageError(f"a grid of {rows} x {columns} patches does not fit {view.height} x {view.width} pixels")
    return Block(view, numbers, (view.height // numbers.shape[0], view.width // numbers.shape[1]))


def _resized(block: Block, factor: float) -> Block:
    if factor == 1:
        return block
    size = round(block.view.width * factor), round(block.view.height * factor)
    patch = round(block.patch[0] * factor), round(block.patch[1] * factor)
    rows, columns = block.numbers.shape
    size = max(size[0], columns * patch[1]), max(size[1], rows * patch[0])
    return Block(block.view.resize(size, Image.Resampling.BICUBIC), block.numbers, patch)


def _side_by_side(group: Sequence[Block], gap: int) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """A mosaic and its overview: beside it, or below where it is wide; as ``Sheet.arranged``."""
    width, height = group[0].view.size
    corners = [(0, 0)]
    for block in group[1:]:
        if width > height:
            corners.append((0, height + gap))
            height += gap + block.view.height
        else:
            corners.append((width + gap, 0))
            width += gap + block.view.width
    return (width, height), corners


def _in_words(opened: Opened) -> str:
    first = f"{opened.pictures[0].width} x {opened.pictures[0].height}"
    if opened.total is not None:
        return f"{len(opened.pictures)} of {opened.total} frames of {first}"
    return first if len(opened.pictures) == 1 else f"{len(opened.pictures)} pictures"


def _tiles_in_words(cuts: Sequence[Cut], vision: Vision) -> str:
    assert vision.grid is not None  # tiles have one
    each = _patches(vision.grid)
    if len(cuts) > 1 or cuts[0].grid is None:
        return f"{sum(len(one.runs) for one in cuts)} tiles of {each}"
    rows, columns = cuts[0].grid
    whole = "" if cuts[0].overview is None else " and the whole"
    return f"{columns} x {rows} tiles{whole}, {each} each"


def _patches(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} patches"
