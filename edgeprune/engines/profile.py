"""What every input of a graph may be at run time: from the bundle's axis names and the target's ranges.

One wide profile per graph serves prefill and decode, and every budget: a second one would store the weights twice.
It knows the names of the bundle's specification, no method and no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgeprune.bundle.build import Bounds
from edgeprune.bundle.manifest import Graph, Manifest, Tensor
from edgeprune.errors import BundleError, RecipeError, UsageError
from edgeprune.recipes.target import RANGES, Range, Shapes

Profile = tuple[Bounds, ...]
Span = tuple[int, int, int]
"""Least, usual and most."""


def fit_shapes(shapes: Shapes, manifest: Manifest) -> Shapes:
    """A target's ranges, no wider than what the bundle's own model can be given for one picture or video."""
    fitted = limit_shapes(shapes, min(shapes.context, manifest.decoder.context), manifest.most_tokens)
    return replace(fitted, runs=_runs(shapes.runs, manifest))


def _runs(span: Range, manifest: Manifest) -> Range:
    """Encoder runs of a prompt: those of a video are always as many, those of a picture from one on.

    A square picture in tiles has the most, so plans are tuned for these. Pictures of native size share one run, and so
    do frames; what counts there is how many those are.
    """
    native, most = manifest.image.native, manifest.image.most_runs
    if native is not None:
        return _at_most(span, 1 if native.video is None else -(-native.video.most // native.temporal))
    if manifest.image.kind == "frames":
        return Range(most, most, most)
    span = _at_most(span, most)
    return replace(span, usual=span.most) if manifest.image.kind == "tiles" else span


def widen_shapes(shapes: Shapes, manifest: Manifest, asked: Mapping[str, tuple[int, ...]]) -> Shapes:
    """Ranges with some that were asked for in their place: the most alone, or least, usual and most.

    Args:
        shapes: as ``fit_shapes`` gives them.
        manifest: of the bundle.
        asked: by name, those of ``RANGES`` and "context".

    Raises:
        UsageError: three numbers that do not rise, more rows than the context or the model has room for, or other runs
            than every video has.
    """
    if manifest.image.kind == "frames" and set(asked.get("runs", ())) - {manifest.image.most_runs}:
        words = ",".join(map(str, asked["runs"]))
        raise UsageError(
            f"--runs {words}: this bundle's videos always have {manifest.image.most_runs} frames; leave --runs out"
        )
    spans, (context,) = {}, asked.get("context", (shapes.context,))
    if context > manifest.decoder.context:
        raise UsageError(f"--context {context} is more than the model's {manifest.decoder.context} positions")
    for name in RANGES:
        own: Range = getattr(shapes, name)
        numbers = asked.get(name, (own.least, own.usual, own.most))
        if len(numbers) == 1:
            numbers = (min(own.least, *numbers), min(own.usual, *numbers), *numbers)
        try:
            spans[name] = Range(*numbers)
        except RecipeError as error:
            raise UsageError(f"--{name} {error}") from error
    text, kept = spans["text"], spans["kept"]
    for name, rows in (("text", text.most + 1), ("kept", kept.most + text.least)):
        if rows >= context:
            raise UsageError(
                f"--{name} {spans[name].most} leaves no room in a context of {context}: --context {rows + 1} or more"
            )
    return Shapes(**spans, context=context)


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
    sizes = _Sizes.of(shapes, manifest)
    early = graph.role == "encoder" or any(
        graph.name in (cut.graph, cut.kernel) and not isinstance(cut.at, int)
        for method in manifest.methods
        for cut in method.cuts
    )
    cells = manifest.vision.cells or sizes.axes["N"][2]  # a class row among the features is no row to choose
    rows = cells if early else None
    return tuple(_bounds(graph, tensor, sizes, rows) for tensor in graph.inputs)


@dataclass(frozen=True)
class _Sizes:
    """The ranges of everything that varies, by the letters of the specification."""

    axes: dict[str, Span]
    values: dict[str, Span]

    @classmethod
    def of(cls, shapes: Shapes, manifest: Manifest) -> _Sizes:
        text, kept, context = shapes.text, shapes.kept, shapes.context
        native, batch = manifest.image.native, _span(shapes.batch)
        runs = (1, 1, 1) if native else _span(shapes.runs)
        most = min(text.most + kept.most, context)
        prompt = (min(text.usual + kept.usual, most), most)
        # Rows of one run: those of the grid; of pictures of native size, which share a run, all there are.
        cells = (kept.least, kept.usual, kept.most) if native else (manifest.vision.tokens,) * 3
        left = (1, min(cells[1], max(1, kept.usual // runs[1])), cells[2])
        axes = {
            "B": batch,
            "C": tuple(a * b for a, b in zip(batch, runs, strict=True)),
            "N": cells,
            "K": left,
            "t": (1, text.usual, text.most),
            "q": (1, max(1, text.usual // 2), text.most),
            "V": (kept.least, kept.usual, kept.most),
            "S": (1, prompt[0], prompt[1]),
            "P": (0, min(prompt[0], context - 1), context - 1),
            "J": (1, manifest.layout.taps, manifest.layout.taps),
        }
        if native:
            # A picture one token high has the most windows for its size; each further picture may begin one more.
            side, pictures = native.window_side, shapes.runs
            windows = tuple(-(-rows // side) for rows in cells)
            axes["w"] = (1, -(-cells[1] // side**2) + pictures.usual, windows[2] + pictures.most)
            of_one = min(cells[2], native.most_tokens)
            axes["p"], axes["l"] = _span(pictures), (1, min(of_one, max(1, cells[1] // pictures.usual)), of_one)
        keep = max(1, kept.usual // 2)
        values = {
            "keep": (1, keep, kept.most),
            "merge": (1, max(1, keep // 4), max(1, kept.most - 1)),
            "runs": runs,
            "text_after": (1, max(1, text.usual // 2), text.most),
            "seed": (0, 1, 2**31 - 1),
        }
        return cls({letter: _three(span) for letter, span in axes.items()}, values)


def _span(found: Range) -> Span:
    return found.least, found.usual, found.most


def _three(span: tuple[int, ...]) -> Span:
    least, usual, most = span
    return least, usual, most


def _bounds(graph: Graph, tensor: Tensor, sizes: _Sizes, rows: int | None) -> Bounds:
    if not tensor.shape:
        if tensor.name not in sizes.values:
            raise BundleError(
                f"graph {graph.name!r}: no range is known for scalar {tensor.name!r}; known: {', '.join(sizes.values)}"
            )
        span = sizes.values[tensor.name]
        if rows is not None:  # a stage before the decoder sees the rows of one run, whatever the decoder may
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
    if graph.role == "prune" and axis == "S":  # it holds at least the rows that are to be pruned, and text behind them
        least = max(least, sizes.axes["V"][0] + sizes.values["text_after"][0])
    return (least, usual, most)
