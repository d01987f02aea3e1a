"""Pictures for tests."""

from __future__ import annotations

import numpy as np
from PIL import Image


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A picture of coarse and fine detail, so that filters, offsets and rounding all show."""
    stream = np.random.default_rng(seed)
    coarse = Image.fromarray(stream.integers(0, 256, (5, 7, 3), np.uint8)).resize((width, height))
    fine = stream.integers(-40, 40, (height, width, 3))
    rgb = Image.fromarray(np.clip(np.asarray(coarse, np.int64) + fine, 0, 255).astype(np.uint8))
    if mode in ("RGBA", "LA"):
        rgb.putalpha(Image.fromarray(stream.integers(0, 256, (height, width), np.uint8)))
        return rgb.convert(mode)
    if mode == "I;16":
        return Image.fromarray(stream.integers(0, 2**16, (height, width), np.uint16))
    return rgb.convert(mode)
