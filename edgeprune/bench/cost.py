"""How many operations and bytes a request takes, counted from a manifest for the graphs as they are exported.

Convention: a multiply-accumulate is two FLOPs. Matrix products and the patch convolution count; norms, softmax,
activations, rotations and comparisons do not (below 1% of the sizes this is for).

1. ``linear_flops`` are products with a weight, ``attention_flops`` products of two computed matrices: attention,
   scores, merges.
2. Attention is the full rectangle of S rows by T = P + S keys, as the graphs compute it before they mask, not the
   causal half.
3. Of the decoder's last layer only keys and values run on all rows; query, attention, output and feed-forward run
   on the last row alone, and so does the head.
4. ``bytes`` is what a graph moves at least: its data file read once, every input read once, every output written
   once. Intermediate results are taken to stay in the caches.
5. A manifest has no sizes of the encoder's layers. Depth and head width are read from the names and shapes of its
   probes, the feed-forward's width from the size of its data file.
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
    visual = counts["vision"].keep if "vision" in counts else manifest.vision.tokens
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
    graphs = {cut.at: manifest.graph(cut.graph) for cut in method.cuts} if method else {}
    costs = [_vision(manifest)]
    visual = manifest.vision.tokens
    if "vision" in counts:
        costs.append(_prune_vision(manifest, graphs["vision"], counts["vision"], method))
        visual = counts["vision"].keep
    costs += [_project(manifest, visual), _assemble(manifest, before, visual, after)]
    for segment in manifest.by_role("segment"):
        first = _layers(segment)[0]
        if first in counts:
            rows = (before, visual, after)
            costs.append(_prune_cut(manifest, graphs[first], counts[first], rows, method))
            visual = counts[first].keep
        costs.append(_segment(manifest, segment, before + visual + after, 0, "prefill"))
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


def _prune_vision(manifest: Manifest, graph: Graph, stage: Stage, method: MethodEntry | None) -> GraphCost:
    """VisionDrop's encoder stage: only the merge multiplies matrices."""
    _require_known(method)
    rows = manifest.vision.tokens + 1
    attention = _merge(rows, stage, tower(manifest).head_dim, manifest.vision.width)
    return GraphCost(graph.name, "prune", Cost(0, 2 * attention, _bytes(graph, K=stage.keep)))


def _prune_cut(
    manifest: Manifest, graph: Graph, stage: Stage, rows: tuple[int, int, int], method: MethodEntry | None
) -> GraphCost:
    """VisionDrop's cut: keys of all rows up to the last visual one, queries of the visual rows, then the merge."""
    _require_known(method)
    d = manifest.decoder
    before, visual, after = rows
    q_width, kv_width, keys = d.heads * d.head_dim, d.kv_heads * d.head_dim, before + visual
    linear = keys * d.hidden * kv_width + visual * d.hidden * q_width
    attention = visual * keys * q_width + _merge(visual, stage, d.head_dim, d.hidden)
    moved = _bytes(graph, S=before + visual + after, R=before + stage.keep + after, K=stage.keep)
    return GraphCost(graph.name, "prune", Cost(2 * linear, 2 * attention, moved))


def _merge(rows: int, stage: Stage, key_width: int, width: int) -> int:
    """Multiply-accumulates of cosines (others by references) and of the means."""
    others = rows - (stage.keep - stage.merge)
    return others * stage.merge * (key_width + width)


def _require_known(method: MethodEntry | None) -> None:
    if method is None or method.name != "visiondrop":
        name = method.name if method else None
        raise UsageError(f"the cost of method {name!r} is not counted yet; counted: visiondrop")
