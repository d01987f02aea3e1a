"""Without a picture a benchmark makes one that fills every tile, or a video of as many frames as are taken."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from edgeprune.bench.picture import task_picture
from edgeprune.bundle.image import Frames, ImageProcessing, Tiles
from edgeprune.errors import ImageError
from edgeprune.runtime.pixels import prepare

HALF = (0.5, 0.5, 0.5)
FIXED = ImageProcessing("fixed", None, (56, 56), None, 3, 1 / 255, HALF, HALF)
GRIDS = ((1, 2), (2, 1), (2, 2), (1, 3))


@pytest.mark.parametrize(("choice", "runs"), [("best_fit", 5), ("closest_ratio", 5)])
def test_a_picture_fills_the_largest_grid(choice: str, runs: int) -> None:
    processing = ImageProcessing("tiles", None, (56, 56), None, 3, 1 / 255, HALF, HALF, Tiles(choice, GRIDS))
    with task_picture(None, processing) as path:
        pixels = prepare([path], processing)
        assert pixels.runs == runs == processing.most_runs
        assert pixels.pictures[0].tiles == (2, 2)
        assert pixels.pictures[0].size == (112, 112)  # of the grid's own shape: nothing is padded
    assert not path.exists()


def test_a_video_has_all_frames() -> None:
    processing = ImageProcessing("frames", None, (56, 56), None, 3, 1 / 255, HALF, HALF, frames=Frames(12))
    with task_picture(None, processing) as path:
        assert prepare([path], processing).runs == 12


def test_a_picture_of_one_run_and_a_given_one(tmp_path: Path) -> None:
    with task_picture(None, FIXED) as path, Image.open(path) as picture:
        assert picture.size == (640, 480)
    with task_picture(tmp_path / "mine.png", FIXED) as path:
        assert path == tmp_path / "mine.png"
        with pytest.raises(ImageError, match=r"mine\.png"):
            prepare([path], FIXED)
