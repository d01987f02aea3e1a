"""The class row, and the stage after the encoder that VisionZip published and VisionDrop took over.

The stage scores patches by the attention that the class row pays them, keeps the class row always, and merges what was
not selected. An encoder without a class row has no such score: there, and this is our generalisation, which follows
what VisionDrop's paper says of such encoders, a patch scores the attention that it receives from all patches on
average, and the rows that stay as they are are patches alone.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeprune.bundle.sizes import Vision
from edgeprune.methods.selection import merge_rest, read_count, selected_first


def without_class_row(rows: torch.Tensor, vision: Vision) -> torch.Tensor:
    """The patches among the rows [C, N, D] of every run, whose first is the class row where it is "inside"."""
    return rows[:, 1:] if vision.class_row == "inside" else rows


def make_stage(vision: Vision) -> nn.Module:
    """The stage for an encoder whose class row is apart from its features, the first of them, or not there."""
    return {"apart": ApartStage, "inside": InsideStage, "none": PatchStage}[vision.class_row]()


class PatchStage(nn.Module):
    """The stage of an encoder without a class row: N patches to K rows."""

    def forward(
        self,
        features: torch.Tensor,
        cls_attention: torch.Tensor,
        key: torch.Tensor,
        keep: torch.Tensor,
        merge: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Prune every run of the encoder.

        Args:
            features: [C, N, Dv] patch rows.
            cls_attention: [C, N] fp32, the attention that patches receive.
            key: [C, N, d] fp32.
            keep: int64 scalar K, rows out of a run, merged rows included.
            merge: int64 scalar, how many of them are merged rows.

        Returns:
            rows [C, K, Dv]: kept patches ascending, merged rows; and ``kept`` [C, K] int64 patch indices, a merged row
            by its reference patch.
        """
        return select_and_merge(features, key, cls_attention, keep, merge)


class InsideStage(nn.Module):
    """The stage of an encoder whose class row is the first of its N rows: they become K rows."""

    def forward(
        self,
        features: torch.Tensor,
        cls_attention: torch.Tensor,
        key: torch.Tensor,
        keep: torch.Tensor,
        merge: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Prune every run of the encoder.

        Args:
            features: [C, N, Dv], the class row first.
            cls_attention: [C, N - 1] fp32, of patches.
            key: [C, N, d] fp32, the class row first.
            keep: int64 scalar K, rows out of a run, class row and merged rows included.
            merge: int64 scalar, how many of them are merged rows.

        Returns:
            rows [C, K, Dv]: class row, kept patches ascending, merged rows; and ``kept`` [C, K] int64 patch indices,
            -1 for the class row, a merged row by its reference patch.
        """
        # The class row is always selected: a score above any sum of probabilities.
        always = torch.full_like(cls_attention[:, :1], torch.finfo(torch.float32).max)
        rows, index = select_and_merge(features, key, torch.cat((always, cls_attention), dim=1), keep, merge)
        return rows, index - 1


class ApartStage(InsideStage):
    """The stage of an encoder whose class row is no visual token: N patches and the class row to K rows."""

    def forward(  # type: ignore[override]
        self,
        features: torch.Tensor,
        cls_feature: torch.Tensor,
        cls_attention: torch.Tensor,
        key: torch.Tensor,
        keep: torch.Tensor,
        merge: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As ``InsideStage``.

        Args:
            features: [C, N, Dv] patch rows.
            cls_feature: [C, 1, Dv].
            cls_attention: [C, N] fp32.
            key: [C, N + 1, d] fp32, the class row first.
            keep, merge: int64 scalars.

        Returns:
            rows [C, K, Dv] and ``kept`` [C, K] int64.
        """
        return super().forward(torch.cat((cls_feature, features), dim=1), cls_attention, key, keep, merge)


def select_and_merge(
    x: torch.Tensor, key: torch.Tensor, score: torch.Tensor, keep: torch.Tensor, merge: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the ``keep - merge`` best rows of x [B, N, D] and merge the others into ``merge`` rows."""
    kept, merged = read_count(keep), read_count(merge)
    torch._check(merged >= 1)
    torch._check(kept > merged)
    torch._check(kept <= x.shape[1])
    dominant = kept - merged
    torch._check(dominant <= x.shape[1])
    return merge_rest(x, key, selected_first(score, dominant), dominant, merged)
