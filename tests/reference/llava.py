"""A plain numpy forward pass of LLaVA-1.5: CLIP vision tower, projector and Llama decoder, batch 1, no torch.

Weights come under their names in a Hugging Face checkpoint, of either the legacy or the newer layout. The
decoder runs layer by layer over an explicit cache: a caller can stop between two layers and change the rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
KVCache = list[tuple[Array, Array] | None]  # per layer: rotated keys and values [kv heads, rows, size]

_RENAMES = (
    (r"^(model\.)?vision_tower\.(vision_model\.)?", "vision."),
    (r"^(model\.)?multi_modal_projector\.", "projector."),
    (r"^(language_model\.)?lm_head\.", "lm_head."),
    (r"^(model\.)?language_model\.(model\.)?", "text."),
)


def canonical(name: str) -> str:
    """Give the one name used here for a tensor of either checkpoint layout."""
    for pattern, replacement in _RENAMES:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    raise KeyError(f"not a LLaVA tensor name: {name}")


def _setting(config: Mapping[str, Any], name: str, default: Any) -> Any:
    """Read a setting; absent or null means the default of the Hugging Face configuration class."""
    value = config.get(name)
    return default if value is None else value


class Weights:
    """The tensors and the configuration (the content of config.json) of a LLaVA-1.5 checkpoint."""

    def __init__(
        self, tensors: Mapping[str, Array], config: Mapping[str, Any], dtype: npt.DTypeLike = np.float64
    ) -> None:
        self._tensors = {canonical(name): tensor for name, tensor in tensors.items()}
        self.dtype = np.dtype(dtype)
        self.config = config
        text: Mapping[str, Any] = config["text_config"]
        self.text = text
        self.vision: Mapping[str, Any] = config["vision_config"]
        self.layers = int(_setting(text, "num_hidden_layers", 32))
        self.heads = int(_setting(text, "num_attention_heads", 32))
        self.kv_heads = int(_setting(text, "num_key_value_heads", self.heads))
        hidden = int(_setting(text, "hidden_size", 4096))
        self.head_dim = int(_setting(text, "head_dim", hidden // self.heads))
        self.rms_eps = float(_setting(text, "rms_norm_eps", 1e-6))
        self.inv_freq = rope_frequencies(text, self.head_dim)
        if _setting(text, "hidden_act", "silu") != "silu":
            raise ValueError("the reference knows only the silu decoder MLP")

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> Array:
        """Give a tensor by its canonical name, converted on every use: the stored ones stay as they are."""
        return np.asarray(self._tensors[name], dtype=self.dtype)

    def linear(self, prefix: str, x: Array) -> Array:
        """Apply a linear layer, with its bias where the checkpoint has one."""
        y: Array = x @ self[f"{prefix}.weight"].T
        return y + self[f"{prefix}.bias"] if f"{prefix}.bias" in self else y

    @property
    def tied(self) -> bool:
        """Whether the output matrix is the embedding matrix (either configuration level may say so)."""
        return any(bool(c.get("tie_word_embeddings")) for c in (self.config, self.text))


def rope_frequencies(text: Mapping[str, Any], head_dim: int) -> Array:
    """Give inverse rotary frequencies: plain, "linear" (all divided) or "llama3" (long waves divided).

    llama3 (Llama 3.1): wavelengths above context/low_freq_factor are divided by `factor`, those below
    context/high_freq_factor are left alone, and those in between are interpolated.
    """
    scaling: Mapping[str, Any] = text.get("rope_parameters") or text.get("rope_scaling") or {}
    theta = float(_setting(scaling, "rope_theta", _setting(text, "rope_theta", 10000.0)))
    kind = _setting(scaling, "rope_type", _setting(scaling, "type", "default"))
    freq: Array = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if kind == "default":
        return freq
    factor = float(scaling["factor"])
    if kind == "linear":
        return freq / factor
    if kind != "llama3":
        raise ValueError(f"unknown rotary scaling {kind!r}")
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    waves_in_context = float(scaling["original_max_position_embeddings"]) * freq / (2 * math.pi)
    share_unscaled = np.clip((waves_in_context - low) / (high - low), 0.0, 1.0)
    result: Array = share_unscaled * freq + (1 - share_unscaled) * freq / factor
    return result


def softmax(x: Array) -> Array:
    """Softmax over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    result: Array = e / e.sum(axis=-1, keepdims=True)
    return result


def sigmoid(x: Array) -> Array:
    """Logistic function in the form that cannot overflow."""
    result: Array = 0.5 * (1 + np.tanh(0.5 * x))
    return result


def activation(name: str, x: Array) -> Array:
    """Apply quick_gelu (CLIP) or the exact, erf-based gelu."""
    if name == "quick_gelu":
        return x * sigmoid(1.702 * x)
    if name == "gelu":
        erf = np.asarray(np.frompyfunc(math.erf, 1, 1)(x / math.sqrt(2)), dtype=x.dtype)
        result: Array = 0.5 * x * (1 + erf)
        return result
    raise ValueError(f"unknown activation {name!r}")


def split_heads(x: Array, heads: int) -> Array:
    """Turn [rows, heads * size] into [heads, rows, size]."""
    result: Array = x.reshape(len(x), heads, -1).transpose(1, 0, 2)
    return result


def join_heads(x: Array) -> Array:
    """Turn [heads, rows, size] into [rows, heads * size]."""
    result: Array = x.transpose(1, 0, 2).reshape(x.shape[1], -1)
    return result


# --- vision tower and projector -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Vision:
    """What one vision layer gives: its output, and the attention, keys and values inside it."""

    features: Array  # [1 + patches, width]: the hidden state after the layer, CLS first, no final layer norm
    cls_attention: Array  # [heads, 1 + patches]: softmax of the CLS query over all rows
    keys: Array  # [heads, 1 + patches, head size]: k_proj output with bias, not scaled
    values: Array = field(default_factory=lambda: np.empty(0))  # the same for v_proj


def _layer_norm(w: Weights, prefix: str, x: Array) -> Array:
    eps = float(_setting(w.vision, "layer_norm_eps", 1e-5))
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled: Array = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    return scaled * w[f"{prefix}.weight"] + w[f"{prefix}.bias"]


def _patch_rows(w: Weights, pixel_values: Array) -> Array:
    """Embed the image: CLS and the row-major patches, plus positions, then CLIP's first layer norm."""
    pixels = np.asarray(pixel_values, dtype=w.dtype)
    pixels = pixels[0] if pixels.ndim == 4 else pixels
    kernel = w["vision.embeddings.patch_embedding.weight"]  # [width, channels, patch, patch]
    size, channels = kernel.shape[-1], kernel.shape[1]
    down, across = pixels.shape[1] // size, pixels.shape[2] // size
    grid = pixels.reshape(channels, down, size, across, size).transpose(1, 3, 0, 2, 4)
    patches = grid.reshape(down * across, -1) @ kernel.reshape(len(kernel), -1).T
    cls = w["vision.embeddings.class_embedding"].reshape(1, -1)
    x = np.concatenate([cls, patches]) + w["vision.embeddings.position_embedding.weight"]
    return _layer_norm(w, "vision.pre_layrnorm", x)  # the checkpoint's own spelling


def _vision_layer(w: Weights, index: int, x: Array) -> Vision:
    """Run one CLIP encoder layer."""
    at, heads = f"vision.encoder.layers.{index}", int(_setting(w.vision, "num_attention_heads", 16))
    normed = _layer_norm(w, f"{at}.layer_norm1", x)
    q, k, v = (split_heads(w.linear(f"{at}.self_attn.{p}_proj", normed), heads) for p in ("q", "k", "v"))
    attention = softmax((q / math.sqrt(q.shape[-1])) @ k.transpose(0, 2, 1))
    x = x + w.linear(f"{at}.self_attn.out_proj", join_heads(attention @ v))
    act = str(_setting(w.vision, "hidden_act", "quick_gelu"))
    inner = activation(act, w.linear(f"{at}.mlp.fc1", _layer_norm(w, f"{at}.layer_norm2", x)))
    return Vision(x + w.linear(f"{at}.mlp.fc2", inner), attention[:, 0], k, v)


def patch_grid(w: Weights, pixel_values: Array) -> tuple[int, int]:
    """Give the patches per column and per row of an image."""
    size = w["vision.embeddings.patch_embedding.weight"].shape[-1]
    height, width = pixel_values.shape[-2:]
    return height // size, width // size


def vision_layers(w: Weights, pixel_values: Array) -> list[Vision]:
    """Run CLIP's layers up to the selected hidden state (LLaVA-1.5: hidden_states[-2], all but the last layer)."""
    total = int(_setting(w.vision, "num_hidden_layers", 24))
    selected = _setting(w.config, "vision_feature_layer", -2)
    if not isinstance(selected, int):
        raise ValueError("the reference knows only one vision feature layer")
    count = selected if selected >= 0 else total + 1 + selected  # hidden_states has the embeddings first
    if not 1 <= count <= total:
        raise ValueError(f"vision feature layer {selected} is not the output of a layer")
    x, layers = _patch_rows(w, pixel_values), []
    for index in range(count):
        layers.append(_vision_layer(w, index, x))
        x = layers[-1].features
    return layers


def vision_tower(w: Weights, pixel_values: Array) -> Vision:
    """Run CLIP and give what the layer of the selected hidden state gives."""
    return vision_layers(w, pixel_values)[-1]


def project(w: Weights, rows: Array) -> Array:
    """Map vision features to the decoder's width with LLaVA-1.5's two-layer MLP."""
    act = str(_setting(w.config, "projector_hidden_act", "gelu"))
    return w.linear("projector.linear_2", activation(act, w.linear("projector.linear_1", rows)))


# --- decoder ------------------------------------------------------------------------------------------------


def embed(w: Weights, ids: Sequence[int]) -> Array:
    """Look up token embeddings."""
    return w["text.embed_tokens.weight"][np.asarray(ids, dtype=np.int64)]


def _rms_norm(w: Weights, name: str, x: Array) -> Array:
    result: Array = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + w.rms_eps) * w[name]
    return result


def position_axes(w: Weights, positions: Array) -> Array:
    """Give the position [rows, frequencies] that turns each frequency.

    Of position ids [3, rows] the first frequencies take the first axis, the next ones the second and the last ones the
    third, as many as `mrope_section` says (Qwen2.5-VL).
    """
    at = np.asarray(positions, dtype=np.float64)
    if at.ndim == 1:
        return np.repeat(at[:, None], len(w.inv_freq), axis=1)
    sections = (w.text.get("rope_parameters") or w.text["rope_scaling"])["mrope_section"]
    return np.concatenate([np.repeat(axis[:, None], n, axis=1) for axis, n in zip(at, sections, strict=True)], axis=1)


def rotate(w: Weights, x: Array, positions: Array) -> Array:
    """Apply the rotary embedding in its half-split form to [heads, rows, size]; see `position_axes`."""
    angle = position_axes(w, positions) * w.inv_freq
    cos, sin = np.cos(angle).astype(w.dtype), np.sin(angle).astype(w.dtype)
    left, right = np.split(x, 2, axis=-1)
    return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)


def layer_queries_keys(w: Weights, layer: int, h: Array, positions: Array) -> tuple[Array, Array]:
    """Give a layer's rotated queries [heads, rows, size] and keys [kv heads, rows, size] for its input h."""
    at = f"text.layers.{layer}"
    normed = _rms_norm(w, f"{at}.input_layernorm.weight", h)
    q = split_heads(w.linear(f"{at}.self_attn.q_proj", normed), w.heads)
    k = split_heads(w.linear(f"{at}.self_attn.k_proj", normed), w.kv_heads)
    return rotate(w, q, positions), rotate(w, k, positions)


def causal_attention(q: Array, k: Array) -> Array:
    """Give probabilities [heads, queries, keys]; the queries are the last rows of the keys' sequence.

    With grouped-query attention, key head i serves the consecutive query heads of its group.
    """
    k = np.repeat(k, len(q) // len(k), axis=0)
    logits = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
    past = k.shape[1] - q.shape[1]
    hidden = np.arange(k.shape[1])[None, :] > past + np.arange(q.shape[1])[:, None]
    return softmax(np.where(hidden, -np.inf, logits))


def decoder_layer(w: Weights, layer: int, h: Array, positions: Array, cache: KVCache) -> Array:
    """Run one Llama layer on new rows; the cache entry of the layer is extended by them."""
    at = f"text.layers.{layer}"
    q, k = layer_queries_keys(w, layer, h, positions)
    normed = _rms_norm(w, f"{at}.input_layernorm.weight", h)
    v = split_heads(w.linear(f"{at}.self_attn.v_proj", normed), w.kv_heads)
    past = cache[layer]
    if past is not None:
        k, v = np.concatenate([past[0], k], axis=1), np.concatenate([past[1], v], axis=1)
    cache[layer] = (k, v)
    mixed = causal_attention(q, k) @ np.repeat(v, w.heads // w.kv_heads, axis=0)
    h = h + w.linear(f"{at}.self_attn.o_proj", join_heads(mixed))
    normed = _rms_norm(w, f"{at}.post_attention_layernorm.weight", h)
    gate = w.linear(f"{at}.mlp.gate_proj", normed)
    return h + w.linear(f"{at}.mlp.down_proj", gate * sigmoid(gate) * w.linear(f"{at}.mlp.up_proj", normed))


def decoder_layers(w: Weights, layers: range, h: Array, positions: Array, cache: KVCache) -> Array:
    """Run consecutive layers on new rows."""
    for layer in layers:
        h = decoder_layer(w, layer, h, positions, cache)
    return h


def output_logits(w: Weights, h: Array) -> Array:
    """Apply the final norm and the output matrix, which may be the embedding matrix."""
    head = "text.embed_tokens.weight" if w.tied else "lm_head.weight"
    result: Array = _rms_norm(w, "text.norm.weight", h) @ w[head].T
    return result


def forward(w: Weights, pixel_values: Array, ids_before: Sequence[int], ids_after: Sequence[int]) -> Array:
    """Run LLaVA-1.5 without pruning (all patches, no CLS) and give the logits of every row."""
    visual = project(w, vision_tower(w, pixel_values).features[1:])
    h = np.concatenate([embed(w, ids_before), visual, embed(w, ids_after)])
    cache: KVCache = [None] * w.layers
    return output_logits(w, decoder_layers(w, range(w.layers), h, np.arange(len(h)), cache))
