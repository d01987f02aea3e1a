"""The picture of several methods: a panel for the view and one for each stage, aligned, on white."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import PathCollection
from PIL import Image

from edgeprune.bundle.image import ImageProcessing, Tiles
from edgeprune.bundle.sizes import Vision
from edgeprune.runtime.overlay import OverlayStage
from edgeprune.runtime.sheet import Sheet, make_sheet
from edgeprune.show.picture import Row, draw_methods, make_figure

HALF = (0.5, 0.5, 0.5)
ROWS = [
    Row("first", "an answer of $5 or $6", (OverlayStage("after the encoder", (-1, 0, 5, 6), (6,)),)),
    Row("second", "杯子", (OverlayStage("before layer 2", (1, 2, 3)), OverlayStage("before layer 3", (2,)))),
]


def sheet(picture: Image.Image, side: int = 56, patches: int = 4) -> Sheet:
    processing = ImageProcessing("fixed", side, None, (side, side), 3, 1 / 255, HALF, HALF)
    return make_sheet([picture], processing, Vision((patches, patches), 4, 1, 1, 4, 14))


@pytest.fixture
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))


def test_a_panel_for_the_view_and_one_for_each_stage(photo: Image.Image) -> None:
    figure = make_figure(sheet(photo), "what?", ROWS)
    assert len(figure.axes) == (1 + 1) + (1 + 2)
    places = [axes.get_position() for axes in figure.axes]
    assert [round(place.x0, 6) for place in places[:2]] == [round(place.x0, 6) for place in places[2:4]]
    assert len({(round(place.width, 6), round(place.height, 6)) for place in places}) == 1
    words = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert {"after the encoder", "4 rows: 2 + class row + 1 merged", "before layer 2", "3 rows", "1 row"} <= words
    assert {"first", "second", "an answer of $5 or $6"} <= {text.get_text() for text in figure.texts}
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [word.split(":")[0] for word in legend] == ["kept", "dropped", "merged"]


def test_the_legend_names_what_is_there(photo: Image.Image) -> None:
    figure = make_figure(sheet(photo), "what?", ROWS[1:])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["kept", "dropped"]


def test_titles_stay_within_their_panels(photo: Image.Image) -> None:
    everything = OverlayStage("after the projector", tuple(range(-1, 576)), tuple(range(100)))
    figure = make_figure(sheet(photo, 48, 24), "what? " * 99, [Row("a-long-name", "word " * 99, (everything,))])
    right = figure.get_figwidth() * figure.dpi
    assert all(text.get_window_extent().x1 <= right for text in figure.texts)
    for axes in figure.axes:
        assert all(text.get_window_extent().x1 <= axes.get_window_extent().x1 + 1 for text in axes.texts)


def test_it_is_a_picture_on_white(photo: Image.Image, tmp_path: Path) -> None:
    picture = draw_methods(sheet(photo), "what?", ROWS)
    assert picture.mode == "RGB"
    assert {picture.getpixel(corner) for corner in ((0, 0), (picture.width - 1, picture.height - 1))} == {(255,) * 3}
    picture.save(tmp_path / "kept.png")
    with Image.open(tmp_path / "kept.png") as saved:
        assert saved.format == "PNG" and saved.size == picture.size


def test_a_users_own_style_changes_nothing(photo: Image.Image) -> None:
    plain = draw_methods(sheet(photo), "what?", ROWS)
    with matplotlib.rc_context({"savefig.facecolor": "black", "font.size": 30, "axes.facecolor": "red"}):
        styled = draw_methods(sheet(photo), "what?", ROWS)
        assert matplotlib.rcParams["font.size"] == 30
    assert plain.tobytes() == styled.tobytes()


def test_kept_patches_stay_and_dropped_ones_darken(photo: Image.Image) -> None:
    view = Image.new("RGB", (40, 40), (250, 250, 250))
    figure = make_figure(sheet(view, 40), "what?", [Row("one", "", (OverlayStage("x", (0,)),))])
    shown = np.asarray(figure.axes[1].images[0].get_array())
    assert (shown[:10, :10] == 250).all()
    assert (shown[10:] == 95).all() and (shown[:10, 10:] == 95).all()


def test_tiles_are_drawn_in_the_mosaic_and_the_overview(photo: Image.Image) -> None:
    tiles = Tiles("best_fit", ((1, 2),))
    processing = ImageProcessing("tiles", None, (40, 40), None, 3, 1 / 255, HALF, HALF, tiles=tiles)
    both = make_sheet([Image.new("RGB", (80, 40), (250, 250, 250))], processing, Vision((4, 4), 4, 1, 1, 4, 10))
    stage = OverlayStage("x", (-2, -1, -1, 0, 16, 32), (32,))
    figure = make_figure(both, "what?", [Row("one", "", (stage,))])
    mosaic, overview = (np.asarray(image.get_array()) for image in figure.axes[1].images)
    assert mosaic.shape == (40, 80, 3) and overview.shape == (40, 40, 3)
    assert (mosaic[:10, :10] == 250).all() and (mosaic[:10, 40:50] == 250).all() and (mosaic[10:] == 95).all()
    assert (overview[:10, :10] == 250).all() and (overview[10:] == 95).all()
    assert figure.axes[1].texts[1].get_text() == "6 rows: 2 + 2 class rows + line end + 1 merged"
    places = [np.asarray(one.get_offsets()) for one in figure.axes[1].collections if isinstance(one, PathCollection)]
    assert np.concatenate(places).tolist() == [[45, 5]]
    assert figure.axes[0].texts[1].get_text() == "as the model sees it: 2 x 1 tiles and the whole, 4 x 4 patches each"
    assert len(figure.axes[0].images) == 2 and photo.mode == "RGB"
