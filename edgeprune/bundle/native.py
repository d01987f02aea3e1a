"""How a picture that keeps its own resolution is prepared, as numbers a bundle carries: Qwen2.5-VL.

Knows nothing about pixels: ``edgeprune.runtime.native`` applies these facts to pictures and to frames of a video.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from edgeprune.bundle.codec import MAY_LACK
from edgeprune.errors import BundleError

TABLES = ("positions", "windows", "window_rows", "pictures", "picture_rows")
"""Inputs of a vision graph beside the pixels: where visual tokens stand, and which of them see each other."""

MOST_PIXELS = 2**28
"""Of one picture; a manifest that asks for more is mistaken."""

MOST_FRAMES = 4096
"""Of one video, for the same reason."""


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video are taken, evenly from the first.

    Attributes:
        rate: frames per second.
        least: frames that are taken of a short video, as far as it has them.
        most: frames that are taken of a long one.
        tokens_per_second: time positions that a second of the video takes in the decoder.
        budget: visual tokens that all frames together may take nine tenths of; frames are made smaller to fit. None
            for no such limit.

    Raises:
        BundleError: a value is of the wrong type or out of range.
    """

    rate: float
    least: int
    most: int
    tokens_per_second: float
    budget: int | None = field(default=None, metadata=MAY_LACK)

    def __post_init__(self) -> None:
        _require(_is_positive(self.rate), "video.rate", self.rate, "a positive number")
        _require(_is_count(self.least), "video.least", self.least, "a positive integer")
        known = _is_count(self.most) and self.least <= self.most <= MOST_FRAMES
        _require(known, "video.most", self.most, f"an integer from {self.least} (least) to {MOST_FRAMES}")
        tokens = self.tokens_per_second
        _require(_is_positive(tokens), "video.tokens_per_second", tokens, "a positive number")
        _require(self.budget is None or _is_count(self.budget), "video.budget", self.budget, "a positive integer")


@dataclass(frozen=True)
class Native:
    """A picture's size is kept as far as two limits let it, rounded to whole visual tokens.

    Attributes:
        patch: pixels on a side.
        merge: patches on a side that make one visual token.
        temporal: frames that make one patch; a picture stands for all of them.
        window: pixels on a side of the windows that most of the encoder's layers attend in.
        min_pixels, max_pixels: a smaller picture is enlarged and a larger one made smaller, aspect ratio kept.
        video: how frames are sampled; None where the bundle serves pictures.

    Raises:
        BundleError: a value is of the wrong type or out of range.
    """

    patch: int
    merge: int
    temporal: int
    window: int
    min_pixels: int
    max_pixels: int
    video: Sampling | None = field(default=None, metadata=MAY_LACK)

    def __post_init__(self) -> None:
        for name in ("patch", "merge", "temporal", "min_pixels"):
            value = getattr(self, name)
            _require(_is_count(value), name, value, "a positive integer")
        _require(
            _is_count(self.window) and self.window % self.factor == 0,
            "window",
            self.window,
            f"a multiple of a visual token's {self.factor} pixels",
        )
        known = _is_count(self.max_pixels) and max(self.min_pixels, self.factor**2) <= self.max_pixels <= MOST_PIXELS
        least = f"an integer from min_pixels={self.min_pixels} and a visual token's {self.factor**2} to {MOST_PIXELS}"
        _require(known, "max_pixels", self.max_pixels, least)
        _require(self.video is None or isinstance(self.video, Sampling), "video", self.video, "how it is sampled")

    @property
    def factor(self) -> int:
        """Pixels on a side of a visual token."""
        return self.patch * self.merge

    @property
    def patch_values(self) -> int:
        """Values of one patch: three colours, ``temporal`` frames."""
        return 3 * self.temporal * self.patch**2

    @property
    def token_values(self) -> int:
        """Values of one visual token: those of its patches side by side."""
        return self.patch_values * self.merge**2

    @property
    def window_side(self) -> int:
        """Visual tokens on a side of a window."""
        return self.window // self.factor

    @property
    def most_tokens(self) -> int:
        """The most visual tokens of one picture, or of one frame pair of a video.

        Of a very long and thin one there can be more where ``max_pixels`` is small: an edge has one token at least.
        """
        return self.max_pixels // self.factor**2


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise BundleError(f"image processing: native.{name}={value!r} is not {expected}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
