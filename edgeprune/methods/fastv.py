"""FastV: after the first layers, visual rows that the prompt's last row does not look at are dropped.

Chen et al., "An Image is Worth 1/2 Tokens After Layer 2" (ECCV 2024), in its form with a KV cache: selected once, at
prefill.

1. One cut, before layer 2 of 32, at the same fraction of other depths.
2. A visual row scores the attention it gets from the prompt's last row in the layer that just ran, averaged over
   heads.
3. Rows are dropped, not merged. Every row that stays keeps its position id.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeprune.methods.attention import probabilities
from edgeprune.methods.method import Method
from edgeprune.methods.selection import top
from edgeprune.methods.span import keep_rows, read_keep, read_span


class DecoderCut(nn.Module):
    """The cut; it has no weights."""

    def forward(
        self,
        hidden: torch.Tensor,
        position_ids: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        span_start: torch.Tensor,
        span_length: torch.Tensor,
        keep: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Prune the visual rows [span_start, span_start + span_length) of ``hidden``.

        Args:
            hidden: [B, S, D].
            position_ids: [B, S] int64.
            query: [B, H, S, d], rotated, of the layer before the cut.
            key: [B, G, S, d], rotated, of the same layer.
            span_start, span_length: int64 scalars.
            keep: int64 scalar K, visual rows out.

        Returns:
            hidden [B, S - v + K, D]; the position ids of its rows; ``kept`` [B, K] int64, indices into the v visual
            rows, ascending.
        """
        start, end = read_span(hidden, span_start, span_length)
        last = probabilities(query[:, :, -1, None], key, hidden.shape[1] - 1)
        score = last.mean(dim=1)[:, 0, start:end]
        kept = top(score, read_keep(keep, score.shape[1]))
        return *keep_rows(hidden, position_ids, start, end, kept), kept


METHODS = (Method(name="fastv", positions="keep", decoder_cut=lambda config, fused: DecoderCut()),)
