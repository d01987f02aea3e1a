"""What config.json and the processor's files of a Qwen2.5-VL model say.

Only what an export needs, and only what it can carry: keys that would change the numbers and are not carried are
refused by name. Knows nothing of weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.bundle.image import ImageProcessing
from edgeprune.bundle.native import Native, Sampling
from edgeprune.bundle.prompt import Medium
from edgeprune.checkpoint.architecture import check_family
from edgeprune.checkpoint.decoder import DecoderConfig, read_decoder
from edgeprune.checkpoint.image import CLIP_DEFAULTS, Settings, read_settings
from edgeprune.checkpoint.raw import (
    check_unquantized,
    declared_dtype,
    one_of,
    part,
    read_json,
    square,
    token_id,
    unsupported,
    with_defaults,
)
from edgeprune.checkpoint.rope import check_kind
from edgeprune.errors import BundleError, CheckpointError

NORM_EPS = 1e-6
"""Of the tower's norms; no configuration has another."""

THETA = 10000.0
"""Base of the tower's rotary frequencies, where a configuration does not say."""

RATE = 2.0
"""Frames per second of a video whose processor samples none: Qwen's own default (``qwen_vl_utils``)."""

_VIDEO_PIXELS = {"shortest_edge": 128 * 28**2, "longest_edge": 768 * 28**2}
_IMAGE_PIXELS = {"shortest_edge": 4 * 28**2, "longest_edge": 1280 * 28**2}
_SHARED = {**CLIP_DEFAULTS, "do_center_crop": False, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}


@dataclass(frozen=True)
class QwenVisionConfig:
    """Qwen2.5-VL's tower.

    Attributes:
        hidden: width of a patch.
        layers: how many there are, all of which run.
        heads: attention heads.
        intermediate: width of the MLP.
        activation: "silu".
        norm_eps: epsilon of the RMS norms.
        theta: base of the rotary frequencies.
        patch_size: pixels on a side.
        temporal: frames that make one patch.
        merge: patches on a side that make one visual token.
        window: pixels on a side of an attention window.
        full_layers: the layers that attend within whole pictures.
        tokens_per_second: time positions that a second of a video takes in the decoder.
    """

    hidden: int
    layers: int
    heads: int
    intermediate: int
    activation: str
    norm_eps: float
    theta: float
    patch_size: int
    temporal: int
    merge: int
    window: int
    full_layers: tuple[int, ...]
    tokens_per_second: float

    @property
    def patch_values(self) -> int:
        """Values of one patch."""
        return 3 * self.temporal * self.patch_size**2


@dataclass(frozen=True)
class QwenConfig:
    """A Qwen2.5-VL model.

    Attributes:
        vision: the tower.
        decoder: the language model, whose positions have three axes.
        image_token_id, video_token_id: the ids that stand for a visual token in a prompt.
        dtype: torch's name of what config.json declares, None where it declares nothing.
        architecture: Hugging Face's class.
    """

    vision: QwenVisionConfig
    decoder: DecoderConfig
    image_token_id: int
    video_token_id: int
    dtype: str | None
    architecture: str


def read_qwen_config(folder: Path) -> QwenConfig:
    """Read config.json of a checkpoint; the decoder's keys may stand beside the tower's, as on the hub.

    Raises:
        CheckpointError: the file is missing, no JSON, or contradicts itself.
        UnsupportedModel: a readable model that cannot be exported, or one of another family; the message names key and
            value.
        MissingExtra: transformers is not installed.
    """
    path = folder / "config.json"
    raw = read_json(path)
    architecture = check_family(path, raw, "qwen2_5_vl")
    part(path, raw, "vision_config")
    check_kind(path, part(path, raw, "text_config") or raw)  # before transformers logs about it
    check_unquantized(path, raw)
    filled = with_defaults(path, raw, "Qwen2_5_VLConfig")
    try:
        text = filled["text_config"]
        decoder = read_decoder(path, text, bool(filled["tie_word_embeddings"]))
        if not decoder.rope.sections:
            raise CheckpointError(f"{path}: rope_scaling lacks mrope_section, the rotation planes of each axis")
        return QwenConfig(
            vision=_vision(path, filled["vision_config"], decoder.hidden),
            decoder=decoder,
            image_token_id=token_id(path, "image_token_id", filled["image_token_id"], decoder.vocab),
            video_token_id=token_id(path, "video_token_id", filled["video_token_id"], decoder.vocab),
            dtype=declared_dtype(raw),
            architecture=architecture,
        )
    except KeyError as error:
        raise CheckpointError(f"{path} lacks the key {error}") from error


def _vision(path: Path, vision: Mapping[str, Any], width: int) -> QwenVisionConfig:
    if vision["in_channels"] != 3:
        raise unsupported(path, "vision_config.in_channels", vision["in_channels"], ("3",))
    if vision["out_hidden_size"] != width:
        raise CheckpointError(
            f"{path}: vision_config.out_hidden_size is {vision['out_hidden_size']} and the decoder's width {width}"
        )
    config = QwenVisionConfig(
        hidden=vision["hidden_size"],
        layers=vision["depth"],
        heads=vision["num_heads"],
        intermediate=vision["intermediate_size"],
        activation=one_of(path, "vision_config.hidden_act", vision["hidden_act"], ("silu",)),
        norm_eps=NORM_EPS,
        theta=float((vision.get("rope_parameters") or {}).get("rope_theta") or THETA),
        patch_size=square(path, "vision_config.patch_size", vision["patch_size"]),
        temporal=square(path, "vision_config.temporal_patch_size", vision["temporal_patch_size"]),
        merge=vision["spatial_merge_size"],
        window=vision["window_size"],
        full_layers=tuple(vision["fullatt_block_indexes"]),
        tokens_per_second=float(vision["tokens_per_second"]),
    )
    if config.hidden % (4 * config.heads):  # a head's planes are shared by rows and columns
        raise CheckpointError(
            f"{path}: vision hidden_size {config.hidden} does not divide into {config.heads} heads of a width that "
            "divides by 4"
        )
    return config


def read_native(folder: Path, medium: Medium, vision: QwenVisionConfig) -> ImageProcessing:
    """How pictures, or a video, are prepared; from the processor's files.

    A video processor that samples no frames (the hub's, which leave it to ``qwen_vl_utils``) gets ``RATE``.

    Raises:
        CheckpointError: values that contradict config.json, or out of range.
        UnsupportedModel: another class, or a step that is not carried.
    """
    # Without a file of its own, the video processor reads the image processor's.
    kinds = ("Qwen2VLVideoProcessor", "Qwen2VLImageProcessor") if medium == "video" else ("Qwen2VLImageProcessor",)
    pixels = _VIDEO_PIXELS if medium == "video" else _IMAGE_PIXELS
    settings = read_settings(folder, kinds, {**_SHARED, "size": pixels}, medium)
    values = settings.values
    for name, expected in (("do_resize", True), ("do_rescale", True), ("do_normalize", True)):
        if values.get(name) is not expected:
            raise settings.unsupported(name, "true")
    for name, own in (
        ("patch_size", vision.patch_size),
        ("temporal_patch_size", vision.temporal),
        ("merge_size", vision.merge),
    ):
        if values[name] != own:
            raise CheckpointError(f"{settings.where}: {name} is {values[name]}, by config.json {own}")
    size = dict(values["size"])
    try:
        native = Native(
            patch=vision.patch_size,
            merge=vision.merge,
            temporal=vision.temporal,
            window=vision.window,
            min_pixels=values.get("min_pixels") or size["shortest_edge"],
            max_pixels=values.get("max_pixels") or size["longest_edge"],
            video=_sampling(settings, vision) if medium == "video" else None,
        )
        return ImageProcessing(
            kind="native",
            resize_shortest=None,
            resize_exact=None,
            crop=None,
            resample=int(values["resample"]),
            rescale=float(values["rescale_factor"]),
            mean=_triple(values["image_mean"]),
            std=_triple(values["image_std"]),
            native=native,
        )
    except (BundleError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{settings.where}: {error}") from error


def _sampling(settings: Settings, vision: QwenVisionConfig) -> Sampling:
    values = settings.values
    if values.get("num_frames") is not None:
        raise settings.unsupported("num_frames", "null: frames are sampled by fps")
    rate = values.get("fps") if values.get("do_sample_frames") else None
    return Sampling(
        rate=float(rate or RATE),
        least=values.get("min_frames", 4),
        most=values.get("max_frames", 768),
        tokens_per_second=vision.tokens_per_second,
        budget=values.get("max_video_tokens", 128000) if values.get("cap_pixels_per_frame") else None,
    )


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)
