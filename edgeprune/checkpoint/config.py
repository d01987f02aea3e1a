"""What config.json of a model of LLaVA's build says: tower, projector, decoder, and which layer is read.

Only what an export needs, and only what it can carry. LLaVA-1.5, LLaVA-NeXT, Video-LLaVA and LLaVA-OneVision are built
so and differ in what is done with their features; a family of another build reads its own with ``raw``, ``tower`` and
``decoder``. Knows nothing of weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.checkpoint.architecture import check_family
from edgeprune.checkpoint.decoder import DECODERS, DecoderConfig, read_decoder
from edgeprune.checkpoint.raw import (
    check_unquantized,
    declared_dtype,
    one_of,
    part,
    read_json,
    token_id,
    unsupported,
    with_defaults,
)
from edgeprune.checkpoint.rope import check_kind
from edgeprune.checkpoint.tower import ACTIVATIONS, VisionConfig, feature_layer, read_tower
from edgeprune.errors import CheckpointError

FEATURE_SELECT = ("default", "full")

_CLASSES = {  # family: transformers' configuration, the tower's model_type, the decoder's
    "llava": ("LlavaConfig", "clip_vision_model", "llama"),
    "llava_next": ("LlavaNextConfig", "clip_vision_model", "llama"),
    "video_llava": ("VideoLlavaConfig", "clip_vision_model", "llama"),
    "llava_onevision": ("LlavaOnevisionConfig", "siglip_vision_model", "qwen2"),
}


@dataclass(frozen=True)
class ProjectorConfig:
    """Two linear layers from Dv to D with an activation between.

    Attributes:
        activation: one of ``tower.ACTIVATIONS``.
        bias: whether the two layers have biases.
    """

    activation: str
    bias: bool


@dataclass(frozen=True)
class LlavaConfig:
    """A model of LLaVA's build.

    Attributes:
        vision: the tower.
        decoder: the language model.
        projector: between them.
        feature_layer: 0-based tower layer whose output is the image's features; 22 for -2 of 24.
        feature_select: ``"default"`` drops the class token, ``"full"`` keeps it.
        image_token_id: the id that stands for a visual token of a picture in a prompt.
        video_token_id: the same of a video; None where the model has none.
        video_rows: rows of a whole video in the decoder (Video-LLaVA); None where the model does not fix them.
        pinpoints: resolutions [height, width] in pixels that a picture may be cut into tiles at; () for one fixed size.
        dtype: torch's name of what config.json declares, None where it declares nothing.
        architecture: Hugging Face's class.
    """

    vision: VisionConfig
    decoder: DecoderConfig
    projector: ProjectorConfig
    feature_layer: int
    feature_select: str
    image_token_id: int
    video_token_id: int | None
    video_rows: int | None
    pinpoints: tuple[tuple[int, int], ...]
    dtype: str | None
    architecture: str


def read_config(folder: Path, family: str = "llava") -> LlavaConfig:
    """Read config.json of a checkpoint.

    Args:
        folder: the checkpoint's.
        family: which family it is opened as, one of LLaVA's build.

    Raises:
        CheckpointError: the file is missing, no JSON, or contradicts itself.
        UnsupportedModel: a readable model that cannot be exported, or one of another family; the message names key and
            value.
        MissingExtra: transformers is not installed.
    """
    path = folder / "config.json"
    raw = read_json(path)
    architecture = check_family(path, raw, family)
    name, tower, decoder = _CLASSES[family]
    _check_raw(path, raw, tower, decoder)
    filled = with_defaults(path, raw, name)
    try:
        return _config(path, filled, declared_dtype(raw), architecture)
    except KeyError as error:
        raise CheckpointError(f"{path} lacks the key {error}") from error


def _check_raw(path: Path, raw: Mapping[str, Any], tower: str, decoder: str) -> None:
    """Refuses what transformers should not even be asked about."""
    text, vision = part(path, raw, "text_config"), part(path, raw, "vision_config")
    one_of(path, "text_config.model_type", text.get("model_type", decoder), DECODERS)
    one_of(path, "vision_config.model_type", vision.get("model_type", tower), (tower,))
    check_kind(path, text)  # before transformers logs about it
    layer = raw.get("vision_feature_layer", -2)
    if type(layer) is not int:
        raise unsupported(path, "vision_feature_layer", layer, ("one layer",))
    select = "vision_feature_select_strategy"
    one_of(path, select, raw.get(select, "default"), FEATURE_SELECT)
    check_unquantized(path, raw)


def _config(path: Path, filled: Mapping[str, Any], dtype: str | None, architecture: str) -> LlavaConfig:
    vision, text = filled["vision_config"], filled["text_config"]
    tower, vocab, video = read_tower(path, vision), text["vocab_size"], filled.get("video_token_index")
    return LlavaConfig(
        vision=tower,
        decoder=read_decoder(path, text, bool(filled["tie_word_embeddings"])),
        projector=ProjectorConfig(
            activation=one_of(path, "projector_hidden_act", filled["projector_hidden_act"], ACTIVATIONS),
            bias=bool(filled["multimodal_projector_bias"]),
        ),
        feature_layer=feature_layer(path, filled["vision_feature_layer"], tower.layers),
        feature_select=filled["vision_feature_select_strategy"],
        image_token_id=token_id(path, "image_token_index", filled["image_token_index"], vocab),
        video_token_id=None if video is None else token_id(path, "video_token_index", video, vocab),
        video_rows=filled.get("video_seq_length"),
        pinpoints=_pinpoints(path, filled.get("image_grid_pinpoints") or (), tower.image_size),
        dtype=dtype,
        architecture=architecture,
    )


def _pinpoints(path: Path, values: Any, side: int) -> tuple[tuple[int, int], ...]:
    """Resolutions of whole tiles, in the order of the file: of two that fit a picture alike the first is taken."""
    try:
        found = tuple((int(height), int(width)) for height, width in values)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: image_grid_pinpoints must be pairs of height and width ({error})") from error
    for height, width in found:
        if min(height, width) < side or height % side or width % side:
            raise CheckpointError(
                f"{path}: image_grid_pinpoints has {height}x{width}, which is no grid of tiles of {side}x{side}"
            )
    return found
