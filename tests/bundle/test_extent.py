"""The most visual tokens that a picture or a video has: by hand, and as the rows that are really laid out."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from edgeprune.bundle.extent import most_tokens, shrunk
from edgeprune.bundle.image import Frames, ImageProcessing, Tiles
from edgeprune.bundle.layout import Layout
from edgeprune.bundle.native import Native, Sampling
from edgeprune.bundle.sizes import Vision
from edgeprune.runtime.layout import whole
from edgeprune.runtime.pixels import Picture

FIXED = ImageProcessing("fixed", None, (336, 336), None, 3, 1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NEXT_SIZES = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))  # LLaVA-NeXT's pinpoints, height first
NEXT = Tiles("best_fit", tuple((height // 336, width // 336) for height, width in NEXT_SIZES))
ONEVISION = Tiles("best_fit", tuple(product(range(1, 7), range(1, 7))), "square")
INTERN = Tiles("closest_ratio", tuple(grid for grid in product(range(1, 13), range(1, 13)) if grid[0] * grid[1] <= 12))
NATIVE = Native(patch=14, merge=2, temporal=2, window=112, min_pixels=56 * 56, max_pixels=12845056)


def encoder(side: int, class_row: str = "none", merge: int = 1) -> Vision:
    return Vision((side, side), 16, 1, 1, 4, 14, class_row, merge)  # type: ignore[arg-type]


def tiled(tiles: Tiles) -> ImageProcessing:
    return replace(FIXED, kind="tiles", tiles=tiles)


CASES = {
    # 24 x 24 patches, the class row apart
    "llava-1.5": (encoder(24, "apart"), FIXED, Layout(), 576),
    # The overview and four tiles are 2880 rows; 48 lines end with a newline row. Three tiles in a row give fewer: 2304
    # rows and 24 ends; three on top of each other 2304 and 72.
    "llava-next": (encoder(24, "apart"), tiled(NEXT), Layout("mosaic", newline=True), 2928),
    # No mosaic of more than 9 tiles stays as it is: 6 x 6 tiles of 27 x 27 are 162 x 162, twice 81 x 81, where they
    # become 81 x 81. Of 2 x 5, 54 x 135, no more than a tenth is over on a side, and it stays: 7290 rows and 54 ends.
    "onevision": (encoder(27), tiled(ONEVISION), Layout("mosaic", newline=True, limit=9), 729 + 7290 + 135),
    # 32 frames of 27 x 27, each pooled to 14 x 14, and one newline row
    "onevision-video": (
        encoder(27),
        replace(FIXED, kind="frames", frames=Frames(32)),
        Layout("pooled", newline=True),
        32 * 196 + 1,
    ),
    # 8 frames of 16 x 16, each with its class row
    "video-llava": (encoder(16, "inside"), replace(FIXED, kind="frames", frames=Frames(8)), Layout(), 8 * 257),
    # 12 tiles and the overview, 16 x 16 tokens of 2 x 2 patches each
    "internvl": (encoder(16, merge=2), tiled(INTERN), Layout(), 13 * 256),
    # 16384 tokens of 28 x 28 pixels
    "qwen2.5-vl": (
        replace(encoder(8, merge=2), grid=None),
        replace(FIXED, kind="native", resize_exact=None, native=NATIVE),
        Layout(),
        16384,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_largest_by_hand(name: str) -> None:
    vision, image, layout, tokens = CASES[name]
    assert most_tokens(vision, image, layout) == tokens


@pytest.mark.parametrize("name", [name for name, (_, image, *_) in CASES.items() if image.kind == "tiles"])
def test_the_largest_is_the_largest_that_is_laid_out(name: str) -> None:
    """Of pictures that fill their grid of tiles, so that nothing is padding."""
    vision, image, layout, tokens = CASES[name]
    assert image.tiles is not None

    def rows(grid: tuple[int, int]) -> int:
        runs, size = image.tiles.runs(grid), (grid[0] * 336, grid[1] * 336)  # type: ignore[union-attr]
        overview = None if runs == grid[0] * grid[1] else (0 if image.tiles.choice == "best_fit" else runs - 1)  # type: ignore[union-attr]
        (laid,) = whole(layout, vision, [Picture(runs, size, grid, None, overview)])
        return len(laid.source)

    assert max(map(rows, image.tiles.grids)) == tokens


def test_next_grids_one_by_one() -> None:
    vision, _, layout, _ = CASES["llava-next"]
    found = {grid: most_tokens(vision, tiled(Tiles("best_fit", (grid,))), layout) for grid in NEXT.grids}
    assert found == {
        (1, 2): 576 * 3 + 24,
        (2, 1): 576 * 3 + 48,
        (2, 2): 576 * 5 + 48,
        (3, 1): 576 * 4 + 72,
        (1, 3): 576 * 4 + 24,
    }


def test_frames_that_keep_their_size() -> None:
    """As many frame pairs as are taken at most, of the largest frame each; or what all of them share."""
    vision, image, layout, _ = CASES["qwen2.5-vl"]
    assert image.native is not None

    def most(sampling: Sampling) -> int:
        native = replace(NATIVE, max_pixels=768 * 28 * 28, video=sampling)
        return most_tokens(vision, replace(image, native=native), layout)

    assert most(Sampling(2.0, 4, 10, 2.0)) == 5 * 768
    assert most(Sampling(2.0, 4, 9, 2.0)) == 5 * 768  # the last frame stands twice
    assert most(Sampling(2.0, 4, 10, 2.0, budget=2000)) == 5 * 360  # nine tenths, for five pairs
    assert most(Sampling(2.0, 4, 4, 2.0, budget=2000)) == 2 * 768  # no more than a frame may have
    assert most(Sampling(2.0, 4, 1000, 2.0, budget=2000)) == 500 * 4  # no fewer than it must


@pytest.mark.parametrize(
    ("lines", "columns", "limit", "size"),
    [
        (81, 81, 9, None),
        (81, 81, None, None),
        (54, 135, 9, None),  # 7290 of 6561: 1.054 on a side
        (108, 81, 9, (93, 70)),  # 1.155
        (162, 162, 9, (81, 81)),
    ],
)
def test_a_mosaic_above_the_limit_is_shrunk(
    lines: int, columns: int, limit: int | None, size: tuple[int, int] | None
) -> None:
    assert shrunk(lines, columns, 27, limit) == size
