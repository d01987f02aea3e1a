"""VScan: a local and a global scan of the encoder with a merge, then one cut in the middle of the decoder.

Zhang et al., "VScan" (TMLR 2026), as released for LLaVA-1.5, and for Qwen2.5-VL, whose pictures have any size.

1. After the projector. Half of the rows to keep are those that an early layer's class row attends to most in each of
   4 x 4 windows, equally many per window; the others those that the selected layer's class row attends to most.
2. Every other row joins the kept row with the highest cosine, which becomes the mean of itself and its members.
3. One cut, before half of the decoder's layers: the next layer's own norm and projections give the query of the
   prompt's last row and the keys of all rows; visual rows are scored by its attention, averaged over heads. The
   others are dropped, and positions are numbered anew.

For Qwen2.5-VL the attention that a visual token receives stands for the class row's; in step 1 windows may have unlike
numbers of rows, up to as many as an even share, rounded up; in step 3 queries and keys are not rotated, and positions
are kept.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from edgeprune.bundle.sizes import Vision
from edgeprune.decoders.llama import LlamaSettings
from edgeprune.methods.attention import LastRowCut, NextLayer, last_row
from edgeprune.methods.class_row import without_class_row
from edgeprune.methods.method import Method
from edgeprune.methods.selection import best, chosen_first, gather_rows, rank, read_keep, top
from edgeprune.methods.visual_rows import Positions, columns, drop_rows

_WINDOWS = 4  # per side
_BLOCKS = 4  # in which all rows are compared with each


def make_stage(vision: Vision) -> nn.Module:
    """The stage before the decoder: for runs of one grid, or for pictures that keep their resolution."""
    return NativeStage() if vision.grid is None else ProjectedStage(vision)


def make_cut(config: LlamaSettings, fused: bool, positions: Positions) -> nn.Module:
    """The cut in the decoder, by what turns its queries and keys: positions of one axis, or of three."""
    return (PlainCut if config.rope.sections else LastRowCut)(config, fused, positions)


class ProjectedStage(nn.Module):
    """Selection after the encoder and merge in the decoder's space; it has no weights.

    Args:
        vision: the patch grid, and whether the class row is among the rows. Rows and columns beyond the last whole
            window belong to it.
    """

    window: torch.Tensor

    def __init__(self, vision: Vision) -> None:
        super().__init__()
        assert vision.grid is not None  # make_stage looked
        rows, across = vision.grid
        self.vision = vision
        tall, wide = min(_WINDOWS, rows), min(_WINDOWS, across)
        row = (torch.arange(rows) * tall).div(rows - rows % tall, rounding_mode="floor").clamp(max=tall - 1)
        column = (torch.arange(across) * wide).div(across - across % wide, rounding_mode="floor").clamp(max=wide - 1)
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


class NativeStage(nn.Module):
    """Selection and merge over the visual tokens of all pictures of a prompt, each of which has windows of its own.

    It has no weights. Letters: N visual tokens of all pictures, p pictures or frame pairs, l visual tokens of the
    largest.
    """

    def forward(
        self,
        visual: torch.Tensor,
        cls_attention: torch.Tensor,
        local_attention: torch.Tensor,
        positions: torch.Tensor,
        pictures: torch.Tensor,
        picture_rows: torch.Tensor,
        keep: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Select and merge.

        Args:
            visual: [C, N, D] projected rows.
            cls_attention: [C, N] fp32, 0 or more: attention received in the selected layer.
            local_attention: [C, N] fp32, 0 or more: the same in the early layer.
            positions: [N, 2] int64, row and column of each visual token in its picture.
            pictures: [p, l] int64, the visual tokens of each picture, padded with N.
            picture_rows: [N] int64, where each visual token stands in the flattened ``pictures``.
            keep: int64 scalar K, visual tokens out.

        Returns:
            rows [C, K, D] in the order of ``kept`` [C, K] int64, visual tokens, ascending.
        """
        count = read_keep(keep, visual.shape[1])
        window, windows = _windows(positions, pictures, picture_rows)
        wanted = torch.div(keep, 2, rounding_mode="trunc")
        most = torch.div(wanted + windows - 1, windows, rounding_mode="trunc")
        # A walk by descending score that passes over full windows takes the first ``most`` of each, and of these the
        # best; where that is fewer than wanted, the global scan fills up.
        free = _place_in_window(local_attention, window) < most
        local = free & best(local_attention.masked_fill(~free, -1.0), wanted)
        chosen = best(cls_attention.masked_fill(local, torch.finfo(torch.float32).max), keep)
        kept = chosen_first(chosen)[:, :count]
        return _merge(visual, chosen, kept), kept


def _windows(
    positions: torch.Tensor, pictures: torch.Tensor, picture_rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The number of each visual token's window [N] int64, and how many windows there are, an int64 scalar.

    Rows and columns beyond the last whole window belong to it; a side of fewer tokens has as many windows.
    """
    n = positions.shape[0]
    places = positions.index_select(0, pictures.flatten().clamp(max=n - 1)).reshape(*pictures.shape, 2)
    size = torch.where((pictures < n)[:, :, None], places, 0).amax(dim=1) + 1  # [p, 2] rows and columns
    sides = size.clamp(max=_WINDOWS)
    step = torch.div(size, sides, rounding_mode="trunc")  # of a window
    picture = torch.div(picture_rows, pictures.shape[1], rounding_mode="trunc")  # [N]
    band = torch.div(positions, step.index_select(0, picture), rounding_mode="trunc")
    band = torch.minimum(band, sides.index_select(0, picture) - 1)
    return (picture * _WINDOWS + band[:, 0]) * _WINDOWS + band[:, 1], (sides[:, 0] * sides[:, 1]).sum()


def _place_in_window(score: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
    """The place of every row among those of its window, by descending score, ties by ascending row.

    All pairs are compared, block by block, so that no table of all of them exists.

    Args:
        score: [B, N], 0 or more.
        window: [N] int64.

    Returns:
        [B, N] int32.
    """
    b, n = score.shape
    size = n // _BLOCKS + 1
    number = torch.arange(size * _BLOCKS, device=score.device)
    homes = window.index_select(0, number.clamp(max=n - 1)).reshape(_BLOCKS, 1, size)
    rivals = F.pad(score, (0, size * _BLOCKS - n), value=-1.0).reshape(b, _BLOCKS, 1, size)  # -1 comes before nothing
    place = torch.zeros_like(score, dtype=torch.int32)
    mine, home, own = score[:, :, None], window[:, None], torch.arange(n, device=score.device)[:, None]
    for block, earlier in enumerate(number.reshape(_BLOCKS, 1, size).unbind()):
        rival = rivals[:, block]
        before = (rival > mine) | ((rival == mine) & (earlier < own))
        place = place + (before & (homes[block] == home)).to(torch.int32).sum(dim=2, dtype=torch.int32)
    return place


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


class PlainCut(NextLayer):
    """As ``LastRowCut``, but queries and keys are not rotated, as released for positions of three axes."""

    def __init__(self, config: LlamaSettings, fused: bool, positions: Positions) -> None:
        super().__init__(config, fused, positions)
        del self.rotary

    def forward(
        self,
        hidden: torch.Tensor,
        position_ids: torch.Tensor,
        visual_rows: torch.Tensor,
        keep: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Prune the visual rows of ``hidden``.

        Args:
            hidden: [B, S, D].
            position_ids: [3, B, S] int64, as the layers before the cut used them.
            visual_rows: [B, V] int64, ascending, which rows of ``hidden`` are visual.
            keep: int64 scalar K, visual rows out.

        Returns:
            hidden [B, R, D], R = S - V + K; its position ids [3, B, R]; its visual rows [B, K] int64, ascending; and
            ``kept`` [B, K] int64, indices into the V visual rows, ascending.
        """
        attention, x = self.self_attn, self.input_layernorm(hidden)
        query, key = attention.split(attention.q_proj(x[:, -1, None])), attention.split(attention.k_proj(x))
        score = columns(last_row(query, key), visual_rows)
        kept = top(score, read_keep(keep, score.shape[1]))
        return *drop_rows(hidden, position_ids, visual_rows, kept, self.positions), kept


METHODS = (
    Method(
        name="vscan",
        positions="repack",
        projected=make_stage,
        decoder_cut=make_cut,
    ),
)
