"""How a model's pictures are prepared, as numbers a bundle carries.

Knows nothing about pixels: ``edgeprune.runtime.pixels`` applies these facts to the pictures of a prompt.
A **run** is one pass of the encoder over one square of pixels: a picture, a tile of one, or a frame of a video.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from edgeprune.bundle.codec import MAY_LACK
from edgeprune.bundle.native import Native
from edgeprune.errors import BundleError

FILTERS = range(6)
"""Pillow's resampling filters: 0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box, 5 hamming."""

CHOICES = ("best_fit", "closest_ratio")
"""How a grid of tiles is chosen; see ``Tiles``."""

SEVERAL = ("tiles", "square")
"""What several pictures in one prompt become; see ``Tiles``."""

MOST_FRAMES = 4096
"""Of one video; what no decoder's context holds is a mistake in a manifest."""

MOST_TILES = 1024
"""Of one picture, for the same reason."""


@dataclass(frozen=True)
class Tiles:
    """How a picture is cut into tiles, each one run; beside them the whole picture as one more, the overview.

    Attributes:
        choice: how the grid is chosen and filled.
            "best_fit" (LLaVA-NeXT, LLaVA-OneVision): the grid that keeps most of the picture's pixels, of those the
            one that wastes fewest, of those the first in ``grids``. The picture keeps its aspect ratio and is padded
            with black on both sides. The overview is the first run.
            "closest_ratio" (InternVL): the grid of the closest aspect ratio; of equally close ones a later one
            wins where half its pixels are fewer than the picture's. The picture is stretched to it. The
            overview is the last run, and a picture that is one tile has none.
        grids: (rows, columns) of tiles that a picture may be cut into, in the order in which they are tried.
        several: what each of several pictures in one prompt becomes: "tiles", as one alone; "square"
            (LLaVA-OneVision), one run: padded to a square with the processing's mean colour, and no tiles.

    Raises:
        BundleError: a value is of the wrong type or out of range, or a grid appears twice.
    """

    choice: str
    grids: tuple[tuple[int, int], ...]
    several: str = "tiles"

    def __post_init__(self) -> None:
        _require(self.choice in CHOICES, "tiles.choice", self.choice, _words(CHOICES))
        _require(self.several in SEVERAL, "tiles.several", self.several, _words(SEVERAL))
        grids = self.grids
        is_list = isinstance(grids, tuple) and len(grids) > 0 and all(map(_is_size, grids))
        _require(is_list, "tiles.grids", grids, "one or more grids of (rows, columns), 1 or more of each")
        _require(len(set(grids)) == len(grids), "tiles.grids", grids, "a list that has every grid once")
        _require(self.most_runs <= MOST_TILES + 1, "tiles.grids", grids, f"of {MOST_TILES} tiles at most")

    def runs(self, grid: tuple[int, int]) -> int:
        """Runs of a picture cut into a grid, the overview among them."""
        tiles = grid[0] * grid[1]
        return 1 if tiles == 1 and self.choice == "closest_ratio" else tiles + 1

    @property
    def most_runs(self) -> int:
        """Of one picture."""
        return max(map(self.runs, self.grids))


@dataclass(frozen=True)
class Frames:
    """How a video is sampled: ``count`` frames, evenly from the first; frame i is number int(i * all / count).

    Raises:
        BundleError: the count is no number from 1 to ``MOST_FRAMES``.
    """

    count: int

    def __post_init__(self) -> None:
        known = _is_edge(self.count) and self.count <= MOST_FRAMES
        _require(known, "frames.count", self.count, f"an integer from 1 to {MOST_FRAMES}")


@dataclass(frozen=True)
class ImageProcessing:
    """Resize, centre crop, rescale and normalise, in this order; one medium, pictures or video.

    Attributes:
        kind: "fixed": every picture becomes one run. "tiles": a picture becomes a grid of runs, beside it the
            whole picture. "frames": the sampled frames of one video, each as a picture of "fixed". "native": a
            picture keeps its resolution, as far as ``native`` lets it.
        resize_shortest: pixels of the shorter edge after the resize, the aspect ratio kept; None for no such
            resize.
        resize_exact: (height, width) in pixels after the resize, the aspect ratio not kept; None for no such
            resize. With "tiles" the size of a tile.
        crop: (height, width) in pixels of the centre crop, padded with black where the picture is smaller;
            None for no crop.
        resample: Pillow's number of the resize filter, one of ``FILTERS``.
        rescale: factor on the 0..255 values before normalising, 1/255 for most models.
        mean: subtracted per channel (red, green, blue) after the rescale.
        std: divided by per channel after ``mean`` was subtracted.
        tiles, frames, native: what the kind of that name needs; None for the others.

    Raises:
        BundleError: a value is of the wrong type or out of range, both resizes are given, neither ``crop``
            nor ``resize_exact`` fixes the size ("native": one of them does), or the facts of another kind are there.
    """

    kind: str
    resize_shortest: int | None
    resize_exact: tuple[int, int] | None
    crop: tuple[int, int] | None
    resample: int
    rescale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    tiles: Tiles | None = field(default=None, metadata=MAY_LACK)
    frames: Frames | None = field(default=None, metadata=MAY_LACK)
    native: Native | None = field(default=None, metadata=MAY_LACK)

    def __post_init__(self) -> None:
        self._check_kind()
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
        self._check_size()
        known = type(self.resample) is int and self.resample in FILTERS
        _require(known, "resample", self.resample, f"a filter number from {FILTERS[0]} to {FILTERS[-1]}")
        _require(_is_finite(self.rescale) and self.rescale > 0, "rescale", self.rescale, "a positive number")
        _require(_is_triple(self.mean), "mean", self.mean, "three numbers")
        positive = _is_triple(self.std) and min(self.std) > 0
        _require(positive, "std", self.std, "three positive numbers")

    def _check_kind(self) -> None:
        facts: dict[str, tuple[Any, type]] = {
            "tiles": (self.tiles, Tiles),
            "frames": (self.frames, Frames),
            "native": (self.native, Native),
        }
        known = ("fixed", *facts)
        _require(self.kind in known, "kind", self.kind, _words(known))
        for name, (value, expected) in facts.items():
            wanted = f"the facts of kind {name!r}" if name == self.kind else f"null beside kind {self.kind!r}"
            holds = isinstance(value, expected) if name == self.kind else value is None
            _require(holds, name, value, wanted)

    def _check_size(self) -> None:
        """Whether what fixes the size fits the kind."""
        if self.kind == "tiles" and (self.crop is not None or self.resize_exact is None):
            raise BundleError(
                f"image processing: a tile has one size and is not cropped: expected resize_exact alone, got "
                f"resize_exact={self.resize_exact} and crop={self.crop}"
            )
        fixed = (self.crop, self.resize_exact, self.resize_shortest)
        if self.kind == "native":
            _require(fixed == (None,) * 3, "crop, resize_exact, resize_shortest", fixed, "null beside kind 'native'")
        elif self.crop is None and self.resize_exact is None:
            raise BundleError("image processing: crop or resize_exact must fix the size, both are null")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of every run.

        Raises:
            BundleError: every picture has its own ("native").
        """
        size = self.crop or self.resize_exact
        if size is None:
            raise BundleError("image processing of kind 'native' has no one size: every picture has its own")
        return size

    @property
    def most_runs(self) -> int:
        """The most runs of one picture, or of one video."""
        if self.tiles is not None:
            return self.tiles.most_runs
        return 1 if self.frames is None else self.frames.count


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        raise BundleError(f"image processing: {name}={shown} is not {expected}")


def _words(known: Iterable[str]) -> str:
    return " or ".join(f'"{word}"' for word in known)


def _is_edge(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_size(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_edge, value))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_triple(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(map(_is_finite, value))
