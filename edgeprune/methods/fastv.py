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

from edgeprune.methods.attention import last_row
from edgeprune.methods.method import Method
from edgeprune.methods.selection import read_keep, top
from edgeprune.methods.visual_rows import Positions, columns, drop_rows


class DecoderCut(nn.Module):
    """The cut; it has no weights.

    Args:
        positions: what becomes of position ids.
    """

    def __init__(self, positions: Positions) -> None:
        super().__init__()
        self.positions = positions

    def forward(
        self,
        hidden: torch.Tensor,
        position_ids: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        visual_rows: torch.Tensor,
        keep: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Prune the visual rows of ``hidden``.

        Args:
            hidden: [B, S, D].
            position_ids: [B, S] int64, or [3, B, S] with three axes.
            query: [B, H, S, d], rotated, of the layer before the cut.
            key: [B, G, S, d], rotated, of the same layer.
            visual_rows: [B, V] int64, ascending, which rows of ``hidden`` are visual.
            keep: int64 scalar K, visual rows out.

        Returns:
            hidden [B, R, D], R = S - V + K; its position ids [B, R], or [3, B, R]; its visual rows [B, K] int64,
            ascending; and ``kept`` [B, K] int64, indices into the V visual rows, ascending.
        """
        score = columns(last_row(query[:, :, -1, None], key), visual_rows)
        kept = top(score, read_keep(keep, score.shape[1]))
        return *drop_rows(hidden, position_ids, visual_rows, kept, self.positions), kept


METHODS = (Method(name="fastv", positions="keep", decoder_cut=lambda config, fused, positions: DecoderCut(positions)),)
