"""How much memory building and running take, estimated before either starts, and what would fit instead.

Counts bytes from the manifest and from the shapes of a graph; it asks no device, and compares with what it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeprune.bundle.build import Bounds
from edgeprune.bundle.manifest import Graph, Manifest
from edgeprune.errors import BackendError
from edgeprune.lint.shapes import points
from edgeprune.recipes.target import Range, Shapes, Target

if TYPE_CHECKING:
    import onnx

_BYTES = {"fp32": 4, "fp16": 2}
BUILDER_COPIES = 3.5
"""Peak of a build in multiples of the graph's weights, measured with TensorRT-RTX 1.7 (the test holds it to that)."""
BUILDER_BASE = 400 << 20
"""Bytes that a builder takes whatever it builds: its libraries and Python."""
SYSTEM_RESERVE = 2 << 30
"""Bytes of a Jetson's memory that its system keeps (NVIDIA's own rule for TensorRT Edge-LLM: the model plus 2 GB)."""


@dataclass(frozen=True)
class RunNeed:
    """Bytes that running a bundle takes on a device.

    Attributes:
        weights: of all graphs; the embedding table stays a mapped file.
        cache: keys and values of one batch at its longest, twice: a step reads one copy and writes the other.
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


def build_need(graph: Graph) -> int:
    """Bytes of host memory that building one graph takes at its peak; graphs are built one after another."""
    return int(BUILDER_COPIES * graph_weights(graph)) + BUILDER_BASE


def run_need(manifest: Manifest, shapes: Shapes, scratch: int) -> RunNeed:
    """Bytes that running takes with the longest prompts that the ranges allow.

    Args:
        manifest: of the bundle.
        shapes: the ranges of its engines.
        scratch: largest of all graphs, from ``scratch_bytes``.
    """
    d = manifest.decoder
    row = 2 * d.layers * d.kv_heads * d.head_dim * _BYTES[manifest.dtype]
    rows = shapes.batch.most * shapes.context
    return RunNeed(sum(map(graph_weights, manifest.graphs)), 2 * rows * row, scratch)


def scratch_bytes(model: onnx.ModelProto, profile: Sequence[Bounds]) -> int:
    """Peak of a graph's values that are alive at once at its longest prompt, weights excluded.

    Fusing layers only makes it less. A prompt finds an empty cache, so cached rows are not counted beside it.
    """
    point = points(model, tuple(map(_without_past, profile)))[2]
    nodes = model.graph.node
    last = {name: place for place, node in enumerate(nodes) for name in node.input}
    kept = {tensor.name for tensor in model.graph.initializer} | {value.name for value in model.graph.output}
    alive = sum(point.nbytes(value.name) or 0 for value in model.graph.input)
    peak = alive
    for place, node in enumerate(nodes):
        alive += sum(point.nbytes(name) or 0 for name in node.output if name)
        peak = max(peak, alive)
        done = {name for name in node.input if name and last[name] == place and name not in kept}
        alive -= sum(point.nbytes(name) or 0 for name in done)
    return peak


def _without_past(bounds: Bounds) -> Bounds:
    if not bounds.name.startswith("past_"):
        return bounds
    return replace(bounds, usual=bounds.least, most=bounds.least)


def check_build(graph: Graph, available: int, device_free: int | None) -> None:
    """Raise if building one graph takes more than there is.

    Args:
        graph: the largest one.
        available: bytes free on the machine.
        device_free: bytes free on the GPU that tactics are tuned on; None where it shares the machine's.

    Raises:
        BackendError: how much is missing, and what would help.
    """
    need = build_need(graph)
    if need > available:
        raise BackendError(
            f"building graph {graph.name} takes about {_gb(need)} at its peak, this machine has {_gb(available)} free; "
            f"close other programs, add swap, or {_smaller_graphs(graph)}"
        )
    if device_free is not None and graph_weights(graph) > device_free:
        raise BackendError(
            f"building graph {graph.name} takes its {_gb(graph_weights(graph))} of weights on the GPU, which has "
            f"{_gb(device_free)} free; close what else uses it (nvidia-smi), or {_smaller_graphs(graph)}"
        )


def check_run(manifest: Manifest, target: Target, shapes: Shapes, scratch: int) -> RunNeed:
    """Raise if the built bundle cannot run on the target.

    Raises:
        BackendError: how much it takes, how much there is, and which dtype or budget would fit.
    """
    need = run_need(manifest, shapes, scratch)
    if target.memory is None:
        return need
    there = target.memory - (SYSTEM_RESERVE if target.kind == "jetson" else 0)
    if need.total > there:
        reserve = f" beside the {_gb(SYSTEM_RESERVE)} of its system" if target.kind == "jetson" else ""
        raise BackendError(
            f"running takes {_gb(need.total)} ({_gb(need.weights)} weights, {_gb(need.cache)} cache of "
            f"{shapes.context} rows, {_gb(need.scratch)} scratch); {target.name} has {_gb(there)}{reserve}: "
            f"{what_fits(manifest, shapes, scratch, there)}"
        )
    return need


def what_fits(manifest: Manifest, shapes: Shapes, scratch: int, there: int) -> str:
    """Which element type or which ranges would fit into ``there`` bytes, as advice."""
    if manifest.dtype == "fp32":
        half = run_need(manifest, shapes, scratch)
        if half.total // 2 <= there:
            return f"fp16 takes {_gb(half.total // 2)}: export again with --dtype fp16"
    for rows in (2048, 1024, 512):
        if rows >= shapes.context or rows <= shapes.text.least + 1:
            continue
        most = min(shapes.kept.most, rows - shapes.text.least)
        kept = Range(min(shapes.kept.least, most), min(shapes.kept.usual, most), most)
        text = Range(shapes.text.least, min(shapes.text.usual, rows - 1), min(shapes.text.most, rows - 1))
        need = run_need(manifest, replace(shapes, context=rows, kept=kept, text=text), scratch * rows // shapes.context)
        if need.total <= there:
            return (
                f"a context of {rows} rows takes {_gb(need.total)}: set context = {rows} in a target file of your own"
            )
    return "no dtype or budget of this model fits; take a smaller model or a larger device"


def _smaller_graphs(graph: Graph) -> str:
    if graph.role == "segment":
        return "cut the decoder into more segments (more cuts in the recipe)"
    return "build on a larger machine of the same GPU"


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
