"""Operations and bytes, and the conventions they are counted by.

1. A multiply-accumulate is two FLOPs. Matrix products and convolutions count; norms, softmax, activations, rotations,
   comparisons and sorts do not (below 1% of the sizes this is for).
2. Attention is the full rectangle of rows by keys, as the graphs compute it before they mask, not the causal half; of a
   prompt that is read in pieces, those of all pieces, each of which reads the weights.
3. Of the decoder's last layer only keys and values run on all rows; query, attention, output and feed-forward run on
   the last row alone, and so does the head.
4. ``weights`` are a graph's constants, read once, tables too of which a run reads a few rows (rotary angles, a text
   tower's words); ``traffic`` is every input read and every output written once. Intermediate results are taken to
   stay in the caches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SIZES = {"fp32": 4, "fp16": 2, "int32": 4, "int64": 8}
"""Bytes of an element."""


@dataclass(frozen=True)
class Cost:
    """Of one graph run once, or of several.

    Attributes:
        flops: see the conventions above.
        weights: bytes.
        traffic: bytes of inputs and outputs.
    """

    flops: int = 0
    weights: int = 0
    traffic: int = 0

    @property
    def bytes(self) -> int:
        """What must move at least."""
        return self.weights + self.traffic

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.weights + other.weights, self.traffic + other.traffic)


@dataclass(frozen=True)
class GraphCost:
    """One run of one graph; ``stage`` as the chain's clock books it: vision, prune, project, text, prefill, decode."""

    graph: str
    stage: str
    cost: Cost


def total(costs: Iterable[GraphCost], stage: str | None = None) -> Cost:
    """The sum over graphs, of one stage or of all."""
    return sum((c.cost for c in costs if stage is None or c.stage == stage), Cost())
