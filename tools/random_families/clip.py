"""A random CLIP model with both towers and both projections, and a tokenizer of single bytes and few merges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.random_families.pieces import (
    Parameter,
    Tower,
    draw,
    layer_norm,
    linear,
    tower_parameters,
    write_json,
)

TINY_TOWER = Tower(32, 2, 2, 64, image_size=112, patch_size=14)


def write_clip(
    out: Path, tower: Tower = TINY_TOWER, seed: int = 1, *, length: int = 77, legacy_end: bool = False
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
    save_file({p.name: draw(p, generator) for p in every}, out / "model.safetensors", metadata={"format": "pt"})
    return out


def _clip_parameters(tower: Tower, vocab: int, length: int) -> Iterator[Parameter]:
    yield from tower_parameters(tower, "vision_model")
    top, width = "text_model", 48
    yield Parameter(f"{top}.embeddings.token_embedding.weight", (vocab, width))
    yield Parameter(f"{top}.embeddings.position_embedding.weight", (length, width), "small")
    for index in range(3):
        layer = f"{top}.encoder.layers.{index}"
        yield from layer_norm(f"{layer}.layer_norm1", width)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{layer}.self_attn.{part}", width, width, bias=True)
        yield from layer_norm(f"{layer}.layer_norm2", width)
        yield from linear(f"{layer}.mlp.fc1", 96, width, bias=True)
        yield from linear(f"{layer}.mlp.fc2", width, 96, bias=True)
    yield from layer_norm(f"{top}.final_layer_norm", width)
    yield from linear("text_projection", 24, width, bias=False)
    yield from linear("visual_projection", 24, tower.hidden_size, bias=False)
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
