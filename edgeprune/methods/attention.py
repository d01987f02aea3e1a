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


def probabilities(query: torch.Tensor, key: torch.Tensor, first: int) -> torch.Tensor:
    """Softmax of query rows over all keys that come before or at them.

    Args:
        query: [B, H, t, d], rotated and unscaled: rows first..first+t-1 of the prompt.
        key: [B, G, E, d], rotated, rows 0..E-1 of the prompt, E >= first + t; H is a multiple of G.
        first: number of the first query row.

    Returns:
        [B, H, t, E] fp32; zero where a key comes after its query.
    """
    b, h, t, d = query.shape
    g, e = key.shape[1], key.shape[2]
    scaled = query.float() * (1.0 / math.sqrt(d))
    logits = torch.matmul(scaled.reshape(b, g, (h // g) * t, d), key.float().transpose(2, 3)).reshape(b, h, t, e)
    row = torch.arange(t, device=query.device)[:, None] + first
    seen = torch.arange(e, device=query.device)[None, :] <= row
    return torch.softmax(logits + torch.where(seen, 0.0, torch.finfo(torch.float32).min), dim=-1)


class NextLayer(nn.Module):
    """The input norm and the q/k projections of the layer that follows a cut, on the rows before it.

    What it gives equals the queries and keys that the layer would compute if nothing were pruned. Parameters carry
    the names of a decoder layer; methods derive their cut from it.

    Args:
        config: the decoder's sizes.
        fused: dialect.
    """

    def __init__(self, config: LlamaSettings, fused: bool) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden, config.norm_eps, fused)
        self.self_attn = Attention(config, fused)
        del self.self_attn.v_proj, self.self_attn.o_proj
        self.rotary = Rotary(config.head_dim, config.context, fused)

    def query_key(
        self, hidden: torch.Tensor, position_ids: torch.Tensor, first: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotated queries of rows ``first``.. and rotated keys of all rows.

        Args:
            hidden: [B, E, D].
            position_ids: [B, E] int64.
            first: the first row whose query is wanted.

        Returns:
            query [B, H, E - first, d], unscaled, and key [B, G, E, d].
        """
        attention = self.self_attn
        x = self.input_layernorm(hidden)
        angles = self.rotary.angles(position_ids)
        key = self.rotary(attention.split(attention.k_proj(x)), position_ids, angles)
        own = (angles[0][:, :, first:], angles[1][:, :, first:])
        query = self.rotary(attention.split(attention.q_proj(x[:, first:])), position_ids[:, first:], own)
        return query, key

    def last_query_and_keys(
        self, hidden: torch.Tensor, position_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotated query of the last row [B, H, 1, d], unscaled, and rotated keys of all rows [B, G, S, d].

        An index and a new axis, not a slice: TensorRT cannot tell while it parses that a slice has one row.
        """
        attention = self.self_attn
        x = self.input_layernorm(hidden)
        key = self.rotary(attention.split(attention.k_proj(x)), position_ids, self.rotary.angles(position_ids))
        last = position_ids[:, -1, None]
        query = self.rotary(attention.split(attention.q_proj(x[:, -1, None])), last, self.rotary.angles(last))
        return query, key
