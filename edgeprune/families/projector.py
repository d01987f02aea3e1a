"""The projector of LLaVA's build: two linear maps with an activation between."""

from __future__ import annotations

import torch
from torch import nn

from edgeprune.checkpoint.config import LlavaConfig
from edgeprune.layers.activation import activate
from edgeprune.layers.linear import Linear


class Projector(nn.Module):
    """Two linear maps with an activation between, from encoder width to decoder width."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        bias = config.projector.bias
        self.activation = config.projector.activation
        self.linear_1 = Linear(config.vision.hidden, config.decoder.hidden, bias)
        self.linear_2 = Linear(config.decoder.hidden, config.decoder.hidden, bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map [C, K, Dv] to [C, K, D]."""
        projected: torch.Tensor = self.linear_2(activate(self.activation, self.linear_1(features)))
        return projected
