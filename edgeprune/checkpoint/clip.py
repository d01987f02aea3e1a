"""What config.json of a CLIP checkpoint says: the text tower, and how patches and text get into one space.

Only what methods need that compare the picture with the question in CLIP's space; the vision tower's layers come from
the vision-language model's own checkpoint. The tensors are read with ``weights``, under Hugging Face's names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.checkpoint.raw import one_of, read_json, with_defaults
from edgeprune.checkpoint.tower import ACTIVATIONS
from edgeprune.errors import CheckpointError, UnsupportedModel

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
        activation: one of ``tower.ACTIVATIONS``.
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
    raw = read_json(path)
    kind = raw.get("model_type")
    if kind != "clip":
        raise UnsupportedModel(
            f"{path}: model_type = {kind!r} is no CLIP model; give one with both towers, such as "
            "openai/clip-vit-large-patch14-336"
        )
    filled = with_defaults(path, raw, "CLIPConfig")
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
        activation=one_of(path, "text_config.hidden_act", text["hidden_act"], ACTIVATIONS),
        norm_eps=text["layer_norm_eps"],
    )
