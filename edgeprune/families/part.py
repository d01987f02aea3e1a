"""A module and where each of its parameters comes from, so that it can be traced without its weights.

It knows names and tensors; what the module computes is its own business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from edgeprune.checkpoint.weights import Weights
from edgeprune.layers.linear import Linear


class Part:
    """One module of a model, empty, with access to its weights one tensor at a time.

    Args:
        module: its parameters' values are never read.
        weights: the checkpoint.
        rename: from a parameter's name in the module to the checkpoint's canonical name.
        computed: parameters that no checkpoint stores (rotary tables), made on demand.

    Raises:
        CheckpointError: a tensor is missing, or has another shape than its configuration says.
    """

    def __init__(
        self,
        module: nn.Module,
        weights: Weights,
        rename: Callable[[str], str],
        computed: Mapping[str, Callable[[], torch.Tensor]] | None = None,
    ) -> None:
        self.module = module.eval()
        self._weights, self._rename, self._computed = weights, rename, dict(computed or {})
        owners = module.named_modules()
        self._transposed = {f"{name}.weight" for name, owner in owners if isinstance(owner, Linear)}
        weights.missing(self.stored)
        self._check_shapes()

    @property
    def stored(self) -> list[str]:
        """Canonical names of the checkpoint tensors that the part needs."""
        names = (name for name, _ in self.module.named_parameters())
        return [self._rename(name) for name in names if name not in self._computed]

    def _check_shapes(self) -> None:
        for name, parameter in self.module.named_parameters():
            if name in self._computed:
                continue
            shape = tuple(reversed(parameter.shape)) if name in self._transposed else tuple(parameter.shape)
            self._weights.expect(self._rename(name), shape)

    def tensor(self, name: str) -> torch.Tensor:
        """The value of a parameter, in the module's layout and the checkpoint's dtype."""
        if name in self._computed:
            return self._computed[name]()
        value = self._weights.tensor(self._rename(name))
        return value.t().contiguous() if name in self._transposed else value

    def load(self, dtype: torch.dtype) -> nn.Module:
        """The module with its weights, for eager use."""
        state = {name: self.tensor(name).to(dtype) for name, _ in self.module.named_parameters()}
        self.module.load_state_dict(state, assign=True)
        return self.module.requires_grad_(False)
