"""A decoder of Llama's shape (Llama, Vicuna, Mistral, Qwen2), from text_config with its defaults filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.checkpoint.raw import one_of, unsupported
from edgeprune.checkpoint.rope import Rope, read_rope
from edgeprune.errors import CheckpointError

DECODERS = ("llama", "mistral", "qwen2")
"""``model_type`` of the decoders that every family may have."""

_BIASED = ("qwen2", "qwen2_5_vl_text")


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder.

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
        activation: "silu".
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


def read_decoder(path: Path, text: Mapping[str, Any], tied: bool) -> DecoderConfig:
    """Read a decoder.

    Args:
        path: config.json, for messages.
        text: text_config with its defaults filled in.
        tied: whether the embedding table is the head, too; the model's configuration says it, not the decoder's.

    Raises:
        UnsupportedModel: a value that is not carried.
        CheckpointError: values that contradict each other.
        KeyError: a value that transformers left out.
    """
    for key in ("attention_bias", "mlp_bias"):
        if text.get(key):
            raise unsupported(path, f"text_config.{key}", True, ("false",))
    kind = text["model_type"]
    _check_window(path, text)
    heads, kv_heads = text["num_attention_heads"], text["num_key_value_heads"]
    if heads % kv_heads:
        raise CheckpointError(f"{path}: {heads} query heads are no multiple of {kv_heads} key-value heads")
    head_dim = text.get("head_dim") or text["hidden_size"] // heads
    return DecoderConfig(
        hidden=text["hidden_size"],
        layers=text["num_hidden_layers"],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=text["intermediate_size"],
        vocab=text["vocab_size"],
        context=text["max_position_embeddings"],
        norm_eps=text["rms_norm_eps"],
        rope=read_rope(path, text, head_dim),
        qkv_bias=kind in _BIASED,
        tied=tied,
        activation=one_of(path, "text_config.hidden_act", text["hidden_act"], ("silu",)),
    )


def _check_window(path: Path, text: Mapping[str, Any]) -> None:
    """Refuses attention that sees only the last rows, unless the window is as long as any sequence.

    Qwen2 has a switch beside the window; Mistral's is on where there is a window.
    """
    if text["model_type"] in _BIASED:
        if text.get("use_sliding_window"):
            raise unsupported(path, "text_config.use_sliding_window", True, ("false",))
        return
    window, context = text.get("sliding_window"), text["max_position_embeddings"]
    if window is not None and window < context:
        raise unsupported(path, "text_config.sliding_window", window, (f"null or {context} and more",))
