"""Small heads on the encoder that exist in training only, and their loss.

They make the features say what is where: colour, shape, position and object centre per patch on the layer LLaVA
reads; the outline inside each patch two layers up; on the class row, which (colour, shape) pairs are present - which
is what draws the class row's attention to objects.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.demo.canvas import COLORS, SHAPES
from tools.demo_training.network import GRID, WIDTH, Seen
from tools.demo_training.pictures import CELLS, Pictures


class Probes(nn.Module):
    """The heads."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.early_norm = nn.LayerNorm(WIDTH)
        self.parts = (len(COLORS) + 1, len(SHAPES) + 1, GRID, GRID, 2, 2)
        self.patch = nn.Linear(WIDTH, sum(self.parts))
        self.outline = nn.Linear(WIDTH, CELLS * CELLS)
        self.presence = nn.Linear(WIDTH, len(COLORS) * len(SHAPES))

    def forward(self, seen: Seen, pictures: Pictures) -> tuple[torch.Tensor, dict[str, float]]:
        """The weighted loss, and figures to watch."""
        heads = self.patch(self.norm(seen.rows[:, 1:]))
        color, shape, row, col, offset, center = heads.split(self.parts, dim=-1)
        weight = pictures.weight
        total = weight.sum().clamp(min=1)
        on = pictures.color > 0
        objects = on.sum().clamp(min=1)

        def patchwise(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
            return (loss * weight.flatten()).sum() / total

        def distance(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            loss = F.smooth_l1_loss(value, target, reduction="none", beta=0.1).sum(-1)
            return (loss * on).sum() / objects

        where = F.cross_entropy(row.flatten(0, 1), (pictures.place // GRID).flatten())
        where = where + F.cross_entropy(col.flatten(0, 1), (pictures.place % GRID).flatten())
        to_center, at_center = distance(offset, pictures.offset), distance(center, pictures.center)
        outline = F.binary_cross_entropy_with_logits(self.outline(self.early_norm(seen.early)), pictures.occupancy)
        presence = F.binary_cross_entropy_with_logits(self.presence(self.norm(seen.rows[:, 0])), pictures.presence)
        loss = patchwise(color, pictures.color) + 1.5 * patchwise(shape, pictures.shape)
        loss = loss + 0.2 * where + 0.5 * to_center + 1.0 * at_center + 3 * outline + 4 * presence
        with torch.no_grad():
            figures = {
                "p_color": float(((color.argmax(-1) == pictures.color) & on).sum() / objects),
                "p_shape": float(((shape.argmax(-1) == pictures.shape) & on).sum() / objects),
                "p_where": float(where),
                "p_center": float(at_center),
                "p_map": float(outline),
                "p_cls": float(presence),
                "p_mass": float((seen.cls_attention * on).sum(-1).mean()),
            }
        return loss, figures
