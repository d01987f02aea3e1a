"""A matrix product with its weight stored the way MatMul reads it."""

from __future__ import annotations

import torch
from torch import nn


class Linear(nn.Module):
    """``x @ weight + bias`` with ``weight`` [in, out].

    PyTorch's own Linear stores [out, in] and exports a Transpose that every runtime must fold (a second copy of
    the weight while it loads). Checkpoint tensors are transposed once, when they are written.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=False) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [..., in] to [..., out]."""
        y = torch.matmul(x, self.weight)
        return y if self.bias is None else y + self.bias
