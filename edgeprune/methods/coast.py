"""COAST: rows that the prompt attends to, and of the others those most like them and those least like them.

arXiv 2605.09429, known by its abstract and by a third party's port; the rest is reconstructed (the card says what).

1. One cut, before layer 2 of 32 (14 of 28, where the port has it for Qwen2.5-VL); everything is read in the layer that
   just ran: attention of the prompt's rows behind the last visual one to the visual rows, averaged over heads.
2. Anchors are four fifths of the rows to keep: those with the most attention from the prompt's last row.
3. References are the tenth of all rows with the least attention from any row of the prompt.
4. Every other row is scored by its highest cosine with an anchor minus its mean cosine with the references. Of these
   the best and the worst are kept; the share of the worst, which is spatial context, grows with the entropy of the
   attention from 5% to 15% of the budget.
5. Rows are dropped, not merged. Every row that stays keeps its position id.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from edgeprune.methods.attention import last_rows
from edgeprune.methods.method import Method
from edgeprune.methods.selection import best, chosen_first, gather_rows, read_keep
from edgeprune.methods.visual_rows import Positions, columns, drop_rows, read_text_after

_LEAST_CONTEXT, _MOST_CONTEXT = 0.05, 0.15
_TAKEN = torch.finfo(torch.float32).min


class DecoderCut(nn.Module):
    """The cut; it has no weights.

    Args:
        base: what the share of context is taken of: all rows to keep, or those that are not anchors.
        positions: what becomes of position ids.
    """

    def __init__(self, base: Literal["keep", "rest"], positions: Positions) -> None:
        super().__init__()
        self.base, self.positions = base, positions

    def forward(
        self,
        hidden: torch.Tensor,
        position_ids: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        visual_rows: torch.Tensor,
        text_after: torch.Tensor,
        keep: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Prune the visual rows of ``hidden``.

        Args:
            hidden: [B, S, D].
            position_ids: [B, S] int64, or [3, B, S] with three axes.
            query: [B, H, S, d], rotated, of the layer before the cut.
            key: [B, G, S, d], rotated, of the same layer.
            visual_rows: [B, V] int64, ascending, which rows of ``hidden`` are visual.
            text_after: int64 scalar, rows behind the last visual one.
            keep: int64 scalar K, visual rows out.

        Returns:
            hidden [B, R, D], R = S - V + K; its position ids [B, R], or [3, B, R]; its visual rows [B, K] int64,
            ascending; and ``kept`` [B, K] int64, indices into the V visual rows, ascending.
        """
        attention = last_rows(query, key, read_text_after(text_after, hidden)).mean(dim=1)
        attention = columns(attention, visual_rows)  # [B, t, V]
        count = read_keep(keep, attention.shape[2])
        anchors = torch.div(4 * keep, 5, rounding_mode="trunc")

        seen = attention.amax(dim=1)  # [B, v]
        anchor = best(attention[:, -1], anchors)
        contrast = _contrast(gather_rows(hidden, visual_rows), seen, anchor, anchors, count)
        rest = (keep - anchors).to(torch.int32)
        share = _LEAST_CONTEXT + (_MOST_CONTEXT - _LEAST_CONTEXT) * _entropy(seen)
        context = torch.floor((rest if self.base == "rest" else keep) * share + 1e-6).to(torch.int32)
        # At least one row each for context and for what is like the anchors; a single row is context.
        context = torch.maximum(torch.minimum(context, rest - 1), rest.clamp(max=1))[:, None]
        chosen = anchor | best(contrast.masked_fill(anchor, _TAKEN), rest - context)
        chosen = chosen | best((-contrast).masked_fill(chosen, _TAKEN), context)
        kept = chosen_first(chosen)[:, :count]
        return *drop_rows(hidden, position_ids, visual_rows, kept, self.positions), kept


def _entropy(seen: torch.Tensor) -> torch.Tensor:
    """Entropy of scores [B, v] as shares of their sum, from 0 (one row has all) to 1 (all alike): [B] fp32."""
    share = seen / seen.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    bits = -(share * share.clamp_min(1e-12).log()).sum(dim=1)
    rows = torch.ones_like(seen).sum(dim=1)
    return bits / rows.log().clamp_min(1e-6)


def _contrast(
    x: torch.Tensor, seen: torch.Tensor, anchor: torch.Tensor, anchors: torch.Tensor, count: int
) -> torch.Tensor:
    """Every row's highest cosine with an anchor minus its mean cosine with the references.

    Args:
        x: [B, v, D].
        seen: [B, v] fp32, the most attention a row gets; the references get the least.
        anchor: [B, v] bool.
        anchors: int64 scalar, how many there are: none where one row is kept.
        count: K.

    Returns:
        [B, v] fp32.
    """
    unit = x.float()
    unit = unit / unit.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    # Only the cosines with anchors are computed; with none, those with some row, which then do not count.
    first = chosen_first(anchor)[:, : 4 * count // 5 + 1 // count]
    nearest = torch.matmul(unit, gather_rows(unit, first).transpose(1, 2)).amax(dim=2)
    rows = x.shape[1]
    references = (rows - count - anchors).clamp(max=rows // 10).clamp(min=1)
    share = best(-seen, references).float() / references  # [B, v]
    mean = torch.matmul(share[:, None], unit)  # a mean of cosines is the cosine with the mean
    return torch.where(anchors > 0, nearest, 0.0) - torch.matmul(unit, mean.transpose(1, 2))[:, :, 0]


METHODS = (
    Method(name="coast", positions="keep", decoder_cut=lambda config, fused, positions: DecoderCut("keep", positions)),
    Method(
        name="coast-rest", positions="keep", decoder_cut=lambda config, fused, positions: DecoderCut("rest", positions)
    ),
)
