"""The element types that a model can be in: what a weight takes with its scales, and by which rate products run."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from edgeprune.errors import UsageError

_GROUP = 128  # weights that share an fp16 scale, as AWQ and GPTQ have it
_BLOCK = 16  # weights that share an fp8 scale, in NVIDIA's nvfp4


@dataclass(frozen=True)
class Precision:
    """How numbers are stored and multiplied.

    Attributes:
        name: what users type.
        weight: bytes per weight of the decoder's linear layers, scales of groups included.
        element: bytes of everything else: encoder, projector, methods' graphs, head, cache, activations.
        math: the rate of a target that products run at: "fp32", "fp16", "fp8" or "fp4".
    """

    name: str
    weight: float
    element: int
    math: str


PRECISIONS = {
    known.name: known
    for known in (
        Precision("fp32", 4.0, 4, "fp32"),
        Precision("fp16", 2.0, 2, "fp16"),
        # Weights alone, unpacked in front of the product; a scale per column is too little to count.
        Precision("int8", 1.0, 2, "fp16"),
        Precision("int4", 0.5 + 2 / _GROUP, 2, "fp16"),
        # Weights and activations.
        Precision("fp8", 1.0, 2, "fp8"),
        Precision("nvfp4", 0.5 + 1 / _BLOCK, 2, "fp4"),
    )
}
"""By name."""


def precision(name: str) -> Precision:
    """A precision by its name.

    Raises:
        UsageError: there is no such precision; near names are suggested.
    """
    if name not in PRECISIONS:
        near = difflib.get_close_matches(name, PRECISIONS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"unknown precision {name!r}; precisions: {', '.join(PRECISIONS)}{hint}")
    return PRECISIONS[name]
