"""Attention that the decoder's fused kernels never show: the probabilities of a few query rows.

Only the rows asked for are computed, never the whole map. Softmax in fp32 over the whole causal row.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from edgeprune.decoders.llama import Attention, LlamaSettings
from edgeprune.layers.norm import RMSNorm
from edgeprune.layers.rotary import Rotary
from edgeprune.methods.selection import gather_rows, read_keep, top
from edgeprune.methods.visual_rows import Positions, columns, drop_rows, positions_of


def probabilities(query: torch.Tensor, key: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Softmax of query rows over all keys that come before or at them.

    Args:
        query: [B, H, t, d], rotated and unscaled.
        key: [B, G, S, d], rotated, of all rows; H is a multiple of G.
        rows: [B, t] or [1, t] int64, the numbers of the query rows.

    Returns:
        [B, H, t, S] fp32; zero where a key comes after its query.
    """
    b, h, t, d = query.shape
    g, e = key.shape[1], key.shape[2]
    scaled = query.float() * (1.0 / math.sqrt(d))
    logits = torch.matmul(scaled.reshape(b, g, (h // g) * t, d), key.float().transpose(2, 3)).reshape(b, h, t, e)
    seen = torch.arange(e, device=query.device) <= rows[:, None, :, None]
    return torch.softmax(logits + torch.where(seen, 0.0, torch.finfo(torch.float32).min), dim=-1)


def last_row(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Attention of a prompt's last row to all rows, averaged over heads.

    Args:
        query: [B, H, 1, d], rotated and unscaled, of the last row.
        key: [B, G, S, d], rotated.

    Returns:
        [B, S] fp32.
    """
    row = torch.arange(1, device=query.device) + (key.shape[2] - 1)
    return probabilities(query, key, row[None]).mean(dim=1)[:, 0]


def last_rows(query: torch.Tensor, key: torch.Tensor, count: int) -> torch.Tensor:
    """Attention [B, H, count, S] fp32 of a prompt's last rows to all rows, from queries and keys of all rows."""
    first = key.shape[2] - count
    return probabilities(query[:, :, first:], key, (torch.arange(count, device=query.device) + first)[None])


class NextLayer(nn.Module):
    """The input norm and the q/k projections of the layer that follows a cut, on the rows before it.

    What it gives equals the queries and keys that the layer would compute if nothing were pruned. Parameters carry
    the names of a decoder layer; methods derive their cut from it.

    Args:
        config: the decoder's sizes.
        fused: dialect.
        positions: what becomes of position ids at the cut.
    """

    def __init__(self, config: LlamaSettings, fused: bool, positions: Positions) -> None:
        super().__init__()
        self.positions = positions
        self.input_layernorm = RMSNorm(config.hidden, config.norm_eps, fused)
        self.self_attn = Attention(config, fused)
        del self.self_attn.v_proj, self.self_attn.o_proj
        self.rotary = Rotary(config, fused)

    def query_key(
        self, hidden: torch.Tensor, position_ids: torch.Tensor, rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotated queries of some rows and rotated keys of all rows.

        Args:
            hidden: [B, S, D].
            position_ids: [B, S] int64, or [3, B, S] where positions have three axes.
            rows: [B, t] int64, the rows whose queries are wanted.

        Returns:
            query [B, H, t, d], unscaled, and key [B, G, S, d].
        """
        attention = self.self_attn
        x = self.input_layernorm(hidden)
        key = self.rotary(attention.split(attention.k_proj(x)), position_ids, self.rotary.angles(position_ids))
        own = positions_of(position_ids, rows)
        asking = attention.split(attention.q_proj(gather_rows(x, rows)))
        return self.rotary(asking, own, self.rotary.angles(own)), key

    def last_query_and_keys(
        self, hidden: torch.Tensor, position_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotated query of the last row [B, H, 1, d], unscaled, and rotated keys of all rows [B, G, S, d].

        An index and a new axis, not a slice: TensorRT cannot tell while it parses that a slice has one row.
        """
        attention = self.self_attn
        x = self.input_layernorm(hidden)
        key = self.rotary(attention.split(attention.k_proj(x)), position_ids, self.rotary.angles(position_ids))
        last = position_ids[..., -1, None]
        query = self.rotary(attention.split(attention.q_proj(x[:, -1, None])), last, self.rotary.angles(last))
        return query, key


class LastRowCut(NextLayer):
    """A cut that keeps the visual rows that the prompt's last row attends to most in the next layer."""

    def forward(
        self,
        hidden: torch.Tensor,
        position_ids: torch.Tensor,
        visual_rows: torch.Tensor,
        keep: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Prune the visual rows of ``hidden``.

        Args:
            hidden: [B, S, D].
            position_ids: [B, S] int64, or [3, B, S] with three axes, as the layers before the cut used them.
            visual_rows: [B, V] int64, ascending, which rows of ``hidden`` are visual.
            keep: int64 scalar K, visual rows out.

        Returns:
            hidden [B, R, D], R = S - V + K; its position ids [B, R], or [3, B, R]; its visual rows [B, K] int64,
            ascending; and ``kept`` [B, K] int64, indices into the V visual rows, ascending.
        """
        score = columns(last_row(*self.last_query_and_keys(hidden, position_ids)), visual_rows)
        kept = top(score, read_keep(keep, score.shape[1]))
        return *drop_rows(hidden, position_ids, visual_rows, kept, self.positions), kept
