"""What a method has to beat: patches that are kept without looking at them, evenly spaced or at random.

Both stand after the encoder and need nothing of the model. Neither keeps the class row or merges.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeprune.bundle.sizes import Vision
from edgeprune.methods.class_row import without_class_row
from edgeprune.methods.method import Method
from edgeprune.methods.selection import gather_rows, read_keep, top

_PRIME = 2**31 - 1  # squares of what is below it fit into int64


class _Blind(nn.Module):
    """A stage that looks at nothing.

    Args:
        vision: says whether the class row is among the features.
    """

    def __init__(self, vision: Vision) -> None:
        super().__init__()
        self.vision = vision


class Uniform(_Blind):
    """K patches at even distances in row-major order: the i-th is floor((2 i + 1) N / (2 K))."""

    def forward(self, features: torch.Tensor, keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep evenly spaced patches.

        Args:
            features: [C, N, Dv] the encoder's rows.
            keep: int64 scalar K, patches out of a run.

        Returns:
            rows [C, K, Dv] and ``kept`` [C, K] int64 patch indices, ascending.
        """
        patches = without_class_row(features, self.vision)
        b, n, _ = patches.shape
        count = read_keep(keep, n)
        middle = (2 * torch.arange(count, device=features.device) + 1) * n
        # The quotient by 2 K is how many multiples of 2 K are reached: compared, because a floor division of tensors
        # is exported by way of fp32 or of an Equal of bools, which TensorRT lacks.
        multiple = (torch.arange(n, device=features.device) + 1) * (2 * keep)
        kept = (multiple <= middle[:, None]).to(torch.int32).sum(dim=1, dtype=torch.int32).to(torch.int64)
        kept = kept.expand(b, -1)
        return gather_rows(patches, kept), kept


class Random(_Blind):
    """K patches at random, the same ones for the same seed on every machine, and for every run of a batch."""

    def forward(
        self, features: torch.Tensor, keep: torch.Tensor, seed: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the patches with the K largest random numbers.

        Args:
            features: [C, N, Dv] the encoder's rows.
            keep: int64 scalar K, patches out of a run.
            seed: int64 scalar, 0 or more.

        Returns:
            rows [C, K, Dv] and ``kept`` [C, K] int64 patch indices, ascending.
        """
        patches = without_class_row(features, self.vision)
        b, n, _ = patches.shape
        patch = torch.arange(n, device=features.device)
        # Below 2^31, so that ``top`` compares exact integers; fp32 would round them into ties.
        numbers = scramble(patch, seed).to(torch.int32)[None]
        kept = top(numbers, read_keep(keep, n)).expand(b, -1)
        return gather_rows(patches, kept), kept


def scramble(patch: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
    """A number in 0..2^31 - 2 for every patch: a line through the seed, then four quadratic steps, all exact.

    Args:
        patch: [N] int64.
        seed: int64 scalar, 0 or more.

    Returns:
        [N] int64.
    """
    x = _rest((patch + 1) * 40503 + _rest(seed) * 1000003)  # the seed's rest alone counts, and cannot overflow
    for _ in range(4):
        x = _rest(x * x + 1013904223 + patch)
    return x


def _rest(x: torch.Tensor) -> torch.Tensor:
    """Numbers modulo the prime, of int64 that are not negative: there the roundings of all runtimes agree."""
    return torch.remainder(x, _PRIME)


METHODS = (
    Method(name="uniform", vision=Uniform),
    Method(name="random", vision=Random),
)
