"""Random checkpoints of Qwen2.5-VL, in the layout of Qwen's own on the Hugging Face hub.

A tower of layers with windows and layers without, of which the last is one; a Qwen2 decoder with positions of three
axes, its configuration beside the tower's and not in an object of its own; tensors named as on the hub.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.random_families.pieces import (
    CLIP_PIXELS,
    DTYPES,
    Decoder,
    Parameter,
    decoder_parameters,
    linear,
    write_json,
    write_weights,
)

CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The template of Qwen/Qwen2.5-VL-7B-Instruct."""

SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""The special tokens in the order of their ids."""


@dataclass(frozen=True)
class Tower:
    """The vision transformer; the fields are keys of vision_config, sizes in pixels."""

    hidden_size: int
    depth: int
    num_heads: int
    intermediate_size: int
    fullatt_block_indexes: tuple[int, ...]
    window_size: int = 112
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2


@dataclass(frozen=True)
class Shape:
    """A whole model.

    Attributes:
        tower: its sizes.
        decoder: its sizes; of type qwen2.
        sections: rotation planes of time, row and column.
        first_special: the id of the first of ``SPECIALS``.
        max_pixels: of a picture or frame.
    """

    tower: Tower
    decoder: Decoder
    sections: tuple[int, int, int]
    first_special: int = 270
    max_pixels: int = 64 * 28**2

    def token_id(self, token: str) -> int:
        """The id of a special token."""
        return self.first_special + SPECIALS.index(token)


_TINY = Tower(32, 4, 2, 44, (1, 3), window_size=56)
_SMALL = Tower(32, 6, 2, 44, (2, 5))
_REAL = Tower(1280, 32, 16, 3420, (7, 15, 23, 31))

SHAPES = {
    "tiny-qwen2.5-vl": Shape(_TINY, Decoder(32, 4, 2, 1, 64, 288, 2048, "qwen2"), (2, 3, 3)),
    "tiny-qwen2.5-vl-tied": Shape(_TINY, Decoder(32, 4, 2, 1, 64, 288, 2048, "qwen2", True), (2, 3, 3)),
    "small-qwen2.5-vl": Shape(_SMALL, Decoder(512, 8, 4, 2, 128, 288, 2048, "qwen2"), (16, 24, 24)),
    "qwen2.5-vl-3b": Shape(
        _REAL, Decoder(2048, 36, 16, 2, 11008, 151936, 128000, "qwen2", True), (16, 24, 24), 151643, 16384 * 28**2
    ),
    "qwen2.5-vl-7b": Shape(
        _REAL, Decoder(3584, 28, 28, 4, 18944, 152064, 128000, "qwen2"), (16, 24, 24), 151643, 16384 * 28**2
    ),
}


def write(shape: str, out: Path, seed: int = 0, dtype: str = "fp32", **storage: Any) -> None:
    """Write a checkpoint of a key of ``SHAPES`` into an empty folder; ``storage`` as of ``write_weights``."""
    model = SHAPES[shape]
    write_json(out / "config.json", make_config(model, DTYPES[dtype][0]))
    write_processing(out, model)
    write_tokenizer(out, model)
    write_weights(out, parameters(model), seed, dtype, **storage)


def parameters(model: Shape) -> Iterator[Parameter]:
    """Every tensor of the checkpoint, in the order in which it is drawn and written."""
    yield from _tower_parameters(model.tower, model.decoder.hidden_size)
    for parameter in decoder_parameters(model.decoder):
        name = parameter.name.removeprefix("language_model.")
        yield Parameter(name, parameter.shape, parameter.fill)


def _tower_parameters(tower: Tower, out: int) -> Iterator[Parameter]:
    width, patch = tower.hidden_size, tower.patch_size
    yield Parameter("visual.patch_embed.proj.weight", (width, 3, tower.temporal_patch_size, patch, patch))
    for index in range(tower.depth):
        block = f"visual.blocks.{index}"
        yield Parameter(f"{block}.norm1.weight", (width,), "one")
        yield Parameter(f"{block}.norm2.weight", (width,), "one")
        yield from linear(f"{block}.attn.qkv", 3 * width, width, bias=True)
        yield from linear(f"{block}.attn.proj", width, width, bias=True)
        yield from linear(f"{block}.mlp.gate_proj", tower.intermediate_size, width, bias=True)
        yield from linear(f"{block}.mlp.up_proj", tower.intermediate_size, width, bias=True)
        yield from linear(f"{block}.mlp.down_proj", width, tower.intermediate_size, bias=True)
    merged = width * tower.spatial_merge_size**2
    yield Parameter("visual.merger.ln_q.weight", (width,), "one")
    yield from linear("visual.merger.mlp.0", merged, merged, bias=True)
    yield from linear("visual.merger.mlp.2", out, merged, bias=True)


def make_config(model: Shape, dtype: str) -> dict[str, Any]:
    """The content of config.json; ``dtype`` as torch names it."""
    decoder, tower = model.decoder, model.tower
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "attention_dropout": 0.0,
        "bos_token_id": model.token_id("<|endoftext|>"),
        "eos_token_id": model.token_id("<|im_end|>"),
        "vision_start_token_id": model.token_id("<|vision_start|>"),
        "vision_end_token_id": model.token_id("<|vision_end|>"),
        "vision_token_id": model.token_id("<|vision_pad|>"),
        "image_token_id": model.token_id("<|image_pad|>"),
        "video_token_id": model.token_id("<|video_pad|>"),
        "hidden_act": "silu",
        "hidden_size": decoder.hidden_size,
        "intermediate_size": decoder.intermediate_size,
        "num_hidden_layers": decoder.num_hidden_layers,
        "num_attention_heads": decoder.num_attention_heads,
        "num_key_value_heads": decoder.num_key_value_heads,
        "max_position_embeddings": decoder.max_position_embeddings,
        "max_window_layers": decoder.num_hidden_layers,
        "sliding_window": 32768,
        "use_sliding_window": False,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": list(model.sections)},
        "vocab_size": decoder.vocab_size,
        "tie_word_embeddings": decoder.tie_word_embeddings,
        "torch_dtype": dtype,
        "vision_config": {
            "depth": tower.depth,
            "hidden_act": "silu",
            "hidden_size": tower.hidden_size,
            "intermediate_size": tower.intermediate_size,
            "num_heads": tower.num_heads,
            "in_chans": 3,
            "out_hidden_size": decoder.hidden_size,
            "patch_size": tower.patch_size,
            "spatial_merge_size": tower.spatial_merge_size,
            "spatial_patch_size": tower.patch_size,
            "window_size": tower.window_size,
            "fullatt_block_indexes": list(tower.fullatt_block_indexes),
            "tokens_per_second": 2,
            "temporal_patch_size": tower.temporal_patch_size,
        },
    }


def write_processing(out: Path, model: Shape) -> None:
    """Write what the processor is made from, the chat template and the generation defaults."""
    preprocessor = {
        "min_pixels": 4 * 28**2,
        "max_pixels": model.max_pixels,
        "patch_size": model.tower.patch_size,
        "temporal_patch_size": model.tower.temporal_patch_size,
        "merge_size": model.tower.spatial_merge_size,
        "image_mean": CLIP_PIXELS["image_mean"],
        "image_std": CLIP_PIXELS["image_std"],
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }
    ends = [model.token_id("<|im_end|>"), model.token_id("<|endoftext|>")]
    generation = {
        "bos_token_id": ends[1],
        "pad_token_id": ends[1],
        "do_sample": False,
        "eos_token_id": ends,
    }
    write_json(out / "preprocessor_config.json", preprocessor)
    write_json(out / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    write_json(out / "generation_config.json", generation)


def write_tokenizer(out: Path, model: Shape) -> None:
    """Bytes and a few merges; the ids up to the special tokens' are words that decode, but no text encodes to."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    words += r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    merges = [("t", "h"), ("th", "e"), ("i", "s"), ("Ġ", "i")]
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in merges)]
    pieces += [f"Ġw{index}" for index in range(len(pieces), model.first_special)]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(words), behavior="isolated")
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_alone])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in SPECIALS])
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "processor_class": "Qwen2_5_VLProcessor",
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "additional_special_tokens": list(SPECIALS[1:]),
        "model_max_length": model.decoder.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "split_special_tokens": False,
    }
    write_json(out / "tokenizer_config.json", config)
