"""Root-mean-square and layer normalisation, computed in fp32 whatever the model's dtype."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axis.

    Zhang and Sennrich, 2019; the cast back comes before the weight, as in Llama.
    """

    def __init__(self, width: int, eps: float, fused: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width), requires_grad=False)
        self.eps = eps
        self.fused = fused

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [..., D] to [..., D] in the dtype of ``x``."""
        if self.fused:
            return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)  # RMSNormalization accumulates in fp32
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation with weight and bias; LayerNormalization is an operator in both dialects."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(width), requires_grad=False)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [..., D] to [..., D] in the dtype of ``x``."""
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)
