"""What the overlay paints, patch by patch, read back from its pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageColor

from edgeprune.bundle.image import ImageProcessing, Tiles
from edgeprune.bundle.sizes import Vision
from edgeprune.errors import ImageError, UsageError
from edgeprune.runtime import overlay
from edgeprune.runtime.overlay import CLS, COLOURS, NEWLINE, OverlayStage, draw_overlay, draw_panel
from edgeprune.runtime.sheet import Sheet, make_sheet

GRID = (4, 6)


def processing(height: int, width: int) -> ImageProcessing:
    return ImageProcessing(
        kind="fixed",
        resize_shortest=None,
        resize_exact=(height, width),
        crop=None,
        resample=3,
        rescale=1 / 255,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


def sheet(height: int, width: int, grid: tuple[int, int] = GRID, picture: Image.Image | None = None) -> Sheet:
    """Of one picture that the model sees at that size."""
    return make_sheet([picture or photo()], processing(height, width), Vision(grid, 4, 1, 1, 4, 14))


def photo(width: int = 120, height: int = 80) -> Image.Image:
    stream = np.random.default_rng(0)
    pixels = stream.integers(60, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def panels(picture: Image.Image, width: int, height: int, across: int, count: int) -> list[NDArray[np.uint8]]:
    """The panels [height, width, 3] of a picture, in order."""
    text = max(18, width // 26)
    cut = []
    for place in range(count):
        left = overlay._GAP + place % across * (width + overlay._GAP)
        top = overlay._GAP // 2 + place // across * (height + 2 * text + overlay._GAP) + 2 * text
        cut.append(np.asarray(picture.crop((left, top, left + width, top + height))))
    return cut


def patch(panel: NDArray[np.uint8], index: int, grid: tuple[int, int] = GRID) -> NDArray[np.uint8]:
    """One patch of a panel without the lines around it."""
    height, width = panel.shape[0] // grid[0], panel.shape[1] // grid[1]
    top, left = index // grid[1] * height, index % grid[1] * width
    return panel[top + 7 : top + height - 7, left + 7 : left + width - 7]


def has_colour(pixels: NDArray[np.uint8], colour: str) -> bool:
    return bool((pixels == ImageColor.getrgb(colour)).all(axis=-1).any())


def drawn(*stages: OverlayStage) -> list[NDArray[np.uint8]]:
    """Panels of 960 x 640 pixels: 80 x 120 times 8."""
    picture = draw_overlay(sheet(80, 120), stages)
    count = 1 + len(stages)
    return panels(picture, 960, 640, across={1: 1, 2: 2, 4: 2}.get(count, 3), count=count)


def test_the_first_panel_is_the_models_view() -> None:
    (view,) = drawn()
    expected = photo().resize((960, 640), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(view, np.asarray(expected))


def test_kept_patches_are_untouched_and_dropped_ones_dark_and_grey() -> None:
    kept = (CLS, 0, 7, 8, 23)
    view, stage = drawn(OverlayStage("vision", kept))
    for index in range(24):
        before, after = patch(view, index), patch(stage, index)
        if index in kept:
            np.testing.assert_array_equal(after, before)
        else:
            assert after.mean() < 0.5 * before.mean()
            np.testing.assert_array_equal(after, after[..., :1].repeat(3, axis=-1))


def test_kept_patches_have_an_outline_in_their_stages_colour() -> None:
    _, *stages = drawn(*(OverlayStage(f"cut {place}", (place, place + 8)) for place in range(5)))
    for place, panel in enumerate(stages):
        for index in range(24):
            height, width = panel.shape[0] // 4, panel.shape[1] // 6
            top, left = index // 6 * height, index % 6 * width
            cell = panel[top : top + height, left : left + width]
            assert has_colour(cell, COLOURS[place]) == (index in (place, place + 8))


def test_neighbours_have_a_thin_line_between_them() -> None:
    _, stage = drawn(OverlayStage("vision", (8, 9)))
    colour = np.array(ImageColor.getrgb(COLOURS[0]))
    line = (stage[240] == colour).all(axis=-1)  # through the middle of both, 160 pixels wide each
    assert np.flatnonzero(line).tolist() == [*range(320, 326), 480, *range(634, 640)]


def test_merged_patches_carry_a_diamond() -> None:
    _, stage = drawn(OverlayStage("vision", (3, 8, 20), merged=(8,)))
    assert has_colour(patch(stage, 8), COLOURS[0])
    assert has_colour(patch(stage, 8), "#ffffff")
    assert not has_colour(patch(stage, 3), COLOURS[0])
    assert not has_colour(patch(stage, 20), COLOURS[0])


def test_a_margin_that_no_patch_covers_is_dimmed() -> None:
    picture = draw_overlay(sheet(62, 62, (4, 4), photo(62, 62)), [OverlayStage("all", tuple(range(16)))])
    view, stage = panels(picture, 620, 620, across=2, count=2)
    np.testing.assert_array_equal(stage[7:143, 7:143], view[7:143, 7:143])
    assert stage[600:].mean() < 0.5 * view[600:].mean()
    assert stage[:, 600:].mean() < 0.5 * view[:, 600:].mean()


@pytest.mark.parametrize(
    ("stages", "across", "down"),
    [(0, 1, 1), (1, 2, 1), (2, 3, 1), (3, 2, 2), (4, 3, 2), (5, 3, 2), (6, 3, 3)],
)
def test_panels_wrap(stages: int, across: int, down: int) -> None:
    sequence = [OverlayStage(f"cut {place}", (place,)) for place in range(stages)]
    picture = draw_overlay(sheet(336, 336, (24, 24)), sequence)
    assert picture.mode == "RGB"
    assert picture.width == 24 + across * (672 + 24)
    assert down * 672 < picture.height < down * (672 + 100) + 100


@pytest.mark.parametrize("size", [14, 32, 224, 336, 601, 900])
def test_panels_are_large_enough(size: int) -> None:
    picture = draw_overlay(sheet(size, size, (2, 2)), [])
    assert 600 <= picture.width - 48 < 1200
    assert (picture.width - 48) % size == 0


def test_long_labels_stay_in_their_panel() -> None:
    stages = [OverlayStage("a label that goes on " * 6, (0,)), OverlayStage("b", (1,))]
    pixels = np.asarray(draw_overlay(sheet(80, 120), stages))
    text = 960 // 26
    titles = pixels[: overlay._GAP // 2 + 2 * text]
    assert (titles[:, 2 * 984 : 2 * 984 + overlay._GAP] == 255).all()  # the gap before the third panel


@pytest.mark.parametrize(
    ("stage", "title"),
    [
        (OverlayStage("vision", tuple(range(96)), tuple(range(12))), "vision: 96 of 576 (84 + 12 merged)"),
        (OverlayStage("vision", (CLS, 1, 2, 3), (3,)), "vision: 4 of 576 (2 + CLS + 1 merged)"),
        (OverlayStage("cut", (CLS, 1)), "cut: 2 of 576 (1 + CLS)"),
        (OverlayStage("cut", (4, 5)), "cut: 2 of 576"),
        (OverlayStage("cut", (4,), (4,)), "cut: 1 of 576 (1 merged)"),
        (OverlayStage("cut", (CLS,)), "cut: 1 of 576 (CLS)"),
        (OverlayStage("cut", ()), "cut: 0 of 576"),
    ],
)
def test_titles(stage: OverlayStage, title: str) -> None:
    assert stage.title(576) == title
    draw_overlay(sheet(48, 48, (24, 24)), [stage])


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"kept": (1, 1)}, "kept holds an index twice"),
        ({"kept": (1,), "merged": (1, 1)}, "merged holds an index twice"),
        ({"kept": (1, 2), "merged": (3,)}, r"merged holds \[3\], expected rows of kept"),
        ({"kept": (1, 2), "merged": (CLS,)}, r"merged holds \[-1\]"),
    ],
)
def test_a_stage_validates_itself(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        OverlayStage("vision", **facts)


def test_kept_patches_of_every_block_are_marked() -> None:
    tiles = Tiles("best_fit", ((2, 2),))
    processing = ImageProcessing("tiles", None, (28, 28), None, 3, 1 / 255, (0.5,) * 3, (0.5,) * 3, tiles=tiles)
    one = make_sheet([photo(112, 112)], processing, Vision((4, 4), 4, 1, 1, 4, 7))
    stage = OverlayStage("vision", (CLS, CLS, NEWLINE, 5, 16, 33), merged=(33,))
    panel = np.asarray(draw_panel(one, stage))
    plain = np.asarray(draw_panel(one, None))
    large = one.scaled(600, 1800)
    patch_size = large.blocks[0].patch[0]
    _, corners = large.arranged(overlay._BETWEEN)
    assert panel.shape == plain.shape and min(panel.shape[:2]) >= 600
    for block, (left, top) in zip(large.blocks, corners, strict=True):
        for (row, column), number in np.ndenumerate(block.numbers):
            y, x = top + row * patch_size, left + column * patch_size
            here = (slice(y + 7, y + patch_size - 7), slice(x + 7, x + patch_size - 7))
            assert has_colour(panel[y : y + patch_size, x : x + patch_size], COLOURS[0]) == (number in stage.kept)
            if number in (5, 16):
                np.testing.assert_array_equal(panel[here], plain[here])
            elif number != 33:
                assert (panel[here] == panel[here][..., :1]).all()
    assert stage.title(80) == "vision: 6 of 80 (2 + 2 CLS + line end + 1 merged)"


def test_several_pictures_are_named_above_them() -> None:
    two = make_sheet([photo(), photo(60, 40)], processing(80, 120), Vision(GRID, 4, 1, 1, 4, 14))
    assert two.names == ("picture 1", "picture 2") and sheet(80, 120).names == ()
    panel = np.asarray(draw_panel(two, None))
    large = two.scaled(600, 1800)
    size, corners = large.arranged(overlay._BETWEEN, overlay._HEAD)
    assert panel.shape == (size[1], size[0], 3)
    for block, (left, top) in zip(large.blocks, corners, strict=True):
        view = np.asarray(block.view)
        np.testing.assert_array_equal(panel[top : top + view.shape[0], left : left + view.shape[1]], view)
        assert panel[top - overlay._HEAD : top, left : left + 100].min() < 100  # letters
    assert OverlayStage("cut", (4, 5)).title(48, " patches") == "cut: 2 of 48 patches"


def test_what_does_not_fit_is_an_error() -> None:
    for index in (24, -3):
        with pytest.raises(UsageError, match=rf"stage 'vision' keeps patch {index}, expected -2\.\.23"):
            draw_overlay(sheet(80, 120), [OverlayStage("vision", (0, index))])
    for grid in ((4, 121), (81, 4)):
        with pytest.raises(UsageError, match="does not fit 80 x 120 pixels"):
            sheet(80, 120, grid)
    with pytest.raises(ImageError, match="is not found"):
        make_sheet(["nothing.png"], processing(80, 120), Vision(GRID, 4, 1, 1, 4, 14))
