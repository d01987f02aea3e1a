"""From the pictures of a prompt, or its video, to what a vision graph takes.

One file for all kinds of pixels: which pictures there are, how many runs of the encoder each becomes, and the
tensors. Knows nothing about prompts or rows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeprune.bundle.image import ImageProcessing
from edgeprune.errors import ImageError, UsageError
from edgeprune.runtime.frames import evenly, load_frames
from edgeprune.runtime.native import prepare_native, prepare_native_video, sample, seconds_per_pair
from edgeprune.runtime.preprocess import Source, batch, load_image, normalise
from edgeprune.runtime.tiles import cut


@dataclass(frozen=True)
class Picture:
    """One picture of a prompt, or its one video.

    Attributes:
        runs: of the encoder that it takes; pictures of native resolution share one.
        size: (height, width) in pixels as opened; of a video, those of its first frame taken.
        tiles: (rows, columns) of its tiles, the overview not counted; None where it has none.
        grid: (frame pairs, rows, columns) of its visual tokens where every picture has its own; else None.
        overview: which of its runs shows all of it beside its tiles: the first (LLaVA-NeXT, whose tiles are padded, so
            that ``size`` says where they show anything) or the last (InternVL); None where none does.
        seconds: from one pair of frames to the next, where a video has a ``grid``.
    """

    runs: int
    size: tuple[int, int]
    tiles: tuple[int, int] | None = None
    grid: tuple[int, int, int] | None = None
    overview: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Pixels:
    """What the vision graph takes for one prompt, or for several of the same geometry.

    Attributes:
        feeds: the inputs of the vision graph, "pixel_values" [C, 3, h, w] float32 among them; C counts the runs of
            all prompts, prompt by prompt.
        pictures: of one prompt, which stand for those of all.
        prompts: how many there are.
    """

    feeds: dict[str, NDArray[Any]]
    pictures: tuple[Picture, ...]
    prompts: int = 1

    @property
    def runs(self) -> int:
        """Runs of one prompt."""
        if any(picture.grid for picture in self.pictures):
            return 1
        return sum(picture.runs for picture in self.pictures)


@dataclass(frozen=True, eq=False)
class Opened:
    """The pictures of a prompt, or the frames taken of its video, in mode RGB.

    Attributes:
        pictures: as opened, not resized.
        total: frames that the video has; None of pictures.
        seconds: from one pair of frames to the next, where frames are taken in pairs.
    """

    pictures: tuple[Image.Image, ...]
    total: int | None = None
    seconds: float = 0.0


def prepare(sources: Sequence[Source | Sequence[Source]], processing: ImageProcessing) -> Pixels:
    """Open and prepare the pictures of one prompt, or its video; arguments and errors are those of ``open_sources``."""
    opened = open_sources(sources, processing)
    pictures = opened.pictures
    if processing.frames is not None:
        return Pixels({"pixel_values": batch(pictures, processing)}, (Picture(len(pictures), _size(pictures[0])),))
    if processing.native is not None and opened.total is not None:
        feeds, (grid,) = prepare_native_video(pictures, processing)
        return Pixels(feeds, (Picture(1, _size(pictures[0]), grid=grid, seconds=opened.seconds),))
    if processing.native is not None:
        feeds, grids = prepare_native(pictures, processing)
        both = zip(pictures, grids, strict=True)
        return Pixels(feeds, tuple(Picture(1, _size(one), grid=grid) for one, grid in both))
    if processing.tiles is not None:
        return _tiled(pictures, processing)
    return Pixels({"pixel_values": batch(pictures, processing)}, tuple(Picture(1, _size(one)) for one in pictures))


def open_sources(sources: Sequence[Source | Sequence[Source]], processing: ImageProcessing) -> Opened:
    """Open the pictures of one prompt, or take the frames of its video.

    Args:
        sources: the pictures; or one video: a file, a folder of pictures, or a sequence of them.
        processing: the model's numbers; they say which of the two it takes.

    Raises:
        UsageError: there is no source, or more than one video.
        ImageError: one cannot be used.
        MissingExtra: there is a video file, and PyAV is not installed.
    """
    if not sources:
        raise UsageError("got no picture or video, expected 1 or more")
    native = processing.native
    if processing.frames is None and (native is None or native.video is None):
        return Opened(tuple(load_image(_picture(source)) for source in sources))
    if len(sources) > 1:
        raise UsageError(f"got {len(sources)} videos in one prompt, expected 1: frames come as a folder or list")
    if processing.frames is not None:
        clip = load_frames(sources[0], evenly(processing.frames))
        return Opened(tuple(clip.frames), clip.total)
    assert native is not None and native.video is not None  # the only other kind that takes a video
    clip = load_frames(sources[0], lambda total, rate: sample(total, rate, native))
    seconds = seconds_per_pair(len(clip.frames), clip.total, clip.rate, native)
    return Opened(tuple(clip.frames), clip.total, seconds)


def stack(pixels: Sequence[Pixels]) -> Pixels:
    """Join prompts of the same geometry: as many pictures each, of as many runs and tokens.

    Raises:
        UsageError: there is no prompt.
        ImageError: they differ; it says in what.
    """
    if not pixels:
        raise UsageError("got no prompt, expected 1 or more")
    first = pixels[0]
    for number, other in enumerate(pixels[1:], 2):
        if len(other.pictures) != len(first.pictures):
            raise ImageError(
                f"prompt {number} has {len(other.pictures)} pictures and the first {len(first.pictures)}: "
                "prompts that run together need as many each"
            )
        for one, two in zip(first.pictures, other.pictures, strict=True):
            _require_alike(number, one, two)
    if len(pixels) == 1:
        return first
    values = np.concatenate([one.feeds["pixel_values"] for one in pixels])
    # Tables of native resolution say where visual tokens stand, which is the same for all.
    return Pixels({**first.feeds, "pixel_values": values}, first.pictures, sum(one.prompts for one in pixels))


def _require_alike(number: int, first: Picture, other: Picture) -> None:
    for field in fields(Picture):
        one, two = getattr(first, field.name), getattr(other, field.name)
        if field.name != "size" and one != two:
            raise ImageError(
                f"prompt {number} has a picture of {_shape(other)} with {field.name} {two}, the first one of "
                f"{_shape(first)} with {one}: pictures that run together need the same"
            )
    if first.overview == 0 and first.size[0] * other.size[1] != first.size[1] * other.size[0]:
        raise ImageError(
            f"prompt {number} has a picture of {_shape(other)}, the first one of {_shape(first)}: pictures in tiles "
            "that run together need the same aspect ratio"
        )


def _shape(picture: Picture) -> str:
    return f"{picture.size[1]}x{picture.size[0]} pixels"


def _picture(source: Source | Sequence[Source]) -> Source:
    if isinstance(source, str | os.PathLike | bytes | Image.Image):
        return source
    raise ImageError(f"a list of {len(source)} pictures is a video, and this model takes pictures one by one")


def _tiled(pictures: Sequence[Image.Image], processing: ImageProcessing) -> Pixels:
    cuts = [cut(picture, processing, len(pictures) == 1) for picture in pictures]
    runs = [normalise(run, processing) for one in cuts for run in one.runs]
    return Pixels(
        {"pixel_values": np.stack(runs)},
        tuple(
            Picture(len(one.runs), _size(picture), one.grid, None, one.overview)
            for picture, one in zip(pictures, cuts, strict=True)
        ),
    )


def _size(picture: Image.Image) -> tuple[int, int]:
    return picture.height, picture.width
