"""PyramidDrop: in three places of the decoder, visual rows that the prompt's last row does not look at are dropped.

Xing et al., "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction"
(CVPR 2025), and the authors' released code, at inference:

1. Cuts before the layers at a quarter, a half and three quarters of the depth (8, 16, 24 of 32).
2. The next layer's own norm and projections give the query of the prompt's last row and the keys of all rows. A visual
   row scores the attention it gets, softmaxed over the whole row and averaged over heads.
3. Rows are dropped, not merged. Positions are numbered anew after every cut.
"""

from __future__ import annotations

import torch

from edgeprune.methods.attention import NextLayer, probabilities
from edgeprune.methods.method import Method
from edgeprune.methods.selection import gather_rows, top
from edgeprune.methods.span import read_keep, read_span, renumber, replace_rows


class DecoderCut(NextLayer):
    """A cut between two decoder layers; carries the next layer's input norm and q/k projections."""

    def forward(
        self,
        hidden: torch.Tensor,
        position_ids: torch.Tensor,
        span_start: torch.Tensor,
        span_length: torch.Tensor,
        keep: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Prune the visual rows [span_start, span_start + span_length) of ``hidden``.

        Args:
            hidden: [B, S, D].
            position_ids: [B, S] int64, as the layers before the cut used them.
            span_start, span_length: int64 scalars.
            keep: int64 scalar K, visual rows out.

        Returns:
            hidden [B, S - v + K, D]; position ids of that length, from 0; ``kept`` [B, K] int64, indices into the v
            visual rows, ascending.
        """
        start, end = read_span(hidden, span_start, span_length)
        query, key = self.last_query_and_keys(hidden, position_ids)
        score = probabilities(query, key, hidden.shape[1] - 1).mean(dim=1)[:, 0, start:end]
        kept = top(score, read_keep(keep, score.shape[1]))
        pruned = replace_rows(hidden, start, end, gather_rows(hidden[:, start:end], kept))
        return pruned, renumber(pruned), kept


METHODS = (Method(name="pyramiddrop", positions="repack", decoder_cut=DecoderCut),)
