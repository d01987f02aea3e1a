"""What every input of a graph may be at run time: from the bundle's axis names and the target's ranges.

One wide profile per graph serves prefill and decode, and every budget: a second one would store the weights twice.
It knows the names of the bundle's specification, no method and no model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgeprune.bundle.build import Bounds
from edgeprune.bundle.manifest import Graph, Manifest, Tensor
from edgeprune.errors import BundleError
from edgeprune.recipes.target import Range, Shapes

Profile = tuple[Bounds, ...]
Span = tuple[int, int, int]
"""Least, usual and most."""


def fit_shapes(shapes: Shapes, manifest: Manifest) -> Shapes:
    """A target's ranges, no wider than what the bundle's own model can ever be given."""
    return limit_shapes(shapes, min(shapes.context, manifest.decoder.context), manifest.vision.tokens)


def limit_shapes(shapes: Shapes, context: int, tokens: int) -> Shapes:
    """Ranges within a context, so that the shortest text fits beside the most visual rows and the other way round.

    Args:
        shapes: the ranges.
        context: the most rows of a cache, at least 3.
        tokens: the most visual rows there can be.
    """
    text = _at_most(shapes.text, context - 2)
    kept = _at_most(shapes.kept, max(1, min(tokens, context - 1 - text.least)))
    return replace(shapes, text=text, kept=kept, context=context)


def _at_most(span: Range, most: int) -> Range:
    most = min(span.most, most)
    return Range(min(span.least, most), min(span.usual, most), most)


def make_profile(graph: Graph, manifest: Manifest, shapes: Shapes) -> Profile:
    """The bounds of every input of a graph.

    Args:
        graph: of the bundle.
        manifest: of the same bundle.
        shapes: from the target; ``fit_shapes`` keeps them to what the model needs.

    Raises:
        BundleError: an input has an axis or is a scalar that the specification does not name.
    """
    sizes = _Sizes.of(shapes)
    early = graph.role == "encoder" or any(
        graph.name in (cut.graph, cut.kernel) and not isinstance(cut.at, int)
        for method in manifest.methods
        for cut in method.cuts
    )
    rows = manifest.vision.tokens if early else None
    return tuple(_bounds(graph, tensor, sizes, rows) for tensor in graph.inputs)


@dataclass(frozen=True)
class _Sizes:
    """The ranges of everything that varies, by the letters of the specification."""

    axes: dict[str, Span]
    values: dict[str, Span]

    @classmethod
    def of(cls, shapes: Shapes) -> _Sizes:
        text, kept, context = shapes.text, shapes.kept, shapes.context
        most = min(text.most + kept.most, context)
        prompt = (min(text.usual + kept.usual, most), most)
        axes = {
            "B": (shapes.batch.least, shapes.batch.usual, shapes.batch.most),
            "K": (kept.least, kept.usual, kept.most),
            # Text lies before or after the picture, in any shares.
            "a": (0, text.usual // 2, text.most),
            "t": (0, text.usual - text.usual // 2, text.most),
            "q": (1, max(1, text.usual // 2), text.most),
            "V": (kept.least, kept.usual, kept.most),
            "S": (1, prompt[0], prompt[1]),
            "P": (0, min(prompt[0], context - 1), context - 1),
        }
        keep = max(1, kept.usual // 2)
        values = {
            "span_start": (0, min(text.usual // 2, prompt[1] - kept.most), prompt[1] - kept.most),
            "span_length": (kept.least, kept.usual, kept.most),
            "keep": (1, keep, kept.most),
            "merge": (1, max(1, keep // 4), max(1, kept.most - 1)),
            "seed": (0, 1, 2**31 - 1),
        }
        return cls(axes, values)


def _bounds(graph: Graph, tensor: Tensor, sizes: _Sizes, rows: int | None) -> Bounds:
    if not tensor.shape:
        if tensor.name not in sizes.values:
            raise BundleError(
                f"graph {graph.name!r}: no range is known for scalar {tensor.name!r}; known: {', '.join(sizes.values)}"
            )
        span = sizes.values[tensor.name]
        if rows is not None:  # a stage before the decoder sees the patches of one picture, whatever the decoder may
            limit = {"keep": rows, "merge": max(1, rows - 1)}.get(tensor.name, span[2])
            span = (min(span[0], limit), min(span[1], limit), min(span[2], limit))
        return Bounds(tensor.name, tensor.dtype, "values", *((size,) for size in span))
    spans = [_axis(graph, tensor, axis, sizes) for axis in tensor.shape]
    least, usual, most = zip(*spans, strict=True)
    return Bounds(tensor.name, tensor.dtype, "shape", least, usual, most)


def _axis(graph: Graph, tensor: Tensor, axis: int | str, sizes: _Sizes) -> Span:
    if isinstance(axis, int):
        return (axis, axis, axis)
    if axis not in sizes.axes:
        raise BundleError(
            f"graph {graph.name!r}: no range is known for axis {axis!r} of {tensor.name!r}; "
            f"known: {', '.join(sizes.axes)}"
        )
    least, usual, most = sizes.axes[axis]
    if graph.role == "prune" and axis == "S":  # it holds at least the rows that are to be pruned
        start, length = sizes.values["span_start"], sizes.values["span_length"]
        least = max(least, start[0] + length[0])
    return (least, usual, most)
