"""VisionDrop: vision-only scores in four places, dominant tokens kept, the others merged.

Xu et al., "VisionDrop", and the authors' released code, which this follows where the two differ:

1. Encoder stage: patches scored by the class row's attention in the selected layer, summed over heads; the class
   row is always kept and counts as dominant.
2. Decoder cuts, before layers at a quarter, a half and three quarters of the depth (8, 16, 24 of 32): the next
   layer's own norm and projections give queries of the visual rows and keys of all rows up to them; attention is
   softmaxed over the whole causal row, averaged over heads, and each visual row is scored by the mean attention
   it receives from all visual queries.
3. In both, the rows that were not selected are merged on the cosine of head-averaged keys.
4. Positions are numbered anew after every cut.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from edgeprune.decoders.llama import Attention, LlamaSettings
from edgeprune.layers.norm import RMSNorm
from edgeprune.layers.rotary import Rotary
from edgeprune.methods.method import Method
from edgeprune.methods.selection import merge_rest, read_count, selected_first


def cuts(layers: int) -> tuple[int, ...]:
    """Cut before the layers at a quarter, a half and three quarters of the depth, rounded down."""
    return tuple(layers * quarter // 4 for quarter in (1, 2, 3))


class VisionStage(nn.Module):
    """The encoder stage: [B, N] patches and the class row to K rows."""

    def forward(
        self,
        features: torch.Tensor,
        cls_feature: torch.Tensor,
        cls_attention: torch.Tensor,
        key: torch.Tensor,
        keep: torch.Tensor,
        merge: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Prune the encoder's output.

        Args:
            features: [B, N, Dv] patch rows.
            cls_feature: [B, 1, Dv].
            cls_attention: [B, N] fp32.
            key: [B, N + 1, d] fp32, the class row first.
            keep: int64 scalar K, rows out, class row and merged rows included.
            merge: int64 scalar, how many of them are merged rows.

        Returns:
            rows [B, K, Dv]: class row, kept patches ascending, merged rows; and ``kept`` [B, K] int64 patch
            indices, -1 for the class row, a merged row by its reference patch.
        """
        x = torch.cat((cls_feature, features), dim=1)
        # The class row is always selected: a score above any sum of probabilities.
        always = torch.full_like(cls_attention[:, :1], torch.finfo(torch.float32).max)
        score = torch.cat((always, cls_attention), dim=1)
        rows, index = select_and_merge(x, key, score, keep, merge)
        return rows, index - 1


class DecoderCut(nn.Module):
    """A cut between two decoder layers; carries the next layer's input norm and q/k projections."""

    def __init__(self, config: LlamaSettings, fused: bool) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden, config.norm_eps, fused)
        self.self_attn = Attention(config, fused)
        del self.self_attn.v_proj, self.self_attn.o_proj
        self.rotary = Rotary(config.head_dim, config.context, fused)

    def forward(
        self,
        hidden: torch.Tensor,
        position_ids: torch.Tensor,
        span_start: torch.Tensor,
        span_length: torch.Tensor,
        keep: torch.Tensor,
        merge: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Prune the visual rows [span_start, span_start + span_length) of ``hidden``.

        Args:
            hidden: [B, S, D].
            position_ids: [B, S] int64, as the layers before the cut used them.
            span_start, span_length: int64 scalars.
            keep: int64 scalar K, visual rows out, merged rows included.
            merge: int64 scalar, how many of them are merged rows.

        Returns:
            hidden [B, S - v + K, D]; position ids of that length, from 0; ``kept`` [B, K] int64, indices into the
            v visual rows, a merged row by its reference.
        """
        start, length = read_count(span_start), read_count(span_length)
        torch._check(start >= 0)
        torch._check(length >= 2)
        torch._check(start + length <= hidden.shape[1])
        end = start + length
        score, key = self.score(hidden[:, :end], position_ids[:, :end], start)
        rows, kept = select_and_merge(hidden[:, start:end], key, score, keep, merge)
        pruned = torch.cat((hidden[:, :start], rows, hidden[:, end:]), dim=1)
        positions = torch.arange(pruned.shape[1], device=hidden.device).expand(pruned.shape[0], -1)
        return pruned, positions, kept

    def score(self, hidden: torch.Tensor, position_ids: torch.Tensor, start: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Score rows start.. of ``hidden`` [B, E, D], which ends with the visual rows.

        Text after them is masked for every visual query, so it is not computed.

        Returns:
            score [B, v] fp32 and the keys' mean over heads [B, v, d] fp32, after rotation.
        """
        attention = self.self_attn
        x = self.input_layernorm(hidden)
        angles = self.rotary.angles(position_ids)
        k = self.rotary(attention.split(attention.k_proj(x)), position_ids, angles).float()
        visual_angles = (angles[0][:, :, start:], angles[1][:, :, start:])
        visual = position_ids[:, start:]
        q = self.rotary(attention.split(attention.q_proj(x[:, start:])), visual, visual_angles).float()
        q = q * (1.0 / math.sqrt(attention.head_dim))

        b, h, v, d = q.shape
        g, e = k.shape[1], k.shape[2]
        logits = torch.matmul(q.reshape(b, g, (h // g) * v, d), k.transpose(2, 3)).reshape(b, h, v, e)
        row = torch.arange(v, device=hidden.device)[:, None] + start
        seen = torch.arange(e, device=hidden.device)[None, :] <= row
        logits = logits + torch.where(seen, 0.0, torch.finfo(torch.float32).min)
        received = torch.softmax(logits, dim=-1).mean(dim=1)[:, :, start:]  # [B, v, v]
        return received.mean(dim=1), k[:, :, start:].mean(dim=1)


def select_and_merge(
    x: torch.Tensor, key: torch.Tensor, score: torch.Tensor, keep: torch.Tensor, merge: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the ``keep - merge`` best rows of x [B, N, D] and merge the others into ``merge`` rows."""
    kept, merged = read_count(keep), read_count(merge)
    torch._check(merged >= 1)
    torch._check(kept > merged)
    torch._check(kept <= x.shape[1])
    order = selected_first(score, kept - merged)
    return merge_rest(x, key, order, kept - merged, merged)


METHOD = Method(
    name="visiondrop",
    positions="repack",
    vision_probes=("cls_feature", "cls_attention", "key"),
    cuts=cuts,
    vision_stage=VisionStage,
    decoder_cut=DecoderCut,
)
