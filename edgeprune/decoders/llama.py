"""Llama-shaped decoder layers (Llama, Vicuna, Qwen2): grouped keys and values, optional q/k/v biases, rotary positions.

A segment runs layers first..last-1 over new rows and a growing cache. The same segment serves prefill (many
rows, empty cache) and decode (one row), so its weights exist once. It does not know that rows between two
segments may disappear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F

from edgeprune.layers.attention import attend, causal_mask
from edgeprune.layers.linear import Linear
from edgeprune.layers.norm import RMSNorm
from edgeprune.layers.rotary import RopeSettings, Rotary


class LlamaSettings(Protocol):
    """What a segment needs to know of a checkpoint's decoder configuration."""

    @property
    def hidden(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def intermediate(self) -> int: ...
    @property
    def vocab(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def norm_eps(self) -> float: ...
    @property
    def rope(self) -> RopeSettings: ...
    @property
    def qkv_bias(self) -> bool: ...


@dataclass(frozen=True)
class Rows:
    """What the new rows of a step share in all layers.

    Attributes:
        position_ids: [B, S] int64, or [3, B, S] where positions have three axes.
        mask: [S, T], see ``causal_mask``.
        angles: cosines and sines of the positions, see ``Rotary.angles``.
        rotary: rotates queries and keys.
    """

    position_ids: torch.Tensor
    mask: torch.Tensor
    angles: tuple[torch.Tensor, torch.Tensor]
    rotary: Rotary

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Rotate [B, heads, S, d] by the rows' positions."""
        rotated: torch.Tensor = self.rotary(x, self.position_ids, self.angles)
        return rotated

    def last(self) -> Rows:
        """The same for the last row alone.

        An index and a new axis, not a slice: TensorRT cannot tell while it parses that a slice has one row.
        """
        cos, sin = self.angles
        angles = (cos[..., -1, None, :], sin[..., -1, None, :])
        return Rows(self.position_ids[..., -1, None], self.mask[-1, None], angles, self.rotary)


class Attention(nn.Module):
    """Causal self-attention over cached and new rows."""

    def __init__(self, config: LlamaSettings, fused: bool) -> None:
        super().__init__()
        width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.head_dim, self.fused = config.head_dim, fused
        self.q_proj = Linear(config.hidden, width, bias=config.qkv_bias)
        self.k_proj = Linear(config.hidden, kv_width, bias=config.qkv_bias)
        self.v_proj = Linear(config.hidden, kv_width, bias=config.qkv_bias)
        self.o_proj = Linear(width, config.hidden, bias=False)

    def cache(
        self, x: torch.Tensor, past: tuple[torch.Tensor, torch.Tensor], rows: Rows
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the keys and values of x [B, S, D] to [B, G, P, d]: two [B, G, P + S, d]."""
        key = torch.cat((past[0], rows.rotate(self.split(self.k_proj(x)))), dim=2)
        return key, torch.cat((past[1], self.split(self.v_proj(x))), dim=2)

    def forward(
        self, x: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: Rows
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention of x [B, S, D] over the cache; returns [B, S, D] and the rotated queries [B, H, S, d]."""
        q = rows.rotate(self.split(self.q_proj(x)))
        return self.o_proj(attend(q, key, value, rows.mask, self.fused)), q

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, S, heads * d] to [B, heads, S, d].

        The heads are counted here: left to a -1, TensorRT bounds them by the least batch, and its scratch with them.
        """
        return x.reshape(x.shape[0], x.shape[1], x.shape[2] // self.head_dim, self.head_dim).transpose(1, 2)


class Mlp(nn.Module):
    """Gated feed-forward: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LlamaSettings) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden, config.intermediate, bias=False)
        self.up_proj = Linear(config.hidden, config.intermediate, bias=False)
        self.down_proj = Linear(config.intermediate, config.hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, S, D] to the same shape."""
        mapped: torch.Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return mapped


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, config: LlamaSettings, fused: bool) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden, config.norm_eps, fused)
        self.self_attn = Attention(config, fused)
        self.post_attention_layernorm = RMSNorm(config.hidden, config.norm_eps, fused)
        self.mlp = Mlp(config)

    def forward(
        self, hidden: torch.Tensor, past: tuple[torch.Tensor, torch.Tensor], rows: Rows, last_only: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run the layer on [B, S, D].

        Args:
            hidden: the new rows.
            past: keys and values [B, G, P, d].
            rows: positions and mask of the new rows.
            last_only: return the last row alone; all rows still enter the cache.

        Returns:
            hidden [B, S, D] or [B, 1, D]; keys and values [B, G, P + S, d]; queries [B, H, S or 1, d], rotated and
            unscaled.
        """
        x = self.input_layernorm(hidden)
        key, value = self.self_attn.cache(x, past, rows)
        if last_only:
            x, hidden, rows = x[:, -1, None], hidden[:, -1, None], rows.last()
        attended, query = self.self_attn(x, key, value, rows)
        hidden = hidden + attended
        return hidden + self.mlp(self.post_attention_layernorm(hidden)), key, value, query


class Segment(nn.Module):
    """Decoder layers first..last-1; the one that ends the decoder adds the final norm and the head.

    Args:
        config: the decoder's sizes.
        first, last: the layers, half open.
        fused: dialect.
        shows_query: whether the queries of its last layer are an output, for a cut that scores with them.
    """

    def __init__(self, config: LlamaSettings, first: int, last: int, fused: bool, shows_query: bool = False) -> None:
        super().__init__()
        self.fused, self.shows_query = fused, shows_query
        self.ends = last == config.layers
        self.rotary = Rotary(config, fused)
        self.layers = nn.ModuleDict({str(index): Layer(config, fused) for index in range(first, last)})
        if self.ends:
            self.norm = RMSNorm(config.hidden, config.norm_eps, fused)
            self.lm_head = Linear(config.hidden, config.vocab, bias=False)

    def forward(
        self, hidden: torch.Tensor, position_ids: torch.Tensor, past: list[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Run the segment.

        Args:
            hidden: [B, S, D].
            position_ids: [B, S] int64, or [3, B, S] where positions have three axes.
            past: per layer its keys and then its values, each [B, G, P, d].

        Returns:
            hidden [B, S, D], or the last row's logits [B, 1, vocab] fp32 where the decoder ends; then per layer
            keys and values [B, G, P + S, d]; then, where it shows them, the last layer's queries [B, H, S, d].
        """
        mask = causal_mask(hidden, past[0], self.fused)
        rows = Rows(position_ids, mask, self.rotary.angles(position_ids), self.rotary)
        present: list[torch.Tensor] = []
        for index, layer in enumerate(self.layers.values()):
            # Of the decoder's last layer only the last row is read: its other rows need keys and values alone.
            last_only = self.ends and index == len(self.layers) - 1
            hidden, key, value, query = layer(hidden, (past[2 * index], past[2 * index + 1]), rows, last_only)
            present += [key, value]
        if self.ends:
            hidden = self.lm_head(self.norm(hidden)).float()
        return hidden, *present, *((query,) if self.shows_query else ())
