"""Rotary position embedding: the half-split rotation of Llama, with its linear and llama3 frequency scalings.

Positions have one axis, or three (time, row, column) that share the rotation planes between them: M-RoPE (Wang et al.,
"Qwen2-VL", 2024, section 2.1).
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import nn


class RopeSettings(Protocol):
    """What a rotary table is made from; the checkpoint's rope configuration satisfies it."""

    @property
    def theta(self) -> float: ...
    @property
    def kind(self) -> str: ...
    @property
    def factor(self) -> float: ...
    @property
    def low_freq_factor(self) -> float: ...
    @property
    def high_freq_factor(self) -> float: ...
    @property
    def original_context(self) -> int: ...
    @property
    def sections(self) -> tuple[int, ...]: ...


class RotarySettings(Protocol):
    """What a rotation needs to know of a checkpoint's decoder configuration."""

    @property
    def head_dim(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def rope(self) -> RopeSettings: ...


def inverse_frequencies(rope: RopeSettings, head_dim: int) -> torch.Tensor:
    """Frequencies of the head_dim / 2 rotation planes, fp32.

    "linear" divides every frequency by ``factor`` (Chen et al., 2023). "llama3" leaves the short wavelengths as
    they are, divides the long ones by ``factor`` and blends between (Llama 3.1 release notes, Hugging Face's
    ``rope_type: llama3``).
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / (rope.theta**exponents)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        turns = rope.original_context * frequencies / (2 * math.pi)  # full rotations inside the old context
        low, high = rope.low_freq_factor, rope.high_freq_factor
        keep = ((turns - low) / (high - low)).clamp(0.0, 1.0)
        return keep * frequencies + (1 - keep) * frequencies / rope.factor
    return frequencies


def rotary_tables(rope: RopeSettings, head_dim: int, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of every position below ``context``: two fp32 tables [context, head_dim / 2]."""
    angles = torch.arange(context, dtype=torch.float32)[:, None] * inverse_frequencies(rope, head_dim)
    return angles.cos(), angles.sin()


class Rotary(nn.Module):
    """Rotates queries and keys by their position ids.

    The tables end at the model's context; the runtime refuses longer sequences before they get here.

    Args:
        config: the decoder's sizes. ``rope.sections`` says how many planes each of three axes takes, in this order;
            empty where positions have one axis.
        fused: dialect.
    """

    def __init__(self, config: RotarySettings, fused: bool) -> None:
        super().__init__()
        self.cos = nn.Parameter(torch.empty(config.context, config.head_dim // 2), requires_grad=False)
        self.sin = nn.Parameter(torch.empty(config.context, config.head_dim // 2), requires_grad=False)
        self.sections, self.fused = config.rope.sections, fused

    def angles(self, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of positions: two [B, 1, S, d / 2].

        With one axis the fused operator reads the tables itself and leaves these to be dropped as unused.

        Args:
            position_ids: [B, S] int64; [3, B, S] with three axes.
        """
        if self.sections:
            return self._share(position_ids, self.cos)[:, None], self._share(position_ids, self.sin)[:, None]
        cos = nn.functional.embedding(position_ids, self.cos)[:, None]
        sin = nn.functional.embedding(position_ids, self.sin)[:, None]
        return cos, sin

    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Rotate ``x`` [B, H, S, d] by its positions and their angles."""
        if self.fused and not self.sections:
            return torch.onnx.ops.rotary_embedding(x, self.cos, self.sin, position_ids)
        return rotate(x, *angles, self.fused)

    def _share(self, position_ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Rows of a table, each plane by the axis of its section: [B, S, d / 2]."""
        rows = nn.functional.embedding(position_ids, table).split(self.sections, dim=-1)
        return torch.cat([row[axis] for axis, row in enumerate(rows)], dim=-1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, fused: bool) -> torch.Tensor:
    """Rotate ``x`` [B, H, S, d] by angles: plane i is its columns i and d / 2 + i.

    Args:
        x: queries or keys.
        cos, sin: [B, 1, S, d / 2] in the dtype of ``x``.
        fused: dialect.
    """
    if fused:
        return torch.onnx.ops.rotary_embedding(x, cos.squeeze(1), sin.squeeze(1))
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
