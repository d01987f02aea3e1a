"""Small videos for tests, written with PyAV; every frame says its number in its colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STEP = 12
"""Grey levels from one frame to the next: more than a codec loses."""


def frame(number: int, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """Frame ``number``: grey of its own level, brighter in its upper left quarter."""
    pixels = np.full((height, width, 3), number * STEP, np.uint8)
    pixels[: height // 2, : width // 2] += 60
    return pixels


def number_of(picture: Image.Image) -> int:
    """Which frame a picture is, read from its lower right corner."""
    corner = np.asarray(picture, np.float64)[-picture.height // 3 :, -picture.width // 3 :]
    return round(float(corner.mean()) / STEP)


def write_clip(
    path: Path, frames: int, codec: str = "mpeg4", pixels: str = "yuv420p", rate: int = 10, **options: str
) -> Path:
    """A video of ``rate`` frames per second; its container is that of the path's ending."""
    import av

    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame(number), format="rgb24")))
        container.mux(stream.encode())
    return path
