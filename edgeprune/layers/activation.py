"""The activations that towers and projectors name in their configurations."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def activate(name: str, x: torch.Tensor) -> torch.Tensor:
    """Apply "gelu" (exact), "gelu_pytorch_tanh" (its tanh form), "quick_gelu" (x * sigmoid(1.702 x)) or "silu".

    Raises:
        ValueError: another name; reading the configuration has refused it long before.
    """
    if name == "gelu":
        return F.gelu(x)
    if name == "gelu_pytorch_tanh":
        return F.gelu(x, approximate="tanh")
    if name == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    if name == "silu":
        return F.silu(x)
    raise ValueError(f"unknown activation {name!r}")
