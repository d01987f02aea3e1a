"""One graph that is to be written: its name, its module, and the names and axes of its tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgeprune.bundle.manifest import Role, Tensor
from edgeprune.families.part import Part


@dataclass(frozen=True)
class GraphPlan:
    """One graph to be written.

    Attributes:
        name: of the graph and its file.
        role: station of the chain.
        layers: of a segment.
        part: makes the module with access to its weights.
        inputs, outputs: in the order of the module's arguments and results; a list argument is flattened.
        structure: what graphs of the same role, module type and tensors differ in otherwise; "" where nothing.
    """

    name: str
    role: Role
    layers: tuple[int, int] | None
    part: Callable[[], Part]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    structure: str = ""
