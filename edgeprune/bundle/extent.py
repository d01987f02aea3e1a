"""How many visual tokens a picture or a video can have at most, from what a bundle or a recipe says of the model."""

from __future__ import annotations

from math import ceil, sqrt

from edgeprune.bundle.image import ImageProcessing
from edgeprune.bundle.layout import Layout
from edgeprune.bundle.native import Native
from edgeprune.bundle.sizes import Vision

SHRINKS_ABOVE = 1.1
"""Times the side that the limit of a mosaic means: what is larger is shrunk (LLaVA-OneVision)."""


def most_tokens(vision: Vision, image: ImageProcessing, layout: Layout) -> int:
    """Rows that the largest picture, or a video, gives the decoder without pruning; newline rows count."""
    if vision.grid is None:
        assert image.native is not None  # the manifest checked that they come together
        return _native(image.native)
    rows, columns = vision.grid
    if layout.kind == "pooled":
        return image.most_runs * ceil(rows / 2) * ceil(columns / 2) + layout.newline
    if layout.kind == "rows" or image.tiles is None:
        return image.most_runs * vision.tokens
    return max(
        vision.tokens + _mosaic(down * rows, across * columns, vision, layout) for down, across in image.tiles.grids
    )


def shrunk(lines: int, columns: int, side: int, limit: int | None) -> tuple[int, int] | None:
    """The size that a mosaic is shrunk to; None where it is not.

    Args:
        lines, columns: of the mosaic, in visual tokens.
        side: of a tile, in visual tokens.
        limit: of the layout, in tiles.
    """
    if limit is None:
        return None
    ratio = sqrt(lines * columns / (limit * side**2))
    return (int(lines // ratio), int(columns // ratio)) if ratio > SHRINKS_ABOVE else None


def _native(native: Native) -> int:
    """Visual tokens of the largest picture, or of the video whose frame pairs have most of them together."""
    if native.video is None:
        return native.most_tokens
    pairs = ceil(native.video.most / native.temporal)
    if native.video.budget is None:
        return pairs * native.most_tokens
    shared, least = int(native.video.budget * 0.9), int(native.min_pixels * 1.05) // native.factor**2
    return max(count * max(min(native.most_tokens, shared // count), least) for count in range(1, pairs + 1))


def _mosaic(lines: int, columns: int, vision: Vision, layout: Layout) -> int:
    """Rows of a mosaic that has no padding."""
    assert vision.grid is not None  # the caller looked
    lines, columns = shrunk(lines, columns, vision.grid[0], layout.limit) or (lines, columns)
    return lines * (columns + layout.newline)
