"""What config.json of a CLIP checkpoint says: the text tower, and how patches and text get into one space.

Only what methods need that compare the picture with the question in CLIP's space; the vision tower's layers come from
the vision-language model's own checkpoint. The tensors are read with ``weights``, under Hugging Face's names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.checkpoint.config import ACTIVATIONS
from edgeprune.errors import CheckpointError, MissingExtra, UnsupportedModel

_LEGACY_END = 2
"""What older configurations say of the end token, whatever it is."""


@dataclass(frozen=True)
class ClipTextConfig:
    """The text tower.

    Attributes:
        hidden: width.
        layers: how many.
        heads: attention heads.
        intermediate: width of the MLP.
        vocab: rows of the token embedding table.
        length: tokens of a text, padding included.
        end_id: of the token whose row is read; None where it is the highest one of the text.
        activation: one of ``config.ACTIVATIONS``.
        norm_eps: epsilon of the layer norms.
    """

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocab: int
    length: int
    end_id: int | None
    activation: str
    norm_eps: float


@dataclass(frozen=True)
class ClipConfig:
    """A CLIP model.

    Attributes:
        text: its text tower.
        vision_width: width Dv of its vision tower.
        vision_norm_eps: epsilon of the vision tower's layer norms.
        embed: width E of the space that both are projected into.
    """

    text: ClipTextConfig
    vision_width: int
    vision_norm_eps: float
    embed: int


def read_clip_config(folder: Path) -> ClipConfig:
    """Read config.json of a CLIP checkpoint.

    Raises:
        CheckpointError: the file is missing, no JSON, or contradicts itself.
        UnsupportedModel: it is no CLIP model, or one that cannot be exported; the message names key and value.
        MissingExtra: transformers is not installed.
    """
    path = folder / "config.json"
    raw = _read_json(path)
    kind = raw.get("model_type")
    if kind != "clip":
        raise UnsupportedModel(
            f"{path}: model_type = {kind!r} is no CLIP model; give one with both towers, such as "
            "openai/clip-vit-large-patch14-336"
        )
    filled = _with_defaults(path, raw)
    try:
        vision = filled["vision_config"]
        return ClipConfig(
            text=_text(path, filled["text_config"]),
            vision_width=vision["hidden_size"],
            vision_norm_eps=vision["layer_norm_eps"],
            embed=filled["projection_dim"],
        )
    except KeyError as error:
        raise CheckpointError(f"{path} lacks the key {error}") from error


def _text(path: Path, text: Mapping[str, Any]) -> ClipTextConfig:
    if text["hidden_act"] not in ACTIVATIONS:
        raise UnsupportedModel(
            f"{path}: text_config.hidden_act = {text['hidden_act']!r} is not supported; "
            f"expected {' or '.join(ACTIVATIONS)}"
        )
    if text["hidden_size"] % text["num_attention_heads"]:
        raise CheckpointError(
            f"{path}: text hidden_size {text['hidden_size']} does not divide into {text['num_attention_heads']} heads"
        )
    end = text["eos_token_id"]
    if not isinstance(end, int):
        raise UnsupportedModel(f"{path}: text_config.eos_token_id = {end!r} is not supported; expected one id")
    return ClipTextConfig(
        hidden=text["hidden_size"],
        layers=text["num_hidden_layers"],
        heads=text["num_attention_heads"],
        intermediate=text["intermediate_size"],
        vocab=text["vocab_size"],
        length=text["max_position_embeddings"],
        end_id=None if end == _LEGACY_END else end,
        activation=text["hidden_act"],
        norm_eps=text["layer_norm_eps"],
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not a {type(raw).__name__}")
    return raw


def _with_defaults(path: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """The configuration with transformers' defaults filled in, as plain values; ``auto_map`` has no say."""
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra("transformers", "export", "reading a checkpoint") from error
    try:
        config: Any = transformers.CLIPConfig.from_dict(raw)
        return {
            **config.to_dict(),
            "vision_config": config.vision_config.to_dict(),
            "text_config": config.text_config.to_dict(),
        }
    except Exception as error:  # validation errors of transformers have no common class over its versions
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not describe a CLIP model: {reason}") from error
