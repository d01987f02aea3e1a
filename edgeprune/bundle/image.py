"""How a model's pictures are prepared, as numbers a bundle carries.

Knows nothing about pixels: ``edgeprune.runtime.preprocess`` applies these facts to a picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from edgeprune.errors import BundleError

FILTERS = range(6)
"""Pillow's resampling filters: 0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box, 5 hamming."""


@dataclass(frozen=True)
class ImageProcessing:
    """Resize, centre crop, rescale and normalise, in this order, to one fixed size.

    Attributes:
        kind: "fixed": every picture becomes one tensor of the same size.
        resize_shortest: pixels of the shorter edge after the resize, the aspect ratio kept; None for no such
            resize.
        resize_exact: (height, width) in pixels after the resize, the aspect ratio not kept; None for no such
            resize.
        crop: (height, width) in pixels of the centre crop, padded with black where the picture is smaller;
            None for no crop.
        resample: Pillow's number of the resize filter, one of ``FILTERS``.
        rescale: factor on the 0..255 values before normalising, 1/255 for most models.
        mean: subtracted per channel (red, green, blue) after the rescale.
        std: divided by per channel after ``mean`` was subtracted.

    Raises:
        BundleError: a value is of the wrong type or out of range, both resizes are given, or neither ``crop``
            nor ``resize_exact`` fixes the size.
    """

    kind: str
    resize_shortest: int | None
    resize_exact: tuple[int, int] | None
    crop: tuple[int, int] | None
    resample: int
    rescale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        _require(self.kind == "fixed", "kind", self.kind, '"fixed"')
        shortest = self.resize_shortest
        is_edge = shortest is None or _is_edge(shortest)
        _require(is_edge, "resize_shortest", shortest, "a positive integer or null")
        for name, pair in (("resize_exact", self.resize_exact), ("crop", self.crop)):
            is_size = pair is None or _is_size(pair)
            _require(is_size, name, pair, "two positive integers (height, width) or null")
        if shortest is not None and self.resize_exact is not None:
            raise BundleError(
                f"image processing: resize_shortest={shortest} and resize_exact={self.resize_exact} exclude each other"
            )
        if self.crop is None and self.resize_exact is None:
            raise BundleError("image processing: crop or resize_exact must fix the size, both are null")
        known = type(self.resample) is int and self.resample in FILTERS
        _require(known, "resample", self.resample, f"a filter number from {FILTERS[0]} to {FILTERS[-1]}")
        _require(_is_finite(self.rescale) and self.rescale > 0, "rescale", self.rescale, "a positive number")
        _require(_is_triple(self.mean), "mean", self.mean, "three numbers")
        positive = _is_triple(self.std) and min(self.std) > 0
        _require(positive, "std", self.std, "three positive numbers")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of every prepared picture."""
        size = self.crop or self.resize_exact
        assert size is not None  # __post_init__ refuses a processing with neither
        return size


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise BundleError(f"image processing: {name}={value!r} is not {expected}")


def _is_edge(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_size(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_edge, value))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_triple(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(map(_is_finite, value))
