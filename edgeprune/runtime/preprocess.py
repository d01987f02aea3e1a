"""From a picture file to the tensor a vision graph takes, bit for bit as Hugging Face's CLIP processor.

The steps and their order of rounding are those of Transformers' ``load_image`` and of the Pillow backend of
``CLIPImageProcessor``. Knows nothing about models: every number comes from an ``ImageProcessing``.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edgeprune.bundle.image import ImageProcessing
from edgeprune.errors import EdgePruneError, ImageError

SMALLEST_EDGE = 2
"""Pixels; one single pixel or a line of them says nothing, and resizes to a flat colour."""

_FILTERS_LOCK = threading.Lock()  # warning filters are one list per process: threads must take turns

Source = str | os.PathLike[str] | bytes | Image.Image
"""A picture or a video: a path, the bytes of a file, or an open picture."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What is opened. Pillow knows more; some of those start other programs (EPS)."""

_VIDEO_HEADS = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"\x00\x00\x01\xba",  # MPEG program stream
    b"\x00\x00\x01\xb3",  # MPEG video
    b"\x30\x26\xb2\x75",  # ASF
    b"FLV",
    b"OggS",
)
_STILL_BRANDS = (b"avif", b"heic", b"heix", b"mif1")  # pictures in a video's container


def load_image(source: Source) -> Image.Image:
    """Open a picture upright and in RGB.

    Alpha is dropped and a colour key becomes white, as in Transformers when it is given a path.

    Args:
        source: a path, the bytes of a file, or an open picture, which is left as it was.

    Returns:
        A new picture in mode RGB, turned as its EXIF orientation says.

    Raises:
        ImageError: the source is not found, no picture, truncated, larger than Pillow's ``MAX_IMAGE_PIXELS``,
            or less than 2 pixels wide or high.
    """
    name = source_name(source)
    if is_video(source):
        raise ImageError(f"{name} is a video, and this model takes pictures")
    with _mapped_errors(name):
        if isinstance(source, Image.Image):
            image = _upright_rgb(source)
        else:
            file = io.BytesIO(source) if isinstance(source, bytes) else Path(source)
            with Image.open(file, formats=FORMATS) as opened:
                image = _upright_rgb(opened)
    if min(image.size) < SMALLEST_EDGE:
        raise ImageError(
            f"{name} is {image.width}x{image.height} pixels: the smallest accepted is {SMALLEST_EDGE}x{SMALLEST_EDGE}"
        )
    return image


def is_video(source: Source) -> bool:
    """Whether a file begins as one of the usual kinds of video does."""
    if isinstance(source, Image.Image):
        return False
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
            head = file.read(12)
    except OSError:
        return False  # whoever opens it says why
    if head[4:8] == b"ftyp":
        return head[8:12] not in _STILL_BRANDS
    return head.startswith(_VIDEO_HEADS) or (head[:4] == b"RIFF" and head[8:] == b"AVI ")


def is_still(source: str | os.PathLike[str] | bytes) -> bool:
    """Whether a file is a picture that does not move; a GIF may."""
    file = io.BytesIO(source) if isinstance(source, bytes) else Path(source)
    try:
        with _FILTERS_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=FORMATS) as opened:
                return opened.format != "GIF" or getattr(opened, "n_frames", 1) == 1
    except Exception:  # decoders raise anything on bytes that are no picture
        return False


def preprocess(image: Image.Image, processing: ImageProcessing) -> NDArray[np.float32]:
    """Prepare one picture.

    Args:
        image: what ``load_image`` returns.
        processing: the model's numbers.

    Returns:
        float32 [3, height, width], contiguous, with (height, width) = ``processing.size``.

    Raises:
        ImageError: the picture is not in RGB, or so long and thin that resizing its shorter edge would pass
            Pillow's ``MAX_IMAGE_PIXELS``.
    """
    return normalise(fit(image, processing), processing)


def normalise(image: Image.Image, processing: ImageProcessing) -> NDArray[np.float32]:
    """The last steps for a picture that has its size already: float32 [3, height, width], contiguous."""
    pixels = np.asarray(image)  # [h, w, 3] uint8
    rescaled = (pixels.astype(np.float64) * processing.rescale).astype(np.float32)
    mean, std = np.array(processing.mean, np.float32), np.array(processing.std, np.float32)
    return np.ascontiguousarray(((rescaled - mean) / std).transpose(2, 0, 1))  # [3, h, w]


def batch(images: Sequence[Image.Image], processing: ImageProcessing) -> NDArray[np.float32]:
    """Prepare pictures of any sizes together.

    Returns:
        float32 [B, 3, height, width], B the number of pictures; B may be 0.

    Raises:
        ImageError: as ``preprocess``.
    """
    prepared = np.empty((len(images), 3, *processing.size), np.float32)
    for row, image in enumerate(images):
        prepared[row] = preprocess(image, processing)
    return prepared


def fit(image: Image.Image, processing: ImageProcessing) -> Image.Image:
    """The part of a picture the model sees: resized and cropped, still in 0..255.

    Returns:
        A picture in mode RGB of ``processing.size``.

    Raises:
        ImageError: as ``preprocess``.
    """
    if image.mode != "RGB":
        raise ImageError(f"the picture is in mode {image.mode!r}, expected 'RGB': open it with load_image")
    height, width = _resized_size(image.height, image.width, processing)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and height * width > limit:
        raise ImageError(
            f"the picture is {image.width}x{image.height} pixels and would be resized to {width}x{height}, "
            f"more than {limit} pixels: crop it to a less extreme shape first"
        )
    if (height, width) != (image.height, image.width):
        image = image.resize((width, height), resample=Image.Resampling(processing.resample))
    return image if processing.crop is None else _centre_crop(image, *processing.crop)


def _resized_size(height: int, width: int, processing: ImageProcessing) -> tuple[int, int]:
    if processing.resize_exact is not None:
        return processing.resize_exact
    if processing.resize_shortest is None:
        return height, width
    short, long = min(height, width), max(height, width)
    new_short, new_long = processing.resize_shortest, int(processing.resize_shortest * long / short)
    return (new_long, new_short) if width <= height else (new_short, new_long)


def _centre_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    left, top = _offset(image.width, width), _offset(image.height, height)
    if (left, top, width, height) == (0, 0, image.width, image.height):
        return image
    cropped = Image.new("RGB", (width, height))  # black where the picture does not reach
    cropped.paste(image, (-left, -top))
    return cropped


def _offset(have: int, want: int) -> int:
    """First pixel of the crop along one edge: rounds down, also where it is negative and pads instead."""
    return (have - want) // 2 if have >= want else -ceil((want - have) / 2)


def _upright_rgb(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    if isinstance(upright.info.get("transparency"), bytes):
        del upright.info["transparency"]  # convert() would drop it too, but not without a warning
    rgb = upright.convert("RGB")
    if rgb.info.get("transparency") is not None:  # a colour key survives convert(): it is painted white
        white = Image.new("RGBA", rgb.size, (255, 255, 255, 255))
        rgb = Image.alpha_composite(white, rgb.convert("RGBA")).convert("RGB")
    rgb.info.pop("transparency", None)
    return rgb


def source_name(source: Source) -> str:
    """What messages call it."""
    if isinstance(source, bytes):
        return "the image data"
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or "the image data")
    return os.fspath(source)


@contextmanager
def _mapped_errors(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises or warns about a file into an ImageError of one line."""
    try:
        with _FILTERS_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks about metadata: the pixels do not depend on it
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except EdgePruneError:
        raise
    except FileNotFoundError as error:
        hint = ": download it first" if name.startswith(("http://", "https://")) else ""
        raise ImageError(f"{name} is not found{hint}") from error
    except IsADirectoryError as error:
        raise ImageError(f"{name} is a folder, expected a picture file") from error
    except PermissionError as error:
        raise ImageError(f"{name} may not be read: check its permissions") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not a picture in a format read here ({', '.join(FORMATS)})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{name} has more than {Image.MAX_IMAGE_PIXELS} pixels, refused as a decompression bomb: "
            "make it smaller first"
        ) from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ... on damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name} cannot be read, damaged or truncated: {reason}") from error
