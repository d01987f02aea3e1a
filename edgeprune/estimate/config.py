"""The sizes in a config.json, read without transformers, with its defaults for what the file leaves out.

The LLaVA files on the hub leave out most of the decoder. Only what a cost is counted from is read; whether the model
can be exported is for ``checkpoint.config``, which fills the gaps through transformers itself and refuses more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.bundle.sizes import Decoder, Vision
from edgeprune.errors import BundleError, CheckpointError, UnsupportedModel
from edgeprune.estimate.shape import Shape

ARCHITECTURE = "LlavaForConditionalGeneration"
_LLAMA = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,  # as many as there are heads
    "head_dim": None,  # width over heads
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
_DECODERS: dict[str, dict[str, int | None]] = {
    "llama": _LLAMA,
    "qwen2": _LLAMA
    | {
        "num_key_value_heads": 32,
        "intermediate_size": 22016,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
    },
}
"""``LlamaConfig`` and ``Qwen2Config``."""
_TOWER: dict[str, int | None] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 32,
}
"""``CLIPVisionConfig``, for a vision_config that is there."""
_LLAVA_TOWER: dict[str, int | None] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "image_size": 336,
    "patch_size": 14,
}
"""What ``LlavaConfig`` has where there is none: CLIP ViT-L/14 at 336 pixels."""


def read_shape(path: Path) -> Shape:
    """The sizes of a LLaVA model.

    Args:
        path: a config.json; the name of its folder becomes the model's.

    Raises:
        CheckpointError: the file cannot be read, is no JSON, or holds something that is no size.
        UnsupportedModel: another kind of model.
    """
    raw = _read(path)
    _check_kind(path, raw)
    tower = _part(path, raw, "vision_config")
    text = _part(path, raw, "text_config")
    kind = text.get("model_type", "llama")
    if kind not in _DECODERS:
        raise _unsupported(path, "text_config.model_type", kind, " or ".join(_DECODERS))
    try:
        vision = _vision(path, tower, raw.get("vision_feature_layer", -2))
        decoder = _decoder(_filled(path, "text_config", text, _DECODERS[kind]))
    except BundleError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return Shape(path.parent.resolve().name, vision, decoder)


def _read(path: Path) -> dict[str, Any]:
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not a {type(raw).__name__}")
    return raw


def _check_kind(path: Path, raw: Mapping[str, Any]) -> None:
    named = raw.get("architectures") or [raw.get("model_type")]
    found = named[0] if isinstance(named, list) and named else named
    if found not in (ARCHITECTURE, "llava"):
        raise _unsupported(path, "architectures", found, ARCHITECTURE)


def _part(path: Path, raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = raw.get(key)
    if part is None:
        return _LLAVA_TOWER if key == "vision_config" else {}
    if not isinstance(part, dict):
        raise CheckpointError(f"{path}: {key} must be an object, not {part!r}")
    return part


def _filled(path: Path, part: str, given: Mapping[str, Any], defaults: Mapping[str, int | None]) -> dict[str, Any]:
    """The sizes that the defaults name, each as the file has it, else by default."""
    sizes = {key: given.get(key, value) for key, value in defaults.items()}
    for key, value in sizes.items():
        may_lack = value is None and defaults[key] is None
        if not may_lack and (type(value) is not int or value < 1):
            raise CheckpointError(f"{path}: {part}.{key} = {value!r}; expected a whole number from 1 on")
    return sizes


def _vision(path: Path, tower: Mapping[str, Any], layer: object) -> Vision:
    kind = tower.get("model_type", "clip_vision_model")
    if kind != "clip_vision_model":
        raise _unsupported(path, "vision_config.model_type", kind, "clip_vision_model")
    t = _filled(path, "vision_config", tower, _TOWER)
    layers = t["num_hidden_layers"]
    if type(layer) is not int or layer == 0 or not -layers <= layer <= layers:
        raise _unsupported(path, "vision_feature_layer", layer, f"1..{layers} or -{layers}..-1")
    side = t["image_size"] // t["patch_size"]
    run = layer if layer > 0 else layers + layer + 1
    return Vision(
        (side, side), t["hidden_size"], run, t["num_attention_heads"], t["intermediate_size"], t["patch_size"]
    )


def _decoder(text: Mapping[str, Any]) -> Decoder:
    heads = text["num_attention_heads"]
    return Decoder(
        layers=text["num_hidden_layers"],
        hidden=text["hidden_size"],
        heads=heads,
        kv_heads=text["num_key_value_heads"] or heads,
        head_dim=text["head_dim"] or text["hidden_size"] // heads,
        intermediate=text["intermediate_size"],
        vocab=text["vocab_size"],
        context=text["max_position_embeddings"],
    )


def _unsupported(path: Path, key: str, value: object, expected: str) -> UnsupportedModel:
    return UnsupportedModel(f"{path}: {key} = {value!r} is not supported; expected {expected}")
