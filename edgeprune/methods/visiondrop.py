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

import torch

from edgeprune.methods.attention import NextLayer, probabilities
from edgeprune.methods.class_row import VisionStage, select_and_merge
from edgeprune.methods.method import Method
from edgeprune.methods.span import read_span, renumber, replace_rows


class DecoderCut(NextLayer):
    """A cut between two decoder layers; carries the next layer's input norm and q/k projections."""

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
        start, end = read_span(hidden, span_start, span_length)
        # Text after the visual rows is masked for every visual query, so it is not computed.
        query, key = self.query_key(hidden[:, :end], position_ids[:, :end], start)
        received = probabilities(query, key, start).mean(dim=1)[:, :, start:]  # [B, v, v]
        similarity = key[:, :, start:].float().mean(dim=1)
        rows, kept = select_and_merge(hidden[:, start:end], similarity, received.mean(dim=1), keep, merge)
        pruned = replace_rows(hidden, start, end, rows)
        return pruned, renumber(pruned), kept


METHODS = (
    Method(
        name="visiondrop",
        positions="repack",
        vision=lambda vision: VisionStage(),
        decoder_cut=DecoderCut,
    ),
)
