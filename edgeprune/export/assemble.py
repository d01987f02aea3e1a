"""The graph that puts a prompt together: one gather, from a table of all rows there are."""

from __future__ import annotations

import torch
from torch import nn

from edgeprune.families.family import Family
from edgeprune.families.part import Part


class Assemble(nn.Module):
    """Text, visual and newline rows to the decoder's input; in which order, its caller computes.

    Args:
        newline: width D of the model's newline row, which stands last in the table; None where it has none.
    """

    def __init__(self, newline: int | None) -> None:
        super().__init__()
        self.newline = None if newline is None else nn.Parameter(torch.empty(newline), requires_grad=False)

    def forward(self, text: torch.Tensor, visual: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        """Gather.

        Args:
            text: [B, t, D].
            visual: [C, K, D].
            order: [B, S] int64, rows of the table: B t text rows, C K visual rows, the newline row.

        Returns:
            [B, S, D].
        """
        return self.gather(text, visual, order.reshape(-1)).reshape(*order.shape, text.shape[2])

    def gather(self, text: torch.Tensor, visual: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Rows [n] of the table: [n, D]."""
        width = text.shape[2]
        tables = [text.reshape(-1, width), visual.reshape(-1, width)]
        if self.newline is not None:
            tables.append(self.newline[None])
        return torch.cat(tables).index_select(0, rows)


class Blend(Assemble):
    """The same where a row may be blended from several, as models do that shrink what they see."""

    def forward(  # type: ignore[override]
        self, text: torch.Tensor, visual: torch.Tensor, order: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """Gather and blend.

        Args:
            text: [B, t, D].
            visual: [C, K, D].
            order: [B, S, J] int64, rows of the table.
            weight: [B, S, J], how much each counts.

        Returns:
            [B, S, D]; sums in fp32.
        """
        rows = self.gather(text, visual, order.reshape(-1)).reshape(*order.shape, text.shape[2])
        blended = torch.matmul(weight.float()[:, :, None], rows.float())[:, :, 0]
        return blended.to(text.dtype)


def assemble_part(model: Family) -> Part:
    """The graph's module, with the newline row of a model."""
    newline = model.newline()
    width = None if newline is None else model.decoder_facts.hidden
    module = (Blend if model.layout.taps > 1 else Assemble)(width)
    return Part(module, model.weights, str, {} if newline is None else {"newline": lambda: newline})
