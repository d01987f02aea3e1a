"""The stage after the encoder that VisionZip published and VisionDrop took over.

Patches are scored by the attention that the class row pays them, the class row always stays, and what was not selected
is merged.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeprune.methods.selection import merge_rest, read_count, selected_first


class VisionStage(nn.Module):
    """The stage after the encoder: N patches and the class row to K rows."""

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
