"""The picture or the video that a benchmark is run on: a given one, or seeded noise of the largest shape there is."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edgeprune.bundle.image import ImageProcessing
from edgeprune.bundle.manifest import Manifest
from edgeprune.runtime.layout import whole
from edgeprune.runtime.pixels import prepare

_SIZE = (640, 480)
_NATIVE_FRAMES = 8
"""Of a video whose frames are not counted."""


@dataclass(frozen=True)
class Visual:
    """What a picture or video becomes: rows that enter the decoder unpruned, and runs of the encoder."""

    tokens: int
    runs: int


def look(image: Path, facts: Manifest) -> Visual:
    """Prepare a picture or video, and count what it becomes.

    Raises:
        ImageError: it cannot be used.
    """
    pixels = prepare([image], facts.image)
    rows = whole(facts.layout, facts.vision, pixels.pictures)
    return Visual(sum(len(one.origin) for one in rows), pixels.runs)


@contextlib.contextmanager
def task_picture(image: Path | None, processing: ImageProcessing) -> Iterator[Path]:
    """The given picture or video, or one of noise in a temporary folder: time does not depend on what it shows.

    With tiles it fills the largest grid of them, so that no run and no row less enters than can; a video is a folder
    of as many frames as are taken, or of eight where that depends on the video.
    """
    if image is not None:
        yield image
        return
    with tempfile.TemporaryDirectory() as folder:
        native_video = processing.native is not None and processing.native.video is not None
        count = processing.frames.count if processing.frames else _NATIVE_FRAMES if native_video else 1
        width, height = _largest(processing)
        rng = np.random.default_rng(0)
        for number in range(count):
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path(folder) / f"{number}.png")
        yield Path(folder) if count > 1 else Path(folder) / "0.png"


def _largest(processing: ImageProcessing) -> tuple[int, int]:
    """Width and height in pixels."""
    if processing.tiles is None:
        return _SIZE
    rows, columns = max(processing.tiles.grids, key=lambda grid: grid[0] * grid[1])
    height, width = processing.size
    return columns * width, rows * height
