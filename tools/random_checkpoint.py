"""Writes a checkpoint of random weights, in the layout of the LLaVA-1.5 checkpoints on the Hugging Face hub.

    python tools/random_checkpoint.py --shape tiny DIR

For tests (``tiny*``, milliseconds) and for measuring a real size without downloading it. The weights are
seeded normals scaled by 1/sqrt(fan in), so activations stay finite in fp16; answers are noise. At most one
shard and one fp32 tensor are in memory. Knows nothing of edgeprune: only the Hugging Face layout.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

DTYPES = {"fp32": ("float32", 4), "fp16": ("float16", 2), "bf16": ("bfloat16", 2)}
"""Name on the command line: (name in torch and in config.json, bytes per element)."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}{% endfor %}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""The template of llava-hf/llava-1.5-7b-hf, its ``generation`` tag included."""


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
    """A Llama or Qwen2 decoder; the fields are keys of text_config, but for ``rope``, which holds several."""

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
class Shape:
    """A whole model."""

    tower: Tower
    decoder: Decoder
    image_token_id: int

    @property
    def pad_token_id(self) -> int:
        """The id after the image token's."""
        return self.image_token_id + 1


_TINY_TOWER = Tower(32, 2, 2, 64, image_size=112, patch_size=14)
_TINY_TOWER_5_LAYERS = Tower(32, 5, 2, 64, image_size=112, patch_size=14)
_CLIP_L_336 = Tower(1024, 24, 16, 4096, image_size=336, patch_size=14)
_CLIP_L_336_4_LAYERS = Tower(1024, 4, 16, 4096, image_size=336, patch_size=14)
_BANDS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
_LLAMA3 = {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, **_BANDS}}


def _tiny(layers: int = 4, heads: int = 2, kv_heads: int = 2, **other: Any) -> Shape:
    decoder = Decoder(32, layers, heads, kv_heads, 64, 96, 512, **other)
    return Shape(_TINY_TOWER, decoder, image_token_id=94)


SHAPES: dict[str, Shape] = {
    "tiny": _tiny(),
    "tiny-gqa": _tiny(layers=8, heads=4, kv_heads=2),
    "tiny-16-heads": _tiny(heads=16, kv_heads=4),
    "tiny-qwen2": _tiny(heads=4, kv_heads=2, model_type="qwen2"),
    "tiny-llama3": _tiny(tie_word_embeddings=True, rope=_LLAMA3),
    "tiny-linear": _tiny(rope={"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    # For every pruning method: enough layers for all cuts, heads wide enough for rotary embeddings of real models.
    "small-mha": Shape(_TINY_TOWER_5_LAYERS, Decoder(256, 8, 4, 4, 128, 96, 512), 94),
    "small-gqa": Shape(_TINY_TOWER_5_LAYERS, Decoder(256, 8, 4, 2, 128, 96, 512), 94),
    "tinyllama-4-layers": Shape(_TINY_TOWER, Decoder(2048, 4, 32, 4, 5632, 2048, 512), 2046),
    "tinyllama-1.1b": Shape(_CLIP_L_336, Decoder(2048, 22, 32, 4, 5632, 32064, 2048), 32000),
    "llava-1.5-7b-4-layers": Shape(_CLIP_L_336_4_LAYERS, Decoder(4096, 4, 32, 32, 11008, 32064, 4096), 32000),
    "llava-1.5-7b": Shape(_CLIP_L_336, Decoder(4096, 32, 32, 32, 11008, 32064, 4096), 32000),
    "llava-1.5-13b": Shape(_CLIP_L_336, Decoder(5120, 40, 40, 40, 13824, 32064, 4096), 32000),
}


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


def write_checkpoint(
    shape: str,
    out: Path,
    seed: int = 0,
    dtype: str = "fp32",
    *,
    max_shard_bytes: int = 2_000_000_000,
    progress: bool = False,
) -> Path:
    """Writes weights, configuration, tokenizer and processor of a named shape.

    Args:
        shape: a key of ``SHAPES``.
        out: a directory that does not exist or is empty.
        seed: the same seed gives the same numbers, however they are sharded.
        dtype: a key of ``DTYPES``.
        max_shard_bytes: a shard is closed before it would exceed this; a larger tensor gets its own.
        progress: whether to draw a bar on stderr.

    Returns:
        ``out``.

    Raises:
        ValueError: the shape or dtype has no such name.
        FileExistsError: ``out`` holds files.
    """
    if shape not in SHAPES:
        raise ValueError(f"unknown shape {shape!r}; choose from {', '.join(SHAPES)}")
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; choose from {', '.join(DTYPES)}")
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty")
    out.mkdir(parents=True, exist_ok=True)
    model = SHAPES[shape]
    write_json(out / "config.json", make_config(model, DTYPES[dtype][0]))
    write_processing(out, model)
    write_tokenizer(out, model)
    _write_weights(out, model, seed, dtype, max_shard_bytes, progress)
    return out


def parameters(model: Shape) -> Iterator[Parameter]:
    """Every tensor of the checkpoint, in the order in which it is drawn and written."""
    yield from _tower_parameters(model.tower)
    wide, narrow = model.decoder.hidden_size, model.tower.hidden_size
    yield from _linear("multi_modal_projector.linear_1", wide, narrow, bias=True)
    yield from _linear("multi_modal_projector.linear_2", wide, wide, bias=True)
    yield from _decoder_parameters(model.decoder)


def _linear(name: str, outputs: int, inputs: int, *, bias: bool) -> Iterator[Parameter]:
    yield Parameter(f"{name}.weight", (outputs, inputs))
    if bias:
        yield Parameter(f"{name}.bias", (outputs,), "small")


def _layer_norm(name: str, width: int) -> Iterator[Parameter]:
    yield Parameter(f"{name}.weight", (width,), "one")
    yield Parameter(f"{name}.bias", (width,), "small")


def _tower_parameters(tower: Tower) -> Iterator[Parameter]:
    top, width, patch = "vision_tower.vision_model", tower.hidden_size, tower.patch_size
    positions = (tower.image_size // patch) ** 2 + 1
    yield Parameter(f"{top}.embeddings.class_embedding", (width,))
    yield Parameter(f"{top}.embeddings.patch_embedding.weight", (width, 3, patch, patch))
    yield Parameter(f"{top}.embeddings.position_embedding.weight", (positions, width), "small")
    yield from _layer_norm(f"{top}.pre_layrnorm", width)  # CLIP's own spelling
    for index in range(tower.num_hidden_layers):
        layer = f"{top}.encoder.layers.{index}"
        yield from _layer_norm(f"{layer}.layer_norm1", width)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{layer}.self_attn.{part}", width, width, bias=True)
        yield from _layer_norm(f"{layer}.layer_norm2", width)
        yield from _linear(f"{layer}.mlp.fc1", tower.intermediate_size, width, bias=True)
        yield from _linear(f"{layer}.mlp.fc2", width, tower.intermediate_size, bias=True)
    yield from _layer_norm(f"{top}.post_layernorm", width)


def _decoder_parameters(decoder: Decoder) -> Iterator[Parameter]:
    top, width, ffn = "language_model.model", decoder.hidden_size, decoder.intermediate_size
    kv_width = width // decoder.num_attention_heads * decoder.num_key_value_heads
    bias = decoder.model_type == "qwen2"
    yield Parameter(f"{top}.embed_tokens.weight", (decoder.vocab_size, width))
    for index in range(decoder.num_hidden_layers):
        layer = f"{top}.layers.{index}"
        yield Parameter(f"{layer}.input_layernorm.weight", (width,), "one")
        yield from _linear(f"{layer}.self_attn.q_proj", width, width, bias=bias)
        yield from _linear(f"{layer}.self_attn.k_proj", kv_width, width, bias=bias)
        yield from _linear(f"{layer}.self_attn.v_proj", kv_width, width, bias=bias)
        yield from _linear(f"{layer}.self_attn.o_proj", width, width, bias=False)
        yield Parameter(f"{layer}.post_attention_layernorm.weight", (width,), "one")
        yield from _linear(f"{layer}.mlp.gate_proj", ffn, width, bias=False)
        yield from _linear(f"{layer}.mlp.up_proj", ffn, width, bias=False)
        yield from _linear(f"{layer}.mlp.down_proj", width, ffn, bias=False)
    yield Parameter(f"{top}.norm.weight", (width,), "one")
    if not decoder.tie_word_embeddings:
        yield Parameter("language_model.lm_head.weight", (decoder.vocab_size, width))


def make_config(model: Shape, dtype: str) -> dict[str, Any]:
    """The content of config.json; ``dtype`` as torch names it."""
    decoder = asdict(model.decoder)
    rope = decoder.pop("rope")
    text = {**decoder, **rope, "bos_token_id": 1, "eos_token_id": 2, "rms_norm_eps": 1e-5}
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": model.image_token_id,
        "image_seq_length": (model.tower.image_size // model.tower.patch_size) ** 2,
        "pad_token_id": model.pad_token_id,
        "projector_hidden_act": "gelu",
        "text_config": {**text, "torch_dtype": dtype},
        "vision_config": {"model_type": "clip_vision_model", **asdict(model.tower)},
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": model.decoder.tie_word_embeddings,
        "torch_dtype": dtype,
    }


def write_processing(out: Path, model: Shape) -> None:
    """Write what the processor is made from, the chat template and the generation defaults."""
    size = model.tower.image_size
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "patch_size": model.tower.patch_size,
        "vision_feature_select_strategy": "default",
    }
    generation = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": model.pad_token_id}
    write_json(out / "preprocessor_config.json", preprocessor)
    write_json(out / "processor_config.json", processor)
    write_json(out / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    write_json(out / "generation_config.json", generation)


def write_tokenizer(out: Path, model: Shape) -> None:
    """One id per printable ASCII character; the ids above are words that decode, but no text encodes to."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, processors

    rare = "^`{|}~\\"  # a vocabulary of 96 has no room for these: they become <unk>
    pieces = ["<unk>", "<s>", "</s>", "\n", *(chr(code) for code in range(32, 127) if chr(code) not in rare)]
    pieces += [f" w{index}" for index in range(len(pieces), model.image_token_id)]
    pieces += ["<image>", "<pad>"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    specials = ["<unk>", "<s>", "</s>", "<image>", "<pad>"]
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in specials])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocab["<s>"])]
    )
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "LlavaProcessor",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "extra_special_tokens": {"image_token": "<image>"},
        "model_max_length": model.decoder.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
    }
    write_json(out / "tokenizer_config.json", config)


def _write_weights(out: Path, model: Shape, seed: int, dtype: str, limit: int, progress: bool) -> None:
    import torch
    from safetensors.torch import save_file
    from tqdm import tqdm

    torch_name, width = DTYPES[dtype]
    shards = split_shards(list(parameters(model)), width, limit)
    total = sum(parameter.elements for shard in shards for parameter in shard) * width
    generator = torch.Generator().manual_seed(seed)
    weight_map: dict[str, str] = {}
    with tqdm(total=total, unit="B", unit_scale=True, desc=out.name, disable=not progress) as bar:
        for number, shard in enumerate(shards, start=1):
            part = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
            name = f"model{part}.safetensors"
            tensors: dict[str, torch.Tensor] = {}
            for parameter in shard:
                tensors[parameter.name] = _draw(parameter, generator).to(getattr(torch, torch_name))
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


def _draw(parameter: Parameter, generator: torch.Generator) -> torch.Tensor:
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


def write_clip(
    out: Path, tower: Tower = _TINY_TOWER, seed: int = 1, *, length: int = 77, legacy_end: bool = False
) -> Path:
    """Writes a CLIP model of random weights: both towers, both projections, a tokenizer of single bytes and few merges.

    Args:
        out: a directory that does not exist or is empty.
        tower: its vision tower.
        seed: the same seed gives the same numbers.
        length: positions of the text tower.
        legacy_end: whether config.json has the wrong end token id that OpenAI's own have.

    Returns:
        ``out``.

    Raises:
        FileExistsError: ``out`` holds files.
    """
    import torch
    from safetensors.torch import save_file

    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty")
    out.mkdir(parents=True, exist_ok=True)
    vocab = _write_clip_tokenizer(out)
    end = vocab - 1
    text = {
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 96,
        "vocab_size": vocab,
        "max_position_embeddings": length,
        "bos_token_id": 0 if legacy_end else end - 1,
        "eos_token_id": 2 if legacy_end else end,
        "pad_token_id": 1 if legacy_end else end,
    }
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": 24,
        "text_config": {"model_type": "clip_text_model", **text, "projection_dim": 24},
        "vision_config": {"model_type": "clip_vision_model", **asdict(tower), "projection_dim": 24},
        "torch_dtype": "float32",
    }
    write_json(out / "config.json", config)
    generator = torch.Generator().manual_seed(seed)
    every = _clip_parameters(tower, vocab, length)
    save_file({p.name: _draw(p, generator) for p in every}, out / "model.safetensors", metadata={"format": "pt"})
    return out


def _clip_parameters(tower: Tower, vocab: int, length: int) -> Iterator[Parameter]:
    for parameter in _tower_parameters(tower):
        yield Parameter(parameter.name.removeprefix("vision_tower."), parameter.shape, parameter.fill)
    top, width = "text_model", 48
    yield Parameter(f"{top}.embeddings.token_embedding.weight", (vocab, width))
    yield Parameter(f"{top}.embeddings.position_embedding.weight", (length, width), "small")
    for index in range(3):
        layer = f"{top}.encoder.layers.{index}"
        yield from _layer_norm(f"{layer}.layer_norm1", width)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{layer}.self_attn.{part}", width, width, bias=True)
        yield from _layer_norm(f"{layer}.layer_norm2", width)
        yield from _linear(f"{layer}.mlp.fc1", 96, width, bias=True)
        yield from _linear(f"{layer}.mlp.fc2", width, 96, bias=True)
    yield from _layer_norm(f"{top}.final_layer_norm", width)
    yield from _linear("text_projection", 24, width, bias=False)
    yield from _linear("visual_projection", 24, tower.hidden_size, bias=False)
    yield Parameter("logit_scale", (), "one")


def _write_clip_tokenizer(out: Path) -> int:
    """Write it, and give the size of its vocabulary; the start and the end token come last, as in OpenAI's."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    alphabet = sorted(ByteLevel.alphabet())
    merges: Any = [
        ("t", "h"),
        ("th", "e</w>"),
        ("i", "s</w>"),
        ("w", "h"),
        ("wh", "a"),
        ("wha", "t</w>"),
        ("i", "n</w>"),
    ]
    pieces = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *(left + right for left, right in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77).save_pretrained(out)
    return len(pieces)


def _bytes(text: str) -> int:
    """``"2GB"`` in bytes; decimal units, as Hugging Face counts shards."""
    match = re.fullmatch(r"(\d+)(B|KB|MB|GB)?", text.upper())
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write for example 500MB or 2GB")
    return int(match[1]) * {None: 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}[match[2]]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write a random checkpoint in Hugging Face format.")
    parser.add_argument("out", type=Path, metavar="OUT", help="a directory that does not exist or is empty")
    parser.add_argument("--shape", required=True, choices=SHAPES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=DTYPES, default="fp16")
    parser.add_argument("--max-shard-size", type=_bytes, default="2GB", dest="max_shard_bytes", metavar="SIZE")
    options = parser.parse_args(arguments)
    try:
        write_checkpoint(**vars(options), progress=True)
    except OSError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
