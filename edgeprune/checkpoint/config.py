"""What config.json says, as typed values: only what an export needs, and only what it can carry.

The file is foreign: keys that mean nothing here are passed over, keys that would change the numbers and are
not carried are refused by name. Values that the file leaves out are transformers' defaults. Code that a
checkpoint brings along (``auto_map``) is never imported. Knows nothing of weights.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.checkpoint.rope import Rope, check_kind, read_rope
from edgeprune.errors import CheckpointError, MissingExtra, UnsupportedModel

ARCHITECTURES = ("LlavaForConditionalGeneration",)
ORIGINALS = ("LlavaLlamaForCausalLM", "LlavaMistralForCausalLM")
"""Of the LLaVA authors' own code."""
DECODERS = ("llama", "qwen2")
TOWERS = ("clip_vision_model",)
ACTIVATIONS = ("gelu", "quick_gelu", "silu")
FEATURE_SELECT = ("default", "full")


@dataclass(frozen=True)
class VisionConfig:
    """A CLIP vision tower.

    Attributes:
        hidden: width Dv.
        layers: how many layers the checkpoint holds; an export stops after ``LlavaConfig.feature_layer``.
        heads: attention heads.
        intermediate: width of the MLP.
        image_size: pixels on a side.
        patch_size: pixels on a side.
        activation: one of ``ACTIVATIONS``.
        norm_eps: epsilon of the layer norms.
    """

    hidden: int
    layers: int
    heads: int
    intermediate: int
    image_size: int
    patch_size: int
    activation: str
    norm_eps: float

    @property
    def patches(self) -> int:
        """N: patches of an image, the class token not counted."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class DecoderConfig:
    """A Llama or Qwen2 decoder.

    Attributes:
        hidden: width D.
        layers: decoder layers.
        heads: query heads H.
        kv_heads: key and value heads Hkv.
        head_dim: width dh of a head; H * dh need not be D.
        intermediate: width of the MLP.
        vocab: rows of the embedding table.
        context: longest sequence in tokens.
        norm_eps: epsilon of the RMS norms.
        rope: rotary embedding.
        qkv_bias: whether q, k and v have biases (Qwen2); the output projection has none.
        tied: whether the embedding table is the head, too.
        activation: one of ``ACTIVATIONS``.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    context: int
    norm_eps: float
    rope: Rope
    qkv_bias: bool
    tied: bool
    activation: str


@dataclass(frozen=True)
class ProjectorConfig:
    """Two linear layers from Dv to D with an activation between.

    Attributes:
        activation: one of ``ACTIVATIONS``.
        bias: whether the two layers have biases.
    """

    activation: str
    bias: bool


@dataclass(frozen=True)
class LlavaConfig:
    """A LLaVA-1.5 model.

    Attributes:
        vision: the tower.
        decoder: the language model.
        projector: between them.
        feature_layer: 0-based tower layer whose output is the image's features; 22 for -2 of 24.
        feature_select: ``"default"`` drops the class token, ``"full"`` keeps it.
        image_token_id: the id that stands for a visual token in a prompt.
        dtype: torch's name of what config.json declares, None where it declares nothing.
        architecture: one of ``ARCHITECTURES``.
    """

    vision: VisionConfig
    decoder: DecoderConfig
    projector: ProjectorConfig
    feature_layer: int
    feature_select: str
    image_token_id: int
    dtype: str | None
    architecture: str


def read_config(folder: Path) -> LlavaConfig:
    """Reads config.json of a checkpoint.

    Raises:
        CheckpointError: the file is missing, no JSON, or contradicts itself.
        UnsupportedModel: a readable model that cannot be exported; the message names key and value.
        MissingExtra: transformers is not installed.
    """
    path = folder / "config.json"
    raw = _read_json(path)
    architecture = _check_raw(path, raw)
    filled = _with_defaults(path, raw)
    try:
        vision, text = filled["vision_config"], filled["text_config"]
        tower = _vision(path, vision)
        return LlavaConfig(
            vision=tower,
            decoder=_decoder(path, text, bool(filled["tie_word_embeddings"])),
            projector=ProjectorConfig(
                activation=_one_of(path, "projector_hidden_act", filled["projector_hidden_act"], ACTIVATIONS),
                bias=bool(filled["multimodal_projector_bias"]),
            ),
            feature_layer=_feature_layer(path, filled["vision_feature_layer"], tower.layers),
            feature_select=filled["vision_feature_select_strategy"],
            image_token_id=_image_token(path, filled["image_token_index"], text["vocab_size"]),
            dtype=_dtype(raw),
            architecture=architecture,
        )
    except KeyError as error:
        raise CheckpointError(f"{path} lacks the key {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} is not a checkpoint: it holds no config.json") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not a {type(raw).__name__}")
    return raw


def _check_raw(path: Path, raw: Mapping[str, Any]) -> str:
    """Refuses what transformers should not even be asked about; returns the architecture."""
    named = raw.get("architectures") or [raw.get("model_type")]
    architecture = named[0] if isinstance(named, list) and named else named
    if architecture not in ARCHITECTURES:
        hint = "; use its converted form, such as llava-hf/llava-1.5-7b-hf" if architecture in ORIGINALS else ""
        raise _unsupported(path, "architectures", architecture, ARCHITECTURES, hint)
    _one_of(path, "model_type", raw.get("model_type", "llava"), ("llava",))
    for key, default, known in (("text_config", "llama", DECODERS), ("vision_config", TOWERS[0], TOWERS)):
        part = raw.get(key) or {}
        if not isinstance(part, dict):
            raise CheckpointError(f"{path}: {key} must be an object, not {part!r}")
        _one_of(path, f"{key}.model_type", part.get("model_type", default), known)
    check_kind(path, raw.get("text_config") or {})  # before transformers logs about it
    layer = raw.get("vision_feature_layer", -2)
    if type(layer) is not int:
        raise _unsupported(path, "vision_feature_layer", layer, ("one layer",))
    select = "vision_feature_select_strategy"
    _one_of(path, select, raw.get(select, "default"), FEATURE_SELECT)
    for holder in (raw, raw.get("text_config") or {}):
        if holder.get("quantization_config") is not None:
            raise UnsupportedModel(
                f"{path}: quantization_config is not supported; export the checkpoint it was quantized from"
            )
    return str(architecture)


def _with_defaults(path: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """The configuration with transformers' defaults filled in, as plain values.

    The class is named here, not looked up by AutoConfig, so ``auto_map`` has no say.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra("transformers", "export", "reading a checkpoint") from error
    try:
        config: Any = transformers.LlavaConfig.from_dict(copy.deepcopy(raw))
        return {
            **config.to_dict(),
            "image_token_index": config.image_token_index,
            "vision_config": config.vision_config.to_dict(),
            "text_config": config.text_config.to_dict(),
        }
    except Exception as error:  # validation errors of transformers have no common class over its versions
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not describe a LLaVA model: {reason}") from error


def _vision(path: Path, vision: Mapping[str, Any]) -> VisionConfig:
    if vision["num_channels"] != 3:
        raise _unsupported(path, "vision_config.num_channels", vision["num_channels"], ("3",))
    config = VisionConfig(
        hidden=vision["hidden_size"],
        layers=vision["num_hidden_layers"],
        heads=vision["num_attention_heads"],
        intermediate=vision["intermediate_size"],
        image_size=_square(path, "image_size", vision["image_size"]),
        patch_size=_square(path, "patch_size", vision["patch_size"]),
        activation=_one_of(path, "vision_config.hidden_act", vision["hidden_act"], ACTIVATIONS),
        norm_eps=vision["layer_norm_eps"],
    )
    if config.hidden % config.heads:
        raise CheckpointError(f"{path}: vision hidden_size {config.hidden} does not divide into {config.heads} heads")
    return config


def _decoder(path: Path, text: Mapping[str, Any], tied: bool) -> DecoderConfig:
    for key in ("attention_bias", "mlp_bias"):
        if text.get(key):
            raise _unsupported(path, f"text_config.{key}", True, ("false",))
    kind = text["model_type"]
    if kind == "qwen2" and text.get("use_sliding_window"):
        raise _unsupported(path, "text_config.use_sliding_window", True, ("false",))
    heads, kv_heads = text["num_attention_heads"], text["num_key_value_heads"]
    if heads % kv_heads:
        raise CheckpointError(f"{path}: {heads} query heads are no multiple of {kv_heads} key-value heads")
    return DecoderConfig(
        hidden=text["hidden_size"],
        layers=text["num_hidden_layers"],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=text.get("head_dim") or text["hidden_size"] // heads,
        intermediate=text["intermediate_size"],
        vocab=text["vocab_size"],
        context=text["max_position_embeddings"],
        norm_eps=text["rms_norm_eps"],
        rope=read_rope(path, text),
        qkv_bias=kind == "qwen2",
        tied=tied,
        activation=_one_of(path, "text_config.hidden_act", text["hidden_act"], ("silu",)),
    )


def _feature_layer(path: Path, value: Any, layers: int) -> int:
    """Index into hidden states (0 = embeddings, i + 1 = output of layer i) to the index of a layer."""
    layer = value - 1 if value > 0 else layers + value
    if value == 0 or not 0 <= layer < layers:
        raise UnsupportedModel(
            f"{path}: vision_feature_layer = {value} is not supported; expected 1..{layers} or -{layers}..-1"
        )
    return int(layer)


def _image_token(path: Path, value: int, vocab: int) -> int:
    if not 0 <= value < vocab:
        raise CheckpointError(f"{path}: image_token_index {value} is outside the vocabulary of {vocab}")
    return value


def _square(path: Path, key: str, value: Any) -> int:
    sides = set(value) if isinstance(value, (list, tuple)) else {value}
    if len(sides) != 1:
        raise _unsupported(path, f"vision_config.{key}", value, ("a square",))
    return int(sides.pop())


def _dtype(raw: Mapping[str, Any]) -> str | None:
    """``dtype`` since transformers 5, ``torch_dtype`` before; of the model, else of its decoder."""
    for holder in (raw, raw.get("text_config") or {}):
        value = holder.get("dtype") or holder.get("torch_dtype")
        if value:
            return str(value).removeprefix("torch.")
    return None


def _one_of(path: Path, key: str, value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        raise _unsupported(path, key, value, known)
    return str(value)


def _unsupported(path: Path, key: str, value: Any, known: tuple[str, ...], hint: str = "") -> UnsupportedModel:
    expected = " or ".join(known) + hint
    return UnsupportedModel(f"{path}: {key} = {value!r} is not supported; expected {expected}")
