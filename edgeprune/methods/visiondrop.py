"""VisionDrop: vision-only scores in four places, dominant tokens kept, the others merged.

Xu et al., "VisionDrop", and the authors' released code, which this follows where the two differ:

1. Encoder stage: patches scored by the class row's attention in the selected layer, summed over heads; the class
   row is always kept and counts as dominant. Without a class row, by the attention they receive (``class_row``).
2. Decoder cuts, before layers at a quarter, a half and three quarters of the depth (8, 16, 24 of 32): the next
   layer's own norm and projections give queries of the visual rows and keys of all rows up to them; attention is
   softmaxed over the whole causal row, text between pictures among it, averaged over heads, and each visual row is
   scored by the mean attention it receives from all visual queries.
3. In both, the rows that were not selected are merged on the cosine of head-averaged keys.
4. Positions are numbered anew after every cut. Where a decoder's positions have three axes every row keeps its own,
   and a merged row takes its reference's.
"""

from __future__ import annotations

import torch

from edgeprune.methods.attention import NextLayer, probabilities
from edgeprune.methods.class_row import make_stage, select_and_merge
from edgeprune.methods.method import Method
from edgeprune.methods.selection import gather_rows, read_count
from edgeprune.methods.visual_rows import columns, drop_rows


class DecoderCut(NextLayer):
    """A cut between two decoder layers; carries the next layer's input norm and q/k projections."""

    def forward(
        self,
        hidden: torch.Tensor,
        position_ids: torch.Tensor,
        visual_rows: torch.Tensor,
        keep: torch.Tensor,
        merge: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Prune the visual rows of ``hidden``.

        Args:
            hidden: [B, S, D].
            position_ids: [B, S] int64, or [3, B, S] with three axes, as the layers before the cut used them.
            visual_rows: [B, V] int64, ascending, which rows of ``hidden`` are visual.
            keep: int64 scalar K, visual rows out, merged rows included.
            merge: int64 scalar, how many of them are merged rows.

        Returns:
            hidden [B, R, D], R = S - V + K, the merged rows behind where the last visual row was; its position ids
            [B, R], or [3, B, R]; its visual rows [B, K] int64, ascending; and ``kept`` [B, K] int64, indices into the
            V visual rows, a merged row by its reference.
        """
        query, key = self.query_key(hidden, position_ids, visual_rows)
        received = probabilities(query, key, visual_rows).mean(dim=1).mean(dim=1)  # [B, S]
        similarity = gather_rows(key.float().mean(dim=1), visual_rows)
        visual = gather_rows(hidden, visual_rows)
        rows, kept = select_and_merge(visual, similarity, columns(received, visual_rows), keep, merge)
        merged = rows[:, read_count(keep) - read_count(merge) :]
        return *drop_rows(hidden, position_ids, visual_rows, kept, self.positions, merged), kept


METHODS = (
    Method(
        name="visiondrop",
        positions="repack",
        vision=make_stage,
        decoder_cut=DecoderCut,
    ),
)
