"""What a rule of the lint is given and what it says.

A rule is a function from a Subject to Findings; it knows one reason why a TensorRT refuses a graph, or takes it and
computes something else. Which rules there are is in ``lint.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.bundle.build import Bounds
from edgeprune.lint.shapes import Point
from edgeprune.lint.view import View, argument
from edgeprune.recipes.target import Flavour

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import NodeProto


@dataclass(frozen=True)
class Finding:
    """One reason not to build.

    Attributes:
        rule: its short name, "topk-limit".
        node: name of the node, or its output and operator where it has none; empty when it is about the profile.
        message: one line: what, which value, what was expected, and what to do.
    """

    rule: str
    node: str
    message: str


@dataclass(frozen=True)
class Subject:
    """What a rule looks at.

    Attributes:
        view: the graph.
        profile: bounds per input, as they would be given to TensorRT.
        points: the graph at least, usual and most of the profile.
        flavour, version: the TensorRT that would build it.
    """

    view: View
    profile: tuple[Bounds, ...]
    points: tuple[Point, Point, Point]
    flavour: Flavour
    version: tuple[int, ...]

    @property
    def library(self) -> str:
        """For messages: "TensorRT 10.3"."""
        name = "TensorRT" if self.flavour == "tensorrt" else "TensorRT-RTX"
        return f"{name} {'.'.join(map(str, self.version[:2]))}"

    def before(self, *version: int) -> bool:
        """Whether this is a TensorRT older than that version; TensorRT-RTX began after all that are asked about."""
        return self.flavour == "tensorrt" and self.version < version

    def bounds(self, name: str) -> Bounds | None:
        """The bounds of an input, if it has any."""
        return next((bounds for bounds in self.profile if bounds.name == name), None)

    def nodes(self, *operators: str) -> Iterator[NodeProto]:
        """Nodes of these operators in the default domain, those in nested graphs included."""
        for node in self.view.nodes:
            if node.op_type in operators and node.domain in ("", "ai.onnx"):
                yield node

    def dtype(self, name: str) -> str | None:
        """Element type of a value, None where unknown."""
        return self.points[0].dtypes.get(name)

    def value(self, name: str) -> NDArray[np.generic] | None:
        """Contents that a value has at all three points without being fed; None where it has not."""
        found = [point.values.get(name) for point in self.points]
        first = self.view.value(name) if found[0] is None else found[0]
        if first is None or self.view.ancestors(name):
            return None
        agree = all(other is None or (other.shape == first.shape and bool((other == first).all())) for other in found)
        return first if agree else None

    def rank(self, name: str) -> int | None:
        """Number of axes of a value, None where unknown."""
        shape = self.points[0].shapes.get(name)
        return None if shape is None else len(shape)

    def varies(self, name: str, axis: int | None = None) -> bool:
        """Whether an axis of a value, or any, has no fixed size; false where nothing is known."""
        shapes = [point.shapes.get(name) for point in self.points]
        sizes = {shape if axis is None else shape[axis : axis + 1] for shape in shapes if shape is not None}
        return len(sizes) > 1 or self.view.dynamic(name, axis)

    def given(self, node: NodeProto, index: int) -> str:
        """The name of an input that is there and neither an initializer nor a Constant; empty otherwise."""
        name = argument(node, index)
        return "" if not name or self.view.constant(name) else name


Rule = Callable[[Subject], Iterator[Finding]]


def called(node: NodeProto) -> str:
    """What to call a node in a finding."""
    return str(node.name) or f"{next(iter(node.output), '?')} ({node.op_type})"
