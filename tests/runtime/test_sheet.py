"""What a sheet shows of pictures and videos of each kind, and which visual token lies where."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeprune.bundle.image import Frames, ImageProcessing, Tiles
from edgeprune.bundle.native import Native
from edgeprune.bundle.sizes import Vision
from edgeprune.runtime.sheet import Sheet, make_sheet
from tests.runtime.photos import noise

NEXT = Tiles("best_fit", ((1, 2), (2, 1), (2, 2)))
TOWER = Vision((4, 4), 4, 1, 1, 4, 7)


def of_kind(kind: str, **facts: Any) -> ImageProcessing:
    exact = None if kind == "native" else (28, 28)
    return ImageProcessing(kind, None, exact, None, 3, 1 / 255, (0.5,) * 3, (0.5,) * 3, **facts)


def numbers(one: Sheet) -> list[int]:
    return sorted(number for block in one.blocks for number in block.numbers.ravel().tolist())


def test_tiles_are_a_mosaic_beside_the_whole_picture() -> None:
    one = make_sheet([noise(112, 112)], of_kind("tiles", tiles=NEXT), TOWER)
    mosaic, overview = one.blocks
    assert (one.opened, one.seen) == ("112 x 112", "2 x 2 tiles and the whole, 4 x 4 patches each")
    assert (mosaic.view.size, mosaic.numbers.shape, overview.view.size) == ((56, 56), (8, 8), (28, 28))
    assert overview.numbers.ravel().tolist() == list(range(16))
    assert mosaic.numbers[0].tolist() == [16, 17, 18, 19, 32, 33, 34, 35]  # the first lines of two tiles
    assert mosaic.numbers[4].tolist() == [48, 49, 50, 51, 64, 65, 66, 67]
    assert numbers(one) == list(range(80)) and one.tokens == 80
    assert one.arranged(2) == ((56 + 2 + 28, 56), [(0, 0), (58, 0)])
    wide = make_sheet([noise(112, 56)], of_kind("tiles", tiles=NEXT), TOWER)
    assert wide.arranged(2) == ((56, 28 + 2 + 28), [(0, 0), (0, 30)])


def test_the_overview_may_be_the_last_run_or_missing() -> None:
    ratio = Tiles("closest_ratio", ((1, 1), (1, 2)))
    mosaic, overview = make_sheet([noise(112, 56)], of_kind("tiles", tiles=ratio), TOWER).blocks
    assert mosaic.numbers[0].tolist() == [0, 1, 2, 3, 16, 17, 18, 19]
    assert overview.numbers.ravel().tolist() == list(range(32, 48))
    alone = make_sheet([noise(30, 30)], of_kind("tiles", tiles=ratio), TOWER)
    assert (len(alone.blocks), alone.seen) == (1, "1 x 1 tiles, 4 x 4 patches each")


def test_margins_of_tiles_are_not_in_the_mosaic() -> None:
    one = make_sheet([noise(112, 112)], of_kind("tiles", tiles=NEXT), Vision((3, 3), 4, 1, 1, 4, 9))
    mosaic, overview = one.blocks  # 28 pixels are 3 patches of 9 and a margin of 1
    assert (mosaic.view.size, mosaic.patch, overview.view.size) == ((54, 54), (9, 9), (28, 28))
    whole = np.asarray(noise(112, 112).resize((56, 56), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(np.asarray(mosaic.view)[:27, :27], whole[:27, :27])
    np.testing.assert_array_equal(np.asarray(mosaic.view)[27:, 27:], whole[28:55, 28:55])


def test_a_video_is_a_sheet_of_its_frames() -> None:
    frames = [noise(40, 30 + number) for number in range(16)]
    tower = Vision((4, 4), 4, 1, 1, 4, 7, "inside")  # a class row comes with every frame's 16 patches
    one = make_sheet([frames], of_kind("frames", frames=Frames(8)), tower)
    assert (one.opened, one.seen) == ("8 of 16 frames of 40 x 30", "4 x 4 patches each")
    assert [block.numbers[0, 0] for block in one.blocks] == [17 * run for run in range(8)]
    assert one.arranged(2)[0] == (4 * 30 - 2, 2 * 30 - 2)
    np.testing.assert_array_equal(
        np.asarray(one.blocks[1].view), np.asarray(frames[2].resize((28, 28), Image.Resampling.BICUBIC))
    )


def test_native_pictures_are_resized_and_counted_on() -> None:
    native = Native(patch=7, merge=2, temporal=2, window=28, min_pixels=14 * 14, max_pixels=84 * 84)
    one = make_sheet([noise(60, 30), noise(28, 42)], of_kind("native", native=native), Vision(None, 4, 1, 1, 4, 7))
    assert (one.opened, one.seen) == ("2 pictures", "4 x 2 patches each")
    assert [block.numbers.shape for block in one.blocks] == [(2, 4), (3, 2)]
    assert [block.view.size for block in one.blocks] == [(56, 28), (28, 42)]
    assert numbers(one) == list(range(14))


def test_large_sheets_are_made_smaller() -> None:
    sixteen = Tiles("best_fit", ((4, 4),))
    one = make_sheet(
        [noise(900, 900)],
        ImageProcessing("tiles", None, (448, 448), None, 3, 1 / 255, (0.5,) * 3, (0.5,) * 3, tiles=sixteen),
        Vision((32, 32), 4, 1, 1, 4, 14),
    )
    small = one.scaled(600, 1800)
    assert small.blocks[0].patch == (11, 11)  # of 14
    assert small.blocks[0].view.size == (128 * 11, 128 * 11)
    assert max(small.arranged(12)[0]) <= 1800 + 12
    assert one.scaled(600, 99999) is not one and one.scaled(600, 99999).blocks[0].view.size == one.blocks[0].view.size


@pytest.mark.parametrize(("frames", "across"), [(1, 1), (2, 2), (3, 3), (4, 2), (8, 4), (16, 4), (32, 7)])
def test_frames_are_arranged_about_square(frames: int, across: int) -> None:
    pictures = [noise(40, 30)] * max(frames, 2)
    one = make_sheet([pictures], of_kind("frames", frames=Frames(frames)), TOWER)
    (width, _), corners = one.arranged(0)
    assert width == across * 28
    assert len(corners) == frames
