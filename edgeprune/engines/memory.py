"""How much memory building and running take, estimated before either starts, and what would fit instead.

Counts bytes from the manifest and from the shapes of a graph; it asks no device, and compares with what it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeprune.bundle.build import Bounds
from edgeprune.bundle.manifest import Graph, Manifest
from edgeprune.engines.profile import limit_shapes
from edgeprune.errors import BackendError
from edgeprune.estimate.machine import SYSTEM_RESERVE
from edgeprune.estimate.memory import build_bytes
from edgeprune.lint.shapes import Point, points
from edgeprune.recipes.target import Range, Shapes, Target
from edgeprune.runtime.room import row_bytes, spell

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class RunNeed:
    """Bytes that running a bundle takes on a device, at the usual batch and the longest prompts of the ranges.

    A larger batch is judged when it is asked for.

    Attributes:
        weights: of all graphs; the embedding table stays a mapped file.
        cache: keys and values at their longest, twice: a step reads one copy and writes the other.
        scratch: what lies between a graph's layers at its largest; all graphs share it.
    """

    weights: int
    cache: int
    scratch: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.scratch


def graph_weights(graph: Graph) -> int:
    """Bytes of a graph's weights."""
    return (graph.data.bytes if graph.data else 0) + graph.file.bytes


def host_need(graph: Graph) -> int:
    """Bytes of host memory that building one graph takes at its peak; graphs are built one after another."""
    return build_bytes(graph_weights(graph))


def device_need(graph: Graph, scratch: int, workspace: int) -> int:
    """Bytes of a GPU's memory that tuning one graph on it takes: its weights, and scratch as far as it is allowed."""
    return graph_weights(graph) + min(scratch, workspace)


def run_need(manifest: Manifest, shapes: Shapes, scratch: int) -> RunNeed:
    """Bytes that running takes.

    Args:
        manifest: of the bundle.
        shapes: the ranges of its engines.
        scratch: largest of all graphs at the usual batch, from ``scratch_bytes``.
    """
    rows = shapes.batch.usual * shapes.context
    cache = 2 * rows * manifest.decoder.layers * row_bytes(manifest)
    return RunNeed(sum(map(graph_weights, manifest.graphs)), cache, scratch)


def scratch_bytes(model: onnx.ModelProto, profile: Sequence[Bounds], batch: int) -> int:
    """Peak of a graph's values that are alive at once at its longest prompt, weights excluded.

    Fusing layers only makes it less. A prompt finds an empty cache, so cached rows are not counted beside it.

    Args:
        model: the graph.
        profile: of the graph.
        batch: pictures at once.
    """
    point = points(model, tuple(_prompt(bounds, batch) for bounds in profile))[2]
    nodes = model.graph.node
    last = {name: place for place, node in enumerate(nodes) for name in node.input}
    kept = {tensor.name for tensor in model.graph.initializer} | {value.name for value in model.graph.output}
    alive = sum(_bytes(point, value.name) for value in model.graph.input)
    peak = alive
    for place, node in enumerate(nodes):
        alive += sum(_bytes(point, name) for name in node.output if name)
        peak = max(peak, alive)
        done = {name for name in node.input if name and last[name] == place and name not in kept}
        alive -= sum(_bytes(point, name) for name in done)
    return peak


def _prompt(bounds: Bounds, batch: int) -> Bounds:
    """The bounds of an input with the batch fixed and, for a cache, no rows."""
    if bounds.kind == "values":
        return bounds
    most = (batch, *bounds.most[1:])
    if bounds.name.startswith("past_"):
        most = (*most[:2], 0, *most[3:])
    return replace(
        bounds, least=tuple(map(min, bounds.least, most)), usual=tuple(map(min, bounds.usual, most)), most=most
    )


def _bytes(point: Point, name: str) -> int:
    """Bytes of a value; what is unknown counts nothing, and the tests see to it that exports have nothing unknown."""
    return point.nbytes(name) or 0


def check_build(graphs: Sequence[tuple[Graph, int]], workspace: int, available: int, device_free: int | None) -> None:
    """Raise if building any of several graphs takes more than there is.

    Args:
        graphs: those that are to be built, each with its scratch in bytes.
        workspace: bytes of scratch that a build may take.
        available: bytes free on the machine, swap included; on a Jetson, where the GPU shares them, without.
        device_free: bytes free on the GPU that tactics are tuned on: its own memory, or the machine's where it shares
            that; None where no GPU is needed.

    Raises:
        BackendError: how much is missing, and what would help.
    """
    for graph, scratch in graphs:
        need = host_need(graph)
        if need > available:
            raise BackendError(
                f"building graph {graph.name} takes about {spell(need)} at its peak, this machine has "
                f"{spell(available)} free; close other programs, {_smaller(graph)}"
            )
        need = device_need(graph, scratch, workspace)
        if device_free is not None and need > device_free:
            raise BackendError(
                f"building graph {graph.name} takes about {spell(need)} on the GPU, which has {spell(device_free)} "
                f"free; close what else uses it (nvidia-smi), {_smaller(graph)}"
            )


def check_run(manifest: Manifest, target: Target, shapes: Shapes, scratch: int) -> RunNeed:
    """Raise if the built bundle cannot run on the target.

    Raises:
        BackendError: how much it takes, how much there is, and which dtype or ranges would fit.
    """
    need = run_need(manifest, shapes, scratch)
    if target.memory is None:
        return need
    there = target.memory - (SYSTEM_RESERVE if target.kind == "jetson" else 0)
    if need.total > there:
        reserve = f" beside the {spell(SYSTEM_RESERVE)} of its system" if target.kind == "jetson" else ""
        raise BackendError(
            f"running takes {spell(need.total)} ({spell(need.weights)} weights, {spell(need.cache)} cache of "
            f"{shapes.batch.usual} x {shapes.context} rows, {spell(need.scratch)} scratch); {target.name} has "
            f"{spell(there)}{reserve}: {what_fits(manifest, shapes, scratch, there)}"
        )
    return need


def what_fits(manifest: Manifest, shapes: Shapes, scratch: int, there: int) -> str:
    """Which element type or which ranges would fit into ``there`` bytes, as advice that can be followed."""
    need = run_need(manifest, shapes, scratch)
    if manifest.dtype == "fp32" and need.total // 2 <= there:
        return f"fp16 takes {spell(need.total // 2)}: export again with --dtype fp16"
    single = replace(shapes, batch=Range(1, 1, 1))
    for context in (shapes.context, 2048, 1024, 512, 256):
        if context > shapes.context:
            continue
        smaller = limit_shapes(single, context, manifest.most_tokens)
        share = scratch * context // (shapes.context * shapes.batch.usual)
        need = run_need(manifest, smaller, share)
        if need.total <= there:
            ranges = (f"--{name} {_spelled(getattr(smaller, name))}" for name in ("batch", "text", "kept"))
            return (
                f"{spell(need.total)} would do with --context {context} {' '.join(ranges)}: fewer tokens are kept "
                "(--keep) and cached"
            )
    return "no dtype, context or budget of this model fits; take a smaller model or a larger device"


def _spelled(span: Range) -> str:
    return f"{span.least},{span.usual},{span.most}"


def _smaller(graph: Graph) -> str:
    half = "or export in fp16, " if any(tensor.dtype == "fp32" for tensor in graph.inputs) else "or "
    if graph.role == "segment":
        return f"{half}cut the decoder into more segments (cuts in the recipe); a smaller --keep does not help a build"
    return f"{half}build on a larger machine with the same GPU"
