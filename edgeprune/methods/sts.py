"""STS: first rows that lie and look apart from each other, then those that the prompt attends to.

arXiv 2606.03569, known by its abstract; everything below it is reconstructed (the card says so).

1. After the encoder, repulsion-based sampling. Two patches repel each other the more, the nearer they lie on the grid
   and the more alike they are; rows are picked one after another where the picked ones repel least, in a tie the one
   that the class row attends to most. ``sts`` picks once from every cell of the grid, in rounds; ``sts-greedy``
   picks freely, one row at a time, which a loop on the host does.
2. One cut, before half of the decoder's layers: visual rows scored by the attention they get in the layer that just
   ran from all rows of the prompt after the image, averaged over heads and rows. The others are dropped; every row
   that stays keeps its position id.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from edgeprune.bundle.sizes import Vision
from edgeprune.errors import UsageError
from edgeprune.methods.attention import last_rows
from edgeprune.methods.class_row import without_class_row
from edgeprune.methods.grid import fixed_grid
from edgeprune.methods.method import Method
from edgeprune.methods.selection import chosen_first, gather_rows, rank, read_keep, top
from edgeprune.methods.visual_rows import Positions, columns, drop_rows, read_text_after

_UNLIKE = 0.2  # how much a patch that looks altogether different repels
_ATTENTION = 1e-3  # weight of the class row's attention, which breaks ties and no more
_PICKED = 1e30
_OUTSIDE = 3e38
_MOST_ROUNDS = 64


class Kernel(nn.Module):
    """How much every patch repels every other, and what each starts with.

    Args:
        vision: the patch grid, and whether the class row is among the features.

    Raises:
        UsageError: pictures have grids of their own.
    """

    place: torch.Tensor

    def __init__(self, vision: Vision) -> None:
        super().__init__()
        self.vision, self.grid = vision, fixed_grid(vision, "sts", "spreads patches over the grid")
        row, column = _rows_and_columns(self.grid)
        self.register_buffer("place", torch.stack((row, column)).float(), persistent=False)

    def forward(
        self, features: torch.Tensor, cls_attention: torch.Tensor, keep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Build the potential.

        Args:
            features: [C, N, Dv], P patches among them.
            cls_attention: [C, P] fp32.
            keep: int64 scalar M; M patches spread evenly lie sqrt(P / M) apart, which is how far repulsion reaches.

        Returns:
            kernel [C, P, P] fp32, row j what picking j adds to every patch; start [C, P] fp32.
        """
        unit = without_class_row(features, self.vision).float()
        distance = (self.place[:, :, None] - self.place[:, None, :]).square().sum(dim=0)
        near = torch.exp(distance * (keep.float() * (-0.5 / unit.shape[1])))
        unit = unit / unit.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        alike = torch.matmul(unit, unit.transpose(1, 2)).clamp_min(0.0)
        low, high = cls_attention.amin(dim=1, keepdim=True), cls_attention.amax(dim=1, keepdim=True)
        attention = (cls_attention - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)
        return near * (_UNLIKE + (1.0 - _UNLIKE) * alike), attention * -_ATTENTION


class RoundsStage(Kernel):
    """Sampling in rounds of one patch per cell of the grid.

    Cells are square, of the least side that divides the grid's and leaves three rounds. Which side that is depends
    on the request, so the cells of all sides are tables, and there are as many rounds as any request needs, of
    which those beyond its own change nothing.

    Args:
        vision: the patch grid, and whether the class row is among the features.

    Raises:
        UsageError: pictures have grids of their own, or the grid's sides have so few common divisors that some request
            would need too many rounds.
    """

    cells: torch.Tensor
    groups: torch.Tensor

    def __init__(self, vision: Vision) -> None:
        super().__init__(vision)
        rows, columns = self.grid
        common = math.gcd(rows, columns)
        sides = [side for side in range(2, common + 1) if common % side == 0] or [1]
        groups = [rows * columns // side**2 for side in sides]
        row, column = _rows_and_columns(self.grid)
        cells = [
            row.div(side, rounding_mode="floor") * (columns // side) + column.div(side, rounding_mode="floor")
            for side in sides
        ]
        self.register_buffer("cells", torch.stack(cells), persistent=False)  # [sides, N]
        self.register_buffer("groups", torch.tensor(groups), persistent=False)  # [sides]
        self.most = groups[0]
        self.rounds = max(
            keep // groups[sum(keep < 3 * group for group in groups[:-1])] for keep in range(1, rows * columns + 1)
        )
        if self.rounds > _MOST_ROUNDS:
            raise UsageError(
                f"sts would need {self.rounds} rounds for a grid of {rows} x {columns}, whose sides have hardly a "
                "common divisor; take sts-greedy"
            )

    def forward(
        self, features: torch.Tensor, cls_attention: torch.Tensor, keep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sample patches.

        Args:
            features: [C, N, Dv], P patches among them.
            cls_attention: [C, P] fp32.
            keep: int64 scalar M, patches out of a run.

        Returns:
            rows [C, M, Dv] and ``kept`` [C, M] int64 patch indices, ascending.
        """
        kernel, energy = super().forward(features, cls_attention, keep)
        side = (keep < 3 * self.groups[:-1]).to(torch.int64).sum(dim=0, keepdim=True)
        cell, group = self.cells.index_select(0, side)[0], self.groups.index_select(0, side)
        chosen = torch.zeros_like(energy) > 0
        for done in range(1, self.rounds + 1):
            first, _ = self._least(energy, cell)
            picked = first & (group * done <= keep)
            energy = energy + torch.matmul(picked.float()[:, None], kernel)[:, 0]
            energy = energy.masked_fill(picked, _PICKED)
            chosen = chosen | picked
        # What is left over comes from the cells whose best patch is repelled least.
        first, best = self._least(energy, cell)
        cell_in = rank(-best) < keep % group
        chosen = chosen | (first & cell_in.index_select(1, cell))
        patches = without_class_row(features, self.vision)
        kept = chosen_first(chosen)[:, : read_keep(keep, patches.shape[1])]
        return gather_rows(patches, kept), kept

    def _least(self, energy: torch.Tensor, cell: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which patches [B, N] are the least of their cell, the first one on ties, and that least [B, cells]."""
        patch = torch.arange(energy.shape[1], device=energy.device, dtype=torch.int32)
        member = torch.arange(self.most, device=energy.device)[:, None] == cell
        spread = torch.where(member, energy[:, None], _OUTSIDE)
        least = spread.amin(dim=2)
        first = torch.where(member & (spread == least[:, :, None]), patch, energy.shape[1]).amin(dim=2)
        return first.index_select(1, cell) == patch, least


class GreedyStage(nn.Module):
    """Takes the patches that the host has picked.

    Args:
        vision: says whether the class row is among the features.
    """

    def __init__(self, vision: Vision) -> None:
        super().__init__()
        self.vision = vision

    def forward(self, features: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather.

        Args:
            features: [C, N, Dv].
            chosen: [C, K] int64 patch indices, ascending.

        Returns:
            rows [C, K, Dv] and ``kept`` [C, K] int64, which is ``chosen``.
        """
        return gather_rows(without_class_row(features, self.vision), chosen), chosen.clone()


def _rows_and_columns(grid: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of every patch."""
    patch = torch.arange(grid[0] * grid[1])
    return patch.div(grid[1], rounding_mode="floor"), patch % grid[1]


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
        score = columns(attention.mean(dim=1), visual_rows)
        kept = top(score, read_keep(keep, score.shape[1]))
        return *drop_rows(hidden, position_ids, visual_rows, kept, self.positions), kept


METHODS = (
    Method(
        name="sts",
        positions="keep",
        vision=RoundsStage,
        decoder_cut=lambda config, fused, positions: DecoderCut(positions),
    ),
    Method(
        name="sts-greedy",
        positions="keep",
        vision=GreedyStage,
        kernel=Kernel,
        sampler="repulsion",
        decoder_cut=lambda config, fused, positions: DecoderCut(positions),
    ),
)
