"""Pictures and videos that keep their own resolution, as Qwen2.5-VL's encoder takes them.

Pictures are prepared bit for bit as by Transformers' ``Qwen2VLImageProcessorPil``. A video's frames are sampled, paired
and cut into patches as by ``Qwen2VLVideoProcessor``, but resized with Pillow: that class resizes with torchvision,
whose values differ, on smooth frames one in fifty by 1 or 2 of 255. Beside the pixels come the tables that say which
visual tokens see each other. Knows nothing about models: every number comes from ``Native``.

Letters: N visual tokens of a prompt, v values of one; w windows, p pictures or frame pairs, g and l visual tokens of
the largest window and picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeprune.bundle.image import ImageProcessing
from edgeprune.bundle.native import Native, Sampling
from edgeprune.errors import ImageError
from edgeprune.runtime.mrope import Grid
from edgeprune.runtime.preprocess import normalise

LONGEST_RATIO = 200
"""Of a picture's edges; Transformers refuses more, too."""


def prepare_native(
    pictures: Sequence[Image.Image], processing: ImageProcessing
) -> tuple[dict[str, NDArray[Any]], list[Grid]]:
    """Prepare the pictures of one prompt.

    Args:
        pictures: in RGB, see ``preprocess.load_image``.
        processing: the model's numbers, of kind "native".

    Returns:
        The inputs of the vision graph, "pixel_values" [1, N, v] float32 and those of ``tables``; per picture its
        visual tokens (1, rows, columns).

    Raises:
        ImageError: a picture is not in RGB, or more than 200 times as long as wide.
    """
    native = _facts(processing)
    values, grids = [], []
    for picture in pictures:
        size = smart_size(picture.height, picture.width, native, native.max_pixels)
        frame = normalise(_resized(picture, size, processing), processing)
        values.append(_patches(np.broadcast_to(frame, (1, native.temporal, *frame.shape)), native))
        grids.append(_grid(1, size, native))
    return {"pixel_values": np.concatenate(values)[None], **tables(grids, native)}, grids


def prepare_native_video(
    frames: Sequence[Image.Image], processing: ImageProcessing
) -> tuple[dict[str, NDArray[Any]], list[Grid]]:
    """Prepare the sampled frames of one video, all of one size; the last stands twice where they make no whole pairs.

    Returns:
        As ``prepare_native``, with one grid: (frame pairs, rows, columns).

    Raises:
        ImageError: there is no frame, they differ in size, or one is not fit as in ``prepare_native``.
    """
    native = _facts(processing)
    assert native.video is not None  # the manifest of a bundle for video has it
    if not frames:
        raise ImageError("the video has no frames: expected 1 or more")
    for number, frame in enumerate(frames):
        if frame.size != frames[0].size:
            raise ImageError(
                f"frame {number} of the video is {frame.width}x{frame.height} pixels, the first "
                f"{frames[0].width}x{frames[0].height}: expected one size"
            )
    limit = _limit(native, native.video, len(frames))
    size = smart_size(frames[0].height, frames[0].width, native, limit)
    prepared = [normalise(_resized(frame, size, processing), processing) for frame in frames]
    prepared += prepared[-1:] * (-len(prepared) % native.temporal)
    pairs = len(prepared) // native.temporal
    values = _patches(np.stack(prepared).reshape(pairs, native.temporal, *prepared[0].shape), native)
    grids = [_grid(pairs, size, native)]
    return {"pixel_values": values[None], **tables(grids, native)}, grids


def sample(total: int, rate: float | None, native: Native) -> list[int]:
    """Which frames of a video are taken.

    Args:
        total: how many it has, 1 or more.
        rate: frames per second that it plays at; None where it does not say, as pictures do not: they count as sampled
            already, and all are taken up to ``Sampling.most``.
        native: the model's numbers, with those of a video.

    Returns:
        Numbers from 0, ascending; an even spread of ``Sampling.rate`` per second.
    """
    assert native.video is not None  # the manifest of a bundle for video has it
    sampling, whole = native.video, native.temporal
    if total < whole or (rate is None and total <= sampling.most):
        return list(range(total))
    wanted = max(total if rate is None else total / rate * sampling.rate, sampling.least)
    count = math.floor(min(wanted, min(sampling.most, total) // whole * whole)) // whole * whole
    step = total / max(count, whole)
    return [int(np.float32(index * step)) for index in range(max(count, whole))]  # in single precision, as torch.arange


def seconds_per_pair(taken: int, total: int, rate: float | None, native: Native) -> float:
    """Seconds from one frame pair to the next, where ``taken`` of ``total`` frames are taken at ``rate`` per second.

    Without a rate they follow each other as fast as the model samples: ``Sampling.rate``.
    """
    assert native.video is not None  # the manifest of a bundle for video has it
    return native.temporal / (taken / total * (rate or native.video.rate))


def smart_size(height: int, width: int, native: Native, max_pixels: int) -> tuple[int, int]:
    """(height, width) in pixels after the resize: multiples of a visual token's, the aspect ratio about kept.

    Args:
        height, width: in pixels.
        native: the model's numbers.
        max_pixels: what stands for its own where frames share a budget.

    Raises:
        ImageError: one edge is more than 200 times as long as the other.
    """
    if max(height, width) > LONGEST_RATIO * min(height, width):
        raise ImageError(
            f"the picture is {width}x{height} pixels, more than {LONGEST_RATIO} times as long as wide: "
            "crop it to a less extreme shape first"
        )
    factor = native.factor
    high, wide = round(height / factor) * factor, round(width / factor) * factor
    if high * wide > max_pixels:
        shrink = math.sqrt((height * width) / max_pixels)
        high = max(factor, math.floor(height / shrink / factor) * factor)
        wide = max(factor, math.floor(width / shrink / factor) * factor)
    elif high * wide < native.min_pixels:
        grow = math.sqrt(native.min_pixels / (height * width))
        high = math.ceil(height * grow / factor) * factor
        wide = math.ceil(width * grow / factor) * factor
    return high, wide


def tables(grids: Sequence[Grid], native: Native) -> dict[str, NDArray[np.int64]]:
    """Where visual tokens stand, and which of them see each other.

    Returns:
        "positions" [N, 2] int64, row and column in the picture; "windows" [w, g] int64, the visual tokens of each
        window row by row, padded with N, and "window_rows" [N] int64, where each visual token stands in the flattened
        table; "pictures" [p, l] and "picture_rows" [N], the same for pictures or frame pairs.
    """
    places, windows, pictures, first = [], [], [], 0
    for frames, rows, columns in grids:
        row, column = (axis.ravel() for axis in np.indices((rows, columns)))
        window = row // native.window_side * columns + column // native.window_side
        own = [np.flatnonzero(window == number) for number in np.unique(window)]
        for _ in range(frames):
            places.append(np.stack((row, column), axis=1))
            windows += [members + first for members in own]
            pictures.append(np.arange(first, first + rows * columns))
            first += rows * columns
    by_window, window_rows = _table(windows, native.window_side**2, first)
    by_picture, picture_rows = _table(pictures, max(map(len, pictures)), first)
    return {
        "positions": np.concatenate(places).astype(np.int64),
        "windows": by_window,
        "window_rows": window_rows,
        "pictures": by_picture,
        "picture_rows": picture_rows,
    }


def _table(members: Sequence[NDArray[np.int64]], width: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    table = np.full((len(members), width), count, np.int64)
    for row, own in zip(table, members, strict=True):
        row[: len(own)] = own
    back = np.empty(count + 1, np.int64)  # the last takes what pads
    back[table.ravel()] = np.arange(table.size)
    return table, back[:count]


def _facts(processing: ImageProcessing) -> Native:
    assert processing.native is not None  # the caller looked
    return processing.native


def _limit(native: Native, sampling: Sampling, frames: int) -> int:
    """The most pixels of a frame."""
    if sampling.budget is None:
        return native.max_pixels
    share = int(sampling.budget * native.factor**2 * 0.9) * native.temporal // frames
    return max(min(native.max_pixels, share), int(native.min_pixels * 1.05))


def _resized(picture: Image.Image, size: tuple[int, int], processing: ImageProcessing) -> Image.Image:
    if picture.mode != "RGB":
        raise ImageError(f"the picture is in mode {picture.mode!r}, expected 'RGB': open it with load_image")
    height, width = size
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), resample=Image.Resampling(processing.resample))


def _grid(pairs: int, size: tuple[int, int], native: Native) -> Grid:
    return pairs, size[0] // native.factor, size[1] // native.factor


def _patches(frames: NDArray[np.float32], native: Native) -> NDArray[np.float32]:
    """Map [pairs, temporal, 3, h, w] to [visual tokens, values]: patch by patch, each by colour, frame, row, column."""
    pairs, temporal, colours, height, width = frames.shape
    patch, merge = native.patch, native.merge
    rows, columns = height // native.factor, width // native.factor
    cut = frames.reshape(pairs, temporal, colours, rows, merge, patch, columns, merge, patch)
    ordered = cut.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return np.ascontiguousarray(ordered).reshape(pairs * rows * columns, native.token_values)
