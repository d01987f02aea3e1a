"""How pictures or a video are prepared for a model, from its processor's files into the bundle's own values.

Of transformers' processors only the settings are read; a setting that would change pixels and is not carried is refused
by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeprune.bundle.image import Frames, ImageProcessing, Tiles
from edgeprune.checkpoint.processor import pixel_settings
from edgeprune.errors import BundleError, CheckpointError, UnsupportedModel

CLIP_DEFAULTS: Mapping[str, Any] = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}
"""What transformers' processors of CLIP's kind do where their file does not say."""


@dataclass(frozen=True)
class Settings:
    """A processor's settings, its defaults filled in.

    Attributes:
        where: the file, for messages.
        values: by transformers' names.
    """

    where: str
    values: Mapping[str, Any]

    def unsupported(self, key: str, expected: str) -> UnsupportedModel:
        """The error that names a key, its value and what would be carried."""
        value = self.values.get(key)
        shown = str(value).lower() if isinstance(value, bool) else repr(value)
        return UnsupportedModel(f"{self.where}: {key} = {shown} is not supported; expected {expected}")


def read_settings(
    folder: Path, kinds: tuple[str, ...], defaults: Mapping[str, Any] = CLIP_DEFAULTS, medium: str = "image"
) -> Settings:
    """Read the settings of a processor.

    Args:
        folder: the checkpoint's.
        kinds: transformers' classes whose steps the caller knows; "Fast" or "Pil" behind them says how, not what.
        defaults: what such a class does where its file does not say.
        medium: "image" or "video".

    Raises:
        CheckpointError: there are none, or the file is damaged.
        UnsupportedModel: another class.
    """
    where, found = pixel_settings(folder, medium)
    values = {**defaults, **{key: value for key, value in found.items() if value is not None or key not in defaults}}
    legacy = str(values.get("feature_extractor_type") or "").replace("FeatureExtractor", "ImageProcessor")
    names = [f"{kind}_processor_type" for kind in (medium, "image")]
    kind = next((str(values[name]) for name in names if values.get(name)), legacy)
    if kind.removesuffix("Fast").removesuffix("Pil") not in kinds:
        shown = f"{names[0]} = {kind or None!r}"
        raise UnsupportedModel(f"{where}: {shown} is not supported; expected {' or '.join(kinds)}")
    return Settings(where, values)


def fixed(settings: Settings) -> ImageProcessing:
    """Pictures of one fixed size, by CLIP's steps: resize, centre crop, rescale, normalise.

    Raises:
        UnsupportedModel: another step, or a size in other words.
        CheckpointError: values out of range.
    """
    values = settings.values
    if values.get("do_pad"):
        raise settings.unsupported("do_pad", "false")
    shortest, exact = _resize(settings)
    normalize = bool(values.get("do_normalize"))
    try:
        return ImageProcessing(
            kind="fixed",
            resize_shortest=shortest,
            resize_exact=exact,
            crop=_pair(values["crop_size"]) if values.get("do_center_crop") else None,
            resample=int(values["resample"]),
            rescale=float(values["rescale_factor"]) if values.get("do_rescale") else 1.0,
            mean=_triple(values["image_mean"]) if normalize else (0.0, 0.0, 0.0),
            std=_triple(values["image_std"]) if normalize else (1.0, 1.0, 1.0),
        )
    except (BundleError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{settings.where}: {error}") from error


def tiled(settings: Settings, tiles: Tiles) -> ImageProcessing:
    """Pictures cut into tiles, each of one square size that needs no resize or crop of its own any more.

    ``do_pad`` pads the list of a batch's tiles, not a picture, and is passed over.

    Raises:
        UnsupportedModel: a tile would be cropped to another size, or a size in other words.
        CheckpointError: values out of range.
    """
    values = settings.values
    processing = fixed(Settings(settings.where, {**values, "do_pad": False, "do_resize": True}))
    side = processing.resize_shortest
    size = processing.resize_exact if side is None else (side, side)
    if values.get("do_center_crop") and processing.crop != size:
        raise settings.unsupported("crop_size", f"{size}, the size of a tile")
    try:
        return replace(processing, kind="tiles", resize_shortest=None, resize_exact=size, crop=None, tiles=tiles)
    except BundleError as error:
        raise CheckpointError(f"{settings.where}: {error}") from error


def framed(settings: Settings, frames: Frames) -> ImageProcessing:
    """Frames of a video, each prepared as a picture of one fixed size.

    Raises:
        UnsupportedModel: another step, or a size in other words.
        CheckpointError: values out of range.
    """
    processing = fixed(settings)
    try:
        return replace(processing, kind="frames", frames=frames)
    except BundleError as error:
        raise CheckpointError(f"{settings.where}: {error}") from error


def check_size(folder: Path, processing: ImageProcessing, side: int) -> None:
    """Raises CheckpointError where pictures are prepared in another size than the encoder takes."""
    if processing.size != (side, side):
        height, width = processing.size
        raise CheckpointError(
            f"{folder}: the processor makes pictures of {height}x{width} pixels, and the encoder takes {side}x{side}"
        )


def _resize(settings: Settings) -> tuple[int | None, tuple[int, int] | None]:
    """(length of the shorter edge, None) or (None, (height, width)); (None, None) for no resize."""
    if not settings.values.get("do_resize"):
        return None, None
    size = settings.values["size"]
    if isinstance(size, int):  # of older files
        return size, None
    size = {key: value for key, value in dict(size).items() if value is not None}
    if set(size) == {"shortest_edge"}:
        return size["shortest_edge"], None
    if set(size) == {"height", "width"}:
        return None, (size["height"], size["width"])
    raise UnsupportedModel(f"{settings.where}: size = {size} is not supported; expected shortest_edge or height, width")


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size["height"], size["width"])


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)
