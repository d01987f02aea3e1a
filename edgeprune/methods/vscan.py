"""VScan: a local and a global scan of the encoder with a merge, then one cut in the middle of the decoder.

Zhang et al., "VScan" (TMLR 2026), as released for LLaVA-1.5.

1. After the projector. Half of the rows to keep are those that an early layer's class row attends to most in each of
   4 x 4 windows, equally many per window; the others those that the selected layer's class row attends to most.
2. Every other row joins the kept row with the highest cosine, which becomes the mean of itself and its members.
3. One cut, before half of the decoder's layers: the next layer's own norm and projections give the query of the
   prompt's last row and the keys of all rows; visual rows are scored by its attention, averaged over heads. The
   others are dropped, and positions are numbered anew.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeprune.bundle.sizes import Vision
from edgeprune.methods.attention import LastRowCut
from edgeprune.methods.class_row import without_class_row
from edgeprune.methods.grid import fixed_grid
from edgeprune.methods.method import Method
from edgeprune.methods.selection import chosen_first, gather_rows, rank, read_keep

_WINDOWS = 4  # per side


class ProjectedStage(nn.Module):
    """Selection after the encoder and merge in the decoder's space; it has no weights.

    Args:
        vision: the patch grid, and whether the class row is among the rows. Rows and columns beyond the last whole
            window belong to it.

    Raises:
        UsageError: pictures have grids of their own.
    """

    window: torch.Tensor

    def __init__(self, vision: Vision) -> None:
        super().__init__()
        rows, columns = fixed_grid(vision, "vscan", "scans the windows of the grid")
        self.vision = vision
        tall, wide = min(_WINDOWS, rows), min(_WINDOWS, columns)
        row = (torch.arange(rows) * tall).div(rows - rows % tall, rounding_mode="floor").clamp(max=tall - 1)
        column = (torch.arange(columns) * wide).div(columns - columns % wide, rounding_mode="floor").clamp(max=wide - 1)
        self.register_buffer("window", (row[:, None] * wide + column).flatten(), persistent=False)  # [N]
        self.windows = tall * wide

    def forward(
        self, visual: torch.Tensor, cls_attention: torch.Tensor, local_attention: torch.Tensor, keep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Select and merge.

        Args:
            visual: [C, N, D] projected rows, P patches among them.
            cls_attention: [C, P] fp32, of the selected layer.
            local_attention: [C, P] fp32, of the early layer.
            keep: int64 scalar K, patches out of a run.

        Returns:
            rows [C, K, D] in the order of ``kept`` [C, K] int64, patch indices, ascending.
        """
        visual = without_class_row(visual, self.vision)
        count = read_keep(keep, visual.shape[1])
        local = self._place_in_window(local_attention) < torch.div(keep, 2 * self.windows, rounding_mode="trunc")
        # What the local scan takes counts first, and the global scan fills up.
        chosen = rank(cls_attention.masked_fill(local, torch.finfo(torch.float32).max)) < keep
        kept = chosen_first(chosen)[:, :count]
        return _merge(visual, chosen, kept), kept

    def _place_in_window(self, score: torch.Tensor) -> torch.Tensor:
        """As ``selection.rank``, among the patches of the same window: [B, N] int32."""
        patch = torch.arange(score.shape[1], device=score.device)
        mine, other = score[:, :, None], score[:, None, :]
        earlier = patch[None, :] < patch[:, None]
        near = self.window[None, :] == self.window[:, None]
        beaten = near & ((other > mine) | ((other == mine) & earlier))
        return beaten.to(torch.int32).sum(dim=2, dtype=torch.int32)


def _merge(x: torch.Tensor, chosen: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Every row that is not chosen joins the kept row with the highest cosine, the first one on ties.

    Args:
        x: [B, N, D].
        chosen: [B, N] bool.
        kept: [B, K] the chosen rows.

    Returns:
        [B, K, D], the mean of each kept row and its members, in the dtype of ``x``.
    """
    wide = x.float()
    unit = wide / wide.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    nearest = torch.matmul(unit, gather_rows(unit, kept).transpose(1, 2)).argmax(dim=2)  # [B, N]
    member = (nearest[:, :, None] == torch.arange(kept.shape[1], device=x.device)) & ~chosen[:, :, None]
    member = member.float().transpose(1, 2)
    total = gather_rows(wide, kept) + torch.matmul(member, wide)
    return (total / (1.0 + member.sum(dim=2, keepdim=True))).to(x.dtype)


METHODS = (
    Method(
        name="vscan",
        positions="repack",
        projected=ProjectedStage,
        decoder_cut=LastRowCut,
    ),
)
