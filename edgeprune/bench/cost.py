"""How many operations and bytes a request takes, counted from a manifest for the graphs as they are exported.

Convention: a multiply-accumulate is two FLOPs. Matrix products and the patch convolution count; norms, softmax,
activations, rotations and comparisons do not (below 1% of the sizes this is for).

1. ``linear_flops`` are products with a weight, ``attention_flops`` products of two computed matrices.
2. Attention is the full rectangle of S rows by T = P + S keys, as the graphs compute it before they mask, not the
   causal half.
3. Of the decoder's last layer only keys and values run on all rows; query, attention, output and feed-forward run
   on the last row alone, and so does the head.
4. ``bytes`` is what a graph moves at least: its data file read once, every input read once, every output written
   once (of a method's own graphs, the weights). Intermediate results are taken to stay in the caches.
5. A manifest has no sizes of the encoder's layers. Depth and head width are read from the names and shapes of its
   probes, the feed-forward's width from the size of its data file.
6. A method's own graphs between the stations count with their bytes alone. Their operations are not counted: they are
   a few percent of the decoder's, and what they take is measured and reported apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgeprune.budget.schedule import Schedule, Stage
from edgeprune.bundle.manifest import Graph, Manifest, MethodEntry
from edgeprune.errors import UsageError

_SIZE = {"fp32": 4, "fp16": 2, "int64": 8}


@dataclass(frozen=True)
class Cost:
    """Operations and bytes; see the conventions above."""

    linear_flops: int = 0
    attention_flops: int = 0
    bytes: int = 0

    @property
    def flops(self) -> int:
        """Linear and attention together."""
        return self.linear_flops + self.attention_flops

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.linear_flops + other.linear_flops,
            self.attention_flops + other.attention_flops,
            self.bytes + other.bytes,
        )


@dataclass(frozen=True)
class GraphCost:
    """One run of one graph; ``stage`` as the chain's clock books it."""

    graph: str
    stage: str
    cost: Cost


@dataclass(frozen=True)
class Tower:
    """The encoder's sizes, as far as they were found; ``layers`` is 0 where no probe tells them."""

    layers: int
    head_dim: int
    intermediate: int
    linear_parameters: int


def total(costs: Iterable[GraphCost], stage: str | None = None) -> Cost:
    """The sum over graphs, of one stage or of all."""
    return sum((c.cost for c in costs if stage is None or c.stage == stage), Cost())


def segment_rows(
    manifest: Manifest, text: int, method: MethodEntry | None, schedule: Schedule | None
) -> tuple[int, ...]:
    """Rows that every segment sees of a prompt with ``text`` text tokens: its cache length after prefill."""
    counts = _counts(method, schedule)
    visual = schedule.first if schedule else manifest.vision.tokens
    rows = []
    for segment in manifest.by_role("segment"):
        first = _layers(segment)[0]
        visual = counts[first].keep if first in counts else visual
        rows.append(text + visual)
    return tuple(rows)


def prompt_costs(
    manifest: Manifest, before: int, after: int, method: MethodEntry | None, schedule: Schedule | None
) -> tuple[GraphCost, ...]:
    """Every graph of a prompt, in order of execution, for one picture.

    Args:
        manifest: the bundle's.
        before, after: text tokens around the picture.
        method, schedule: what prunes and how much; both None keep all.
    """
    counts = _counts(method, schedule)
    costs = [_vision(manifest)]
    visual = manifest.vision.tokens
    for place in ("encoder", "vision"):
        visual = counts[place].keep if place in counts else visual
    costs.append(_project(manifest, visual))
    visual = counts["projected"].keep if "projected" in counts else visual
    costs.append(_assemble(manifest, before, visual, after))
    for segment in manifest.by_role("segment"):
        first = _layers(segment)[0]
        visual = counts[first].keep if first in counts else visual
        costs.append(_segment(manifest, segment, before + visual + after, 0, "prefill"))
    if method is not None:
        weights = weight_bytes(manifest.graph(name) for name in method.graphs if manifest.graph(name).role == "prune")
        costs.append(GraphCost(f"the graphs of {method.name}", "prune", Cost(bytes=weights)))
    return tuple(costs)


def decode_costs(manifest: Manifest, lengths: Sequence[int]) -> tuple[GraphCost, ...]:
    """Every graph of one decode step, for one row; ``lengths`` are the rows already cached per segment."""
    segments = manifest.by_role("segment")
    return tuple(
        _segment(manifest, segment, 1, past, "decode") for segment, past in zip(segments, lengths, strict=True)
    )


def decoder_ratio(manifest: Manifest, before: int, after: int, method: MethodEntry, schedule: Schedule) -> float:
    """What FLOPs allow: the decoder's prefill without pruning over the same with it, prune graphs left out."""
    every = total(prompt_costs(manifest, before, after, None, None), "prefill").flops
    kept = total(prompt_costs(manifest, before, after, method, schedule), "prefill").flops
    return every / kept


def tower(manifest: Manifest) -> Tower:
    """The encoder's sizes.

    The width of the feed-forward is what the data file leaves after patches, positions and the four projections
    of every layer, rounded down to a multiple of 16: biases and norms, which small models keep in the graph file
    and large ones in the data file, are worth less than 16 columns.
    """
    graph = manifest.by_role("vision")[0]
    width, rows = manifest.vision.width, manifest.vision.tokens + 1
    patches = _patch_parameters(manifest)
    data = graph.data.bytes // _SIZE[manifest.dtype] if graph.data else 0
    found = [int(match[1]) for t in graph.outputs if (match := re.search(r"_(\d+)$", t.name))]
    if not found:
        return Tower(0, width, 0, max(0, data - patches - rows * width))
    layers = max(found) + 1
    keys = [t.shape[-1] for t in graph.outputs if t.name.startswith("key_")]
    head_dim = keys[0] if keys and isinstance(keys[0], int) else width
    left = data - patches - rows * width - layers * 4 * width * width
    intermediate = left // (2 * width * layers) // 16 * 16
    return Tower(layers, head_dim, intermediate, layers * (4 * width * width + 2 * width * intermediate))


def weight_bytes(graphs: Iterable[Graph]) -> int:
    """Bytes of the graphs' data files."""
    return sum(graph.data.bytes for graph in graphs if graph.data)


def _counts(method: MethodEntry | None, schedule: Schedule | None) -> dict[str | int, Stage]:
    if (method is None) != (schedule is None):
        raise UsageError("a method and its schedule come together, or neither")
    return {stage.cut: stage for stage in schedule.stages} if schedule else {}


def _layers(segment: Graph) -> tuple[int, int]:
    assert segment.layers is not None  # the manifest checked it
    return segment.layers


def _bytes(graph: Graph, **axes: int) -> int:
    """Convention 4, with the graph's named axes bound; B is 1."""
    moved = weight_bytes([graph])
    for tensor in (*graph.inputs, *graph.outputs):
        elements = 1
        for axis in tensor.shape:
            elements *= axis if isinstance(axis, int) else {"B": 1, **axes}[axis]
        moved += elements * _SIZE[tensor.dtype]
    return moved


def _patch_parameters(manifest: Manifest) -> int:
    (height, width), (rows, columns) = manifest.image.size, manifest.vision.grid
    return 3 * (height // rows) * (width // columns) * manifest.vision.width


def _vision(manifest: Manifest) -> GraphCost:
    graph = manifest.by_role("vision")[0]
    sizes, width, patches = tower(manifest), manifest.vision.width, manifest.vision.tokens
    rows = patches + 1  # the class row
    linear = patches * _patch_parameters(manifest) + rows * sizes.linear_parameters
    attention = sizes.layers * 2 * rows * rows * width
    if any(tensor.name.startswith("cls_attention_") for tensor in graph.outputs):
        attention += rows * width  # the scoring head: one query row per head
    return GraphCost(graph.name, "vision", Cost(2 * linear, 2 * attention, _bytes(graph)))


def _project(manifest: Manifest, rows: int) -> GraphCost:
    graph = manifest.by_role("project")[0]
    hidden = manifest.decoder.hidden
    linear = rows * (manifest.vision.width * hidden + hidden * hidden)
    return GraphCost(graph.name, "project", Cost(2 * linear, 0, _bytes(graph, K=rows)))


def _assemble(manifest: Manifest, before: int, visual: int, after: int) -> GraphCost:
    graph = manifest.by_role("assemble")[0]
    moved = _bytes(graph, a=before, K=visual, t=after, S=before + visual + after)
    return GraphCost(graph.name, "prefill", Cost(0, 0, moved))


def _segment(manifest: Manifest, graph: Graph, rows: int, past: int, stage: str) -> GraphCost:
    """Convention 3 for the layer that ends the decoder, all rows everywhere else."""
    d = manifest.decoder
    first, last = _layers(graph)
    q_width, kv_width, keys = d.heads * d.head_dim, d.kv_heads * d.head_dim, past + rows
    per_row = 2 * d.hidden * q_width + 3 * d.hidden * d.intermediate  # query, output, feed-forward
    linear = attention = 0
    for layer in range(first, last):
        live = 1 if layer == d.layers - 1 else rows
        linear += rows * 2 * d.hidden * kv_width + live * per_row
        attention += 2 * live * keys * q_width
    if last == d.layers:
        linear += d.hidden * d.vocab
    moved = _bytes(graph, S=rows, P=past, T=keys)
    return GraphCost(graph.name, stage, Cost(2 * linear, 2 * attention, moved))
