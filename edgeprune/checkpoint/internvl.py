"""What config.json of an InternVL model in Hugging Face's form says.

Only what an export needs, and only what it can carry: keys of InternViT that would change the numbers and are not
carried are refused by name. Knows nothing of weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.checkpoint.architecture import check_family
from edgeprune.checkpoint.decoder import DecoderConfig, read_decoder
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

DECODERS = ("qwen2", "llama")
NORMS = ("layer_norm", "rms_norm")


@dataclass(frozen=True)
class InternVitConfig(VisionConfig):
    """An InternViT tower.

    Attributes:
        norm: one of ``NORMS``.
        qkv_bias: whether q, k and v have biases.
        qk_norm: whether queries and keys are normalised.
        merge: patches on a side that make one visual token.
    """

    norm: str
    qkv_bias: bool
    qk_norm: bool
    merge: int


@dataclass(frozen=True)
class InternVlConfig:
    """An InternVL model.

    Attributes:
        vision: the tower.
        decoder: the language model.
        activation: of the projector, one of ``tower.ACTIVATIONS``.
        feature_layer: 0-based tower layer whose output is the image's features; 23 for -1 of 24.
        image_token_id: the id that stands for a visual token in a prompt.
        dtype: torch's name of what config.json declares, None where it declares nothing.
        architecture: Hugging Face's class.
    """

    vision: InternVitConfig
    decoder: DecoderConfig
    activation: str
    feature_layer: int
    image_token_id: int
    dtype: str | None
    architecture: str


def read_internvl_config(folder: Path) -> InternVlConfig:
    """Read config.json of a checkpoint.

    Raises:
        CheckpointError: the file is missing, no JSON, or contradicts itself.
        UnsupportedModel: a readable model that cannot be exported, or one of another family; the message names key and
            value.
        MissingExtra: transformers is not installed.
    """
    path = folder / "config.json"
    raw = read_json(path)
    architecture = check_family(path, raw, "internvl")
    text = part(path, raw, "text_config")
    one_of(path, "text_config.model_type", text.get("model_type", "qwen2"), DECODERS)
    tower = part(path, raw, "vision_config")
    one_of(path, "vision_config.model_type", tower.get("model_type", "internvl_vision"), ("internvl_vision",))
    check_kind(path, text)  # before transformers logs about it
    check_unquantized(path, raw)
    filled = with_defaults(path, raw, "InternVLConfig")
    try:
        return _config(path, filled, declared_dtype(raw), architecture)
    except KeyError as error:
        raise CheckpointError(f"{path} lacks the key {error}") from error


def _config(path: Path, filled: Mapping[str, Any], dtype: str | None, architecture: str) -> InternVlConfig:
    text = filled["text_config"]
    tower = _tower(path, filled["vision_config"], filled["downsample_ratio"])
    select = "vision_feature_select_strategy"
    one_of(path, select, filled[select], ("default",))
    return InternVlConfig(
        vision=tower,
        decoder=read_decoder(path, text, bool(filled["tie_word_embeddings"])),
        activation=one_of(path, "projector_hidden_act", filled["projector_hidden_act"], ACTIVATIONS),
        feature_layer=feature_layer(path, filled["vision_feature_layer"], tower.layers),
        image_token_id=token_id(path, "image_token_id", filled["image_token_id"], text["vocab_size"]),
        dtype=dtype,
        architecture=architecture,
    )


def _tower(path: Path, vision: Mapping[str, Any], ratio: float) -> InternVitConfig:
    if not vision["use_absolute_position_embeddings"]:
        raise unsupported(path, "vision_config.use_absolute_position_embeddings", False, ("true",))
    if not vision["use_mean_pooling"]:  # there would be one more norm
        raise unsupported(path, "vision_config.use_mean_pooling", False, ("true",))
    shape = read_tower(path, vision)
    return InternVitConfig(
        **vars(shape),
        norm=one_of(path, "vision_config.norm_type", vision["norm_type"], NORMS),
        qkv_bias=bool(vision["attention_bias"]),
        qk_norm=bool(vision["use_qk_norm"]),
        merge=_merge(path, ratio, shape.side),
    )


def _merge(path: Path, ratio: float, side: int) -> int:
    """Patches on a side of a token: the ratio's inverse."""
    merge = round(1 / ratio) if 0 < ratio <= 1 else 0
    if merge < 1 or merge * ratio != 1:
        raise unsupported(path, "downsample_ratio", ratio, ("one over a whole number",))
    if side % merge:
        raise CheckpointError(f"{path}: {side} patches on a side do not divide into squares of {merge}")
    return merge
