"""From a picture to its tiles, pixel for pixel as Hugging Face's Pillow processors cut it.

Knows nothing about tensors: pictures go in and come out. The rules are those of Transformers'
``LlavaNextImageProcessorPil`` and ``LlavaOnevisionImageProcessorPil`` ("best_fit"), and of InternVL's
``GotOcr2ImageProcessorPil`` ("closest_ratio").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from PIL import Image

from edgeprune.bundle.image import ImageProcessing, Tiles
from edgeprune.errors import ImageError


@dataclass(frozen=True, eq=False)
class Cut:
    """A picture cut into runs.

    Attributes:
        runs: pictures in mode RGB of the processing's size, in the order the encoder takes them.
        grid: (rows, columns) of tiles; None where there are no tiles.
        overview: place among ``runs`` of the whole picture beside its tiles; None where there are no others.
    """

    runs: tuple[Image.Image, ...]
    grid: tuple[int, int] | None
    overview: int | None


def cut(image: Image.Image, processing: ImageProcessing, alone: bool = True) -> Cut:
    """Cut a picture into tiles, and add the overview where there is one.

    Args:
        image: what ``load_image`` returns.
        processing: of kind "tiles".
        alone: whether it is the only picture of its prompt.

    Raises:
        ImageError: the picture is so long and thin that it cannot be made square.
    """
    tiles = processing.tiles
    assert tiles is not None  # the caller looked at the kind
    height, width = processing.size
    resample = Image.Resampling(processing.resample)
    if not alone and tiles.several == "square":
        square = _square(image, processing.mean).resize((width, height), resample)
        return Cut((square,), None, None)
    grid = choose_grid(tiles, processing.size, (image.height, image.width))
    rows, columns = grid
    mosaic = _fill(tiles, image, (rows * height, columns * width), resample)
    corners = [(row * height, column * width) for row in range(rows) for column in range(columns)]
    runs = tuple(mosaic.crop((left, top, left + width, top + height)) for top, left in corners)
    if tiles.runs(grid) == len(runs):
        return Cut(runs, grid, None)
    whole = image.resize((width, height), resample)
    if tiles.choice == "best_fit":
        return Cut((whole, *runs), grid, 0)
    return Cut((*runs, whole), grid, len(runs))


def choose_grid(tiles: Tiles, tile: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """The grid (rows, columns) for a picture.

    Args:
        tiles: the rule, and what there is to choose from.
        tile: (height, width) in pixels of a tile.
        size: (height, width) in pixels of the picture.
    """
    if tiles.choice == "best_fit":
        return _best_fit(tiles.grids, tile, size)
    return _closest_ratio(tiles.grids, tile, size)


def _best_fit(grids: Sequence[tuple[int, int]], tile: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """``select_best_resolution``: most pixels kept, then fewest wasted, then the first."""
    height, width = size
    best, most, fewest = grids[0], 0, float("inf")
    for rows, columns in grids:
        high, wide = rows * tile[0], columns * tile[1]
        scale = min(wide / width, high / height)
        kept = min(int(width * scale) * int(height * scale), width * height)  # none of one that is long and thin
        wasted = wide * high - kept
        if kept > most or (kept == most and wasted < fewest):
            best, most, fewest = (rows, columns), kept, wasted
    return best


def _closest_ratio(grids: Sequence[tuple[int, int]], tile: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """``get_optimal_tiled_canvas``: closest aspect ratio; a later one as close wins for a large picture."""
    height, width = size
    best, least = grids[0], float("inf")
    for rows, columns in grids:
        distance = abs(width / height - columns / rows)
        small = width * height > 0.5 * tile[0] * tile[1] * columns * rows  # the grid, beside the picture
        if distance < least or (distance == least and small):
            best, least = (rows, columns), distance
    return best


def _fill(tiles: Tiles, image: Image.Image, canvas: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """The picture over (height, width) pixels: stretched, or as large as fits, in the middle of black."""
    height, width = canvas
    if tiles.choice == "closest_ratio":
        return image.resize((width, height), resample)
    across, down = width / image.width, height / image.height
    if across < down:
        fitted = width, min(ceil(image.height * across), height)
    else:
        fitted = min(ceil(image.width * down), width), height
    padded = Image.new("RGB", (width, height))
    padded.paste(image.resize(fitted, resample), ((width - fitted[0]) // 2, (height - fitted[1]) // 2))
    return padded


def _square(image: Image.Image, mean: tuple[float, float, float]) -> Image.Image:
    """The picture in the middle of a square of the mean colour."""
    side, limit = max(image.size), Image.MAX_IMAGE_PIXELS
    if limit is not None and side * side > limit:
        raise ImageError(
            f"the picture is {image.width}x{image.height} pixels and would be padded to {side}x{side}, "
            f"more than {limit} pixels: crop it to a less extreme shape first"
        )
    red, green, blue = (int(value * 255) for value in mean)
    square = Image.new("RGB", (side, side), (red, green, blue))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
