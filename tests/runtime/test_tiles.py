"""Our tiles against those of Transformers' Pillow processors, bit for bit, for many sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from edgeprune.bundle.image import ImageProcessing, Tiles
from edgeprune.errors import ImageError
from edgeprune.runtime.pixels import Pixels, prepare
from edgeprune.runtime.tiles import choose_grid, cut
from tests.runtime.photos import noise

pytest.importorskip("transformers")
from transformers.image_processing_utils import select_best_resolution
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil,
    get_all_supported_aspect_ratios,
    get_optimal_tiled_canvas,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
NEXT = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
ONEVISION = tuple((rows, columns) for rows in range(1, 7) for columns in range(1, 7))
INTERN = tuple((rows, columns) for columns, rows in get_all_supported_aspect_ratios(1, 12))
SIDE = 28

SIZES = [
    *[(28, 28), (56, 56), (84, 28), (28, 84), (57, 56), (56, 57), (55, 56)],  # at and beside the grids' own sizes
    *[(100, 75), (75, 100), (640, 480), (333, 332), (332, 333), (201, 67), (67, 201)],
    *[(2, 2), (3, 2), (2, 9), (11, 5), (40, 3), (3, 40)],
    *[(1601, 1067), (97, 1301), (1301, 97), (2, 4000), (4000, 2)],
]


def processing(tiles: Tiles, side: int = SIDE) -> ImageProcessing:
    return ImageProcessing("tiles", None, (side, side), None, 3, 1 / 255, MEAN, STD, tiles=tiles)


def pinpoints(grids: tuple[tuple[int, int], ...], side: int) -> list[list[int]]:
    return [[rows * side, columns * side] for rows, columns in grids]


def llava_next(pictures: list[Image.Image], side: int = SIDE) -> NDArray[np.float32]:
    """[runs, 3, h, w] of all pictures, without those that only fill the batch."""
    size = {"shortest_edge": side}
    processor = LlavaNextImageProcessorPil(
        size=size,
        crop_size={"height": side, "width": side},
        image_grid_pinpoints=pinpoints(NEXT, side),
        image_mean=MEAN,
        image_std=STD,
        do_pad=False,
    )
    return np.concatenate([processor(picture, return_tensors="np")["pixel_values"][0] for picture in pictures])


def onevision(pictures: list[Image.Image], side: int = SIDE) -> NDArray[np.float32]:
    processor: Any = LlavaOnevisionImageProcessorPil(
        size={"height": side, "width": side},
        image_grid_pinpoints=pinpoints(ONEVISION, side),
        image_mean=MEAN,
        image_std=STD,
    )
    pixels = processor([pictures], return_tensors="np")["pixel_values"]  # of one prompt, as the chat template gives it
    return np.concatenate(list(pixels))


def intern(pictures: list[Image.Image], side: int = SIDE) -> NDArray[np.float32]:
    processor = GotOcr2ImageProcessorPil(
        size={"height": side, "width": side},
        crop_to_patches=True,
        min_patches=1,
        max_patches=12,
        image_mean=MEAN,
        image_std=STD,
    )
    pixels: NDArray[np.float32] = processor(pictures, return_tensors="np")["pixel_values"]
    return pixels


FAMILIES: dict[str, tuple[Tiles, Any]] = {
    "LLaVA-NeXT": (Tiles("best_fit", NEXT), llava_next),
    "LLaVA-OneVision": (Tiles("best_fit", ONEVISION, "square"), onevision),
    "InternVL": (Tiles("closest_ratio", INTERN), intern),
}


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> tuple[Tiles, Any]:
    return FAMILIES[request.param]


def agree(tiles: Tiles, theirs: Any, pictures: list[Image.Image], side: int = SIDE) -> Pixels:
    ours = prepare(pictures, processing(tiles, side))
    expected = theirs(pictures, side)
    values = ours.feeds["pixel_values"]
    assert values.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(values, expected)
    assert ours.runs == len(expected)
    return ours


@pytest.mark.parametrize("size", SIZES)
def test_every_family_at_many_sizes(family: tuple[Tiles, Any], size: tuple[int, int]) -> None:
    ours = agree(*family, [noise(*size)])
    (picture,) = ours.pictures
    assert picture.size == (size[1], size[0])


@settings(max_examples=60)
@given(width=st.integers(2, 260), height=st.integers(2, 260), side=st.sampled_from([14, 27, 56]), data=st.data())
def test_any_size(width: int, height: int, side: int, data: st.DataObject) -> None:
    tiles, theirs = FAMILIES[data.draw(st.sampled_from(list(FAMILIES)))]
    agree(tiles, theirs, [noise(width, height)], side)


@settings(max_examples=400)
@given(width=st.integers(2, 3000), height=st.integers(2, 3000), side=st.sampled_from([14, 336, 384, 448]))
def test_the_grid_is_theirs(width: int, height: int, side: int) -> None:
    tile, size = (side, side), (height, width)
    for grids in (NEXT, ONEVISION, tuple(reversed(NEXT))):
        best = select_best_resolution(size, pinpoints(grids, side))
        assert choose_grid(Tiles("best_fit", grids), tile, size) == (best[0] // side, best[1] // side)
    for least, most in ((1, 12), (1, 6), (3, 9), (5, 5)):
        grids = tuple((rows, columns) for columns, rows in get_all_supported_aspect_ratios(least, most))
        columns, rows = get_optimal_tiled_canvas(size, tile, least, most)
        assert choose_grid(Tiles("closest_ratio", grids), tile, size) == (rows, columns)


def test_ties_go_to_the_grid_that_wastes_least_and_then_to_the_first() -> None:
    tile = (10, 10)
    assert choose_grid(Tiles("best_fit", ((2, 2), (1, 1))), tile, (10, 10)) == (1, 1)
    assert choose_grid(Tiles("best_fit", ((1, 2), (2, 1))), tile, (10, 10)) == (1, 2)
    assert choose_grid(Tiles("best_fit", ((2, 1), (1, 2))), tile, (10, 10)) == (2, 1)
    ratios = Tiles("closest_ratio", ((1, 1), (2, 2), (3, 3)))
    assert [choose_grid(ratios, tile, (side, side)) for side in (14, 15, 21, 22)] == [(1, 1), (2, 2), (2, 2), (3, 3)]


def test_several_pictures_in_a_prompt(family: tuple[Tiles, Any]) -> None:
    ours = agree(*family, [noise(100, 75), noise(60, 130, seed=1), noise(40, 40, seed=2)])
    if family[0].several == "square":
        assert [(one.runs, one.tiles) for one in ours.pictures] == [(1, None)] * 3
    else:
        assert all(one.tiles is not None for one in ours.pictures)


def test_where_the_overview_is() -> None:
    wide = noise(112, 56)
    first = cut(wide, processing(Tiles("best_fit", NEXT)))
    last = cut(wide, processing(Tiles("closest_ratio", INTERN)))
    small = cut(noise(20, 20), processing(Tiles("closest_ratio", INTERN)))
    assert (first.grid, first.overview, len(first.runs)) == ((1, 2), 0, 3)
    assert (last.grid, last.overview, len(last.runs)) == ((2, 4), 8, 9)
    assert (small.grid, small.overview, len(small.runs)) == ((1, 1), None, 1)
    whole = np.asarray(wide.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    for one in (first, last):
        assert one.overview is not None
        np.testing.assert_array_equal(np.asarray(one.runs[one.overview]), whole)


def test_too_long_and_thin() -> None:
    with pytest.raises(ImageError, match=r"20000x2 .* padded to 20000x20000, more than"):
        cut(noise(20000, 2), processing(Tiles("best_fit", NEXT, "square")), alone=False)
