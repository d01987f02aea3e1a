"""What the random checkpoints of all families are made of, and how their weights are drawn and stored.

The names are those of the checkpoints on the Hugging Face hub. The weights are seeded normals scaled by
1/sqrt(fan in), so activations stay finite in fp16. At most one shard and one fp32 tensor are in memory. Knows nothing
of edgeprune.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

DTYPES = {"fp32": ("float32", 4), "fp16": ("float16", 2), "bf16": ("bfloat16", 2)}
"""Name on the command line: (name in torch and in config.json, bytes per element)."""


CLIP_PIXELS: dict[str, Any] = {
    "do_convert_rgb": True,
    "do_resize": True,
    "resample": 3,
    "do_center_crop": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
"""The steps of CLIP's image processor; ``size`` and ``crop_size`` are for the caller to add."""

SHARD_BYTES = 2_000_000_000
"""A shard is closed before it would exceed this; a larger tensor gets its own."""


@dataclass(frozen=True)
class Tower:
    """A CLIP vision tower; the fields are keys of vision_config, sizes in pixels."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    image_size: int
    patch_size: int


@dataclass(frozen=True)
class Decoder:
    """A Llama, Mistral or Qwen2 decoder; the fields are keys of text_config, but for ``rope``, which holds several."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    model_type: str = "llama"
    tie_word_embeddings: bool = False
    rope: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Parameter:
    """One tensor to write.

    Attributes:
        name: as on the hub (``language_model.model.layers.0...``).
        shape: dimensions, outputs first.
        fill: ``"one"`` (norms), ``"small"`` (biases, std 0.02) or ``"scaled"`` (std 1/sqrt(fan in)).
    """

    name: str
    shape: tuple[int, ...]
    fill: str = "scaled"

    @property
    def elements(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)


def linear(name: str, outputs: int, inputs: int, *, bias: bool) -> Iterator[Parameter]:
    """A linear map."""
    yield Parameter(f"{name}.weight", (outputs, inputs))
    if bias:
        yield Parameter(f"{name}.bias", (outputs,), "small")


def layer_norm(name: str, width: int) -> Iterator[Parameter]:
    """A layer norm."""
    yield Parameter(f"{name}.weight", (width,), "one")
    yield Parameter(f"{name}.bias", (width,), "small")


def tower_parameters(tower: Tower, top: str = "vision_tower.vision_model") -> Iterator[Parameter]:
    """A CLIP vision tower, all of it."""
    width, patch = tower.hidden_size, tower.patch_size
    positions = (tower.image_size // patch) ** 2 + 1
    yield Parameter(f"{top}.embeddings.class_embedding", (width,))
    yield Parameter(f"{top}.embeddings.patch_embedding.weight", (width, 3, patch, patch))
    yield Parameter(f"{top}.embeddings.position_embedding.weight", (positions, width), "small")
    yield from layer_norm(f"{top}.pre_layrnorm", width)  # CLIP's own spelling
    for index in range(tower.num_hidden_layers):
        layer = f"{top}.encoder.layers.{index}"
        yield from layer_norm(f"{layer}.layer_norm1", width)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{layer}.self_attn.{part}", width, width, bias=True)
        yield from layer_norm(f"{layer}.layer_norm2", width)
        yield from linear(f"{layer}.mlp.fc1", tower.intermediate_size, width, bias=True)
        yield from linear(f"{layer}.mlp.fc2", width, tower.intermediate_size, bias=True)
    yield from layer_norm(f"{top}.post_layernorm", width)


def decoder_parameters(decoder: Decoder) -> Iterator[Parameter]:
    """A decoder with its embedding table, and its head where that is another."""
    top, width, ffn = "language_model.model", decoder.hidden_size, decoder.intermediate_size
    kv_width = width // decoder.num_attention_heads * decoder.num_key_value_heads
    bias = decoder.model_type == "qwen2"
    yield Parameter(f"{top}.embed_tokens.weight", (decoder.vocab_size, width))
    for index in range(decoder.num_hidden_layers):
        layer = f"{top}.layers.{index}"
        yield Parameter(f"{layer}.input_layernorm.weight", (width,), "one")
        yield from linear(f"{layer}.self_attn.q_proj", width, width, bias=bias)
        yield from linear(f"{layer}.self_attn.k_proj", kv_width, width, bias=bias)
        yield from linear(f"{layer}.self_attn.v_proj", kv_width, width, bias=bias)
        yield from linear(f"{layer}.self_attn.o_proj", width, width, bias=False)
        yield Parameter(f"{layer}.post_attention_layernorm.weight", (width,), "one")
        yield from linear(f"{layer}.mlp.gate_proj", ffn, width, bias=False)
        yield from linear(f"{layer}.mlp.up_proj", ffn, width, bias=False)
        yield from linear(f"{layer}.mlp.down_proj", width, ffn, bias=False)
    yield Parameter(f"{top}.norm.weight", (width,), "one")
    if not decoder.tie_word_embeddings:
        yield Parameter("language_model.lm_head.weight", (decoder.vocab_size, width))


def projector_parameters(inputs: int, outputs: int) -> Iterator[Parameter]:
    """LLaVA's projector."""
    yield from linear("multi_modal_projector.linear_1", outputs, inputs, bias=True)
    yield from linear("multi_modal_projector.linear_2", outputs, outputs, bias=True)


def decoder_config(decoder: Decoder) -> dict[str, Any]:
    """text_config of a decoder."""
    sizes = asdict(decoder)
    rope = sizes.pop("rope")
    window = {"sliding_window": None} if decoder.model_type == "mistral" else {}
    return {**sizes, **rope, **window, "bos_token_id": 1, "eos_token_id": 2, "rms_norm_eps": 1e-5}


def write_weights(
    out: Path,
    every: Iterable[Parameter],
    seed: int = 0,
    dtype: str = "fp32",
    *,
    max_shard_bytes: int = SHARD_BYTES,
    progress: bool = False,
) -> None:
    """Draw tensors and write them, with an index where they are several shards.

    Args:
        out: the checkpoint's folder.
        every: in the order in which they are drawn.
        seed: the same seed gives the same numbers, however they are sharded.
        dtype: a key of ``DTYPES``.
        max_shard_bytes: a shard is closed before it would exceed this; a larger tensor gets its own.
        progress: whether to draw a bar on stderr.
    """
    import torch
    from safetensors.torch import save_file
    from tqdm import tqdm

    torch_name, width = DTYPES[dtype]
    shards = split_shards(list(every), width, max_shard_bytes)
    total = sum(parameter.elements for shard in shards for parameter in shard) * width
    generator = torch.Generator().manual_seed(seed)
    weight_map: dict[str, str] = {}
    with tqdm(total=total, unit="B", unit_scale=True, desc=out.name, disable=not progress) as bar:
        for number, shard in enumerate(shards, start=1):
            part = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
            name = f"model{part}.safetensors"
            tensors: dict[str, torch.Tensor] = {}
            for parameter in shard:
                tensors[parameter.name] = draw(parameter, generator).to(getattr(torch, torch_name))
                bar.update(parameter.elements * width)
            save_file(tensors, out / name, metadata={"format": "pt"})
            weight_map.update(dict.fromkeys(tensors, name))
            del tensors  # before the next shard fills
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(out / "model.safetensors.index.json", index)


def split_shards(every: list[Parameter], width: int, limit: int) -> list[list[Parameter]]:
    """Parameters in order, in groups of at most ``limit`` bytes; ``width`` is the bytes of an element."""
    shards: list[list[Parameter]] = [[]]
    filled = 0
    for parameter in every:
        size = parameter.elements * width
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(parameter)
        filled += size
    return shards


def draw(parameter: Parameter, generator: torch.Generator) -> torch.Tensor:
    """The numbers of a parameter, fp32."""
    import torch

    if parameter.fill == "one":
        return torch.ones(parameter.shape)
    numbers = torch.randn(parameter.shape, generator=generator)
    if parameter.fill == "small":
        return numbers.mul_(0.02)
    fan_in = math.prod(parameter.shape[1:]) if len(parameter.shape) > 1 else parameter.shape[0]
    return numbers.mul_(fan_in**-0.5)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a file of JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
