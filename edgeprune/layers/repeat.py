"""A step that a graph takes many times over, traced once.

PyTorch's exporter works through every call of a module anew, minutes for a graph of seventy rounds. A ``Repeated`` step
stands in the trace as one node per call; the exporter traces its body once and puts that in the place of every node, so
that the graph that is written is unrolled.
"""

from __future__ import annotations

import torch
from torch import nn

DOMAIN = "edgeprune"
"""Of the nodes that stand for a body until the exporter replaces them."""


class Repeated(nn.Module):
    """A module without weights whose result has the shape and dtype of its first argument.

    Args:
        body: what is called.
        name: unique in its graph.
        inputs: per argument its dtype and its axes, fixed or "B", the batch.
    """

    def __init__(
        self, body: nn.Module, name: str, inputs: tuple[tuple[torch.dtype, tuple[int | str, ...]], ...]
    ) -> None:
        super().__init__()
        self.body, self.name, self.inputs = body, name, inputs

    def forward(self, state: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        """Call the body, or leave a node for it."""
        if not torch.onnx.is_in_onnx_export():
            result: torch.Tensor = self.body(state, *others)
            return result
        name = f"{DOMAIN}::{self.name}"
        return torch.onnx.ops.symbolic(name, (state, *others), dtype=state.dtype, shape=state.shape, version=1)
