"""A random checkpoint written as fast as the disk takes it, of any depth; the layout is ``random_checkpoint``'s.

Drawing seven billion normal numbers takes a CPU minutes. Here one block of them is drawn and laid end to end, each
tensor going on where the one before stopped: no two rows of a matrix are alike, and every machine gets the same
numbers. Answers are noise either way.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tools.random_checkpoint import (
    DTYPES,
    SHAPES,
    Parameter,
    Shape,
    make_config,
    parameters,
    split_shards,
    write_json,
    write_processing,
    write_tokenizer,
)

if TYPE_CHECKING:
    import torch

BLOCK = 2**24 + 43
"""Numbers that are drawn; a prime, so that rows of any width fall on ever new places of the block."""
SHARD_BYTES = 2_000_000_000


def shape_of(name: str, layers: int | None) -> Shape:
    """A named shape, its decoder cut to ``layers`` where given and fewer."""
    shape = SHAPES[name]
    if layers is None or layers >= shape.decoder.num_hidden_layers:
        return shape
    return replace(shape, decoder=replace(shape.decoder, num_hidden_layers=layers))


def weight_bytes(shape: Shape, dtype: str) -> int:
    """Bytes of all tensors of a checkpoint."""
    return sum(parameter.elements for parameter in parameters(shape)) * DTYPES[dtype][1]


def write_fast(shape: Shape, out: Path, dtype: str) -> Path:
    """Write a checkpoint; one that is there is left as it is.

    Args:
        shape: of the model.
        out: its folder; it appears when it is whole.
        dtype: a key of ``random_checkpoint.DTYPES``.
    """
    if out.exists():
        return out
    work = out.with_name(f".{out.name}.partial")
    work.mkdir(parents=True, exist_ok=True)
    write_json(work / "config.json", make_config(shape, DTYPES[dtype][0]))
    write_processing(work, shape)
    write_tokenizer(work, shape)
    _write_weights(work, shape, dtype)
    work.rename(out)
    return out


class Numbers:
    """An endless row of normal numbers: one block again and again.

    Args:
        dtype: what they are given out in.
        block: how many are drawn.
    """

    def __init__(self, dtype: torch.dtype, block: int = BLOCK) -> None:
        import torch

        generator = torch.Generator().manual_seed(0)
        self._block = torch.randn(block, generator=generator).to(dtype)
        self._place = 0

    def take(self, parameter: Parameter) -> torch.Tensor:
        """The tensor of a parameter, scaled as ``random_checkpoint`` does."""
        import torch

        if parameter.fill == "one":
            return torch.ones(parameter.shape, dtype=self._block.dtype)
        flat = torch.empty(parameter.elements, dtype=self._block.dtype)
        done, size = 0, self._block.shape[0]
        while done < parameter.elements:
            count = min(parameter.elements - done, size - self._place)
            flat[done : done + count] = self._block[self._place : self._place + count]
            done, self._place = done + count, (self._place + count) % size
        fan_in = math.prod(parameter.shape[1:]) if len(parameter.shape) > 1 else parameter.shape[0]
        return flat.mul_(0.02 if parameter.fill == "small" else fan_in**-0.5).view(parameter.shape)


def _write_weights(out: Path, shape: Shape, dtype: str) -> None:
    import torch
    from safetensors.torch import save_file

    torch_name, width = DTYPES[dtype]
    every = list(parameters(shape))
    total = sum(parameter.elements for parameter in every)
    # A small model draws no more than it takes.
    numbers = Numbers(getattr(torch, torch_name), min(BLOCK, total | 1))
    shards = split_shards(every, width, SHARD_BYTES)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        part = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
        name = f"model{part}.safetensors"
        tensors = {parameter.name: numbers.take(parameter) for parameter in shard}
        save_file(tensors, out / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, name))
        del tensors  # before the next shard fills
    if len(shards) > 1:
        index = {"metadata": {"total_size": total * width}, "weight_map": weight_map}
        write_json(out / "model.safetensors.index.json", index)
