"""Counts against hand computation and against the matrix products that the exported graphs really do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.bench.cost import (
    Cost,
    GraphCost,
    decode_costs,
    decoder_ratio,
    prompt_costs,
    segment_rows,
    total,
    tower,
)
from edgeprune.budget.schedule import make_schedule, site_of
from edgeprune.bundle.manifest import Graph, Manifest, Tensor
from edgeprune.bundle.sizes import Vision
from edgeprune.bundle.store import open_bundle
from edgeprune.runtime.backend import Array, Session
from edgeprune.runtime.chain import Clock, Text
from edgeprune.runtime.vlm import VLM

BEFORE, AFTER, KEEP = 7, 53, 16


class CountingBackend:
    """ONNX Runtime with the multiply-accumulates of every graph's last run, from the shapes that met in it."""

    name = "counting"

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def session(self, graph: Graph, path: Path) -> Session:
        return CountingSession(self, graph, path)

    def array(self, value: NDArray[Any]) -> Array:
        return value

    def numpy(self, array: Array) -> NDArray[Any]:
        result: NDArray[Any] = array
        return result

    free_bytes = None

    def wait(self) -> None:
        pass

    def close(self) -> None:
        pass


class CountingSession:
    """A graph whose matrix products' operands are outputs too."""

    def __init__(self, owner: CountingBackend, graph: Graph, path: Path) -> None:
        import onnx
        import onnxruntime

        model = onnx.load(str(path))
        self.owner, self.graph = owner, graph
        self.fixed = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        self.inputs = [tensor.name for tensor in model.graph.input]
        self.products = [(n.op_type, *n.input[:2], n.output[0]) for n in model.graph.node if "Mat" in n.op_type]
        self.products += [(n.op_type, *n.input[:2], n.output[0]) for n in model.graph.node if n.op_type == "Conv"]
        have = {*self.fixed, *self.inputs, *(tensor.name for tensor in model.graph.output)}
        self.extra = sorted({name for product in self.products for name in product[1:]} - have)
        for name in self.extra:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        names = [tensor.name for tensor in self.graph.outputs]
        results = dict(zip([*names, *self.extra], self.session.run([*names, *self.extra], dict(feeds)), strict=True))
        shapes = {**self.fixed, **{name: value.shape for name, value in {**feeds, **results}.items()}}
        count = 0
        for kind, left, right, out in self.products:
            a, b = shapes[left], shapes[right]
            count += math.prod(shapes[out]) * math.prod(b[1:]) if kind == "Conv" else math.prod(a) * b[-1]
        self.owner.counts[self.graph.name] = count
        return {name: results[name] for name in names}


@pytest.fixture(scope="module")
def manifest(bundle_gqa: Path) -> Manifest:
    return open_bundle(bundle_gqa).manifest


@pytest.mark.parametrize("pruned", [False, True])
def test_counts_are_those_of_the_exported_graphs(bundle_gqa: Path, pruned: bool) -> None:
    backend = CountingBackend()
    vlm = VLM(open_bundle(bundle_gqa), backend)
    method, schedule = vlm.plan(KEEP if pruned else "all")
    if method is not None:
        vlm.chain.open_method(method)
    pixels = np.zeros((1, 3, *vlm.manifest.image.size), dtype=np.float32)
    text = Text((5,) * BEFORE, (6,) * AFTER)
    prefill = vlm.chain.prefill(pixels, text, method, schedule, Clock())
    lengths = segment_rows(vlm.manifest, BEFORE + AFTER, method, schedule)
    assert lengths == tuple(segment.length for segment in prefill.cache.segments)

    costs = {c.graph: c for c in prompt_costs(vlm.manifest, BEFORE, AFTER, method, schedule)}
    if method is not None:  # of its own graphs, what is read
        assert set(method.graphs) == {graph.name for graph in vlm.manifest.by_role("prune")} <= set(backend.counts)
        own = [vlm.manifest.graph(name) for name in method.graphs]
        weights = sum(graph.data.bytes for graph in own if graph.data)
        assert weights > 0
        assert costs.pop("the graphs of visiondrop") == GraphCost(
            "the graphs of visiondrop", "prune", Cost(bytes=weights)
        )
        for name in method.graphs:
            del backend.counts[name]
    assert {name: c.cost.flops for name, c in costs.items()} == {n: 2 * count for n, count in backend.counts.items()}
    assert len(costs) == 7

    backend.counts.clear()
    vlm.chain.decode(np.array([5]), prefill.cache, Clock())
    counted = {c.graph: c.cost.flops for c in decode_costs(vlm.manifest, lengths)}
    assert counted == {name: 2 * count for name, count in backend.counts.items()}


def test_a_segment_by_hand(manifest: Manifest) -> None:
    # tiny-gqa: D 32, 4 heads and 2 kv heads of 8, feed-forward 64, vocabulary 96; 124 rows; segments of 2 layers.
    costs = {c.graph: c.cost for c in prompt_costs(manifest, BEFORE, AFTER, None, None)}
    full = 124 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64)
    assert costs["segment_0_2"].linear_flops == 2 * 2 * full
    assert costs["segment_0_2"].attention_flops == 2 * 2 * 2 * 124 * 124 * 32
    last = 124 * 2 * 32 * 16 + 2 * 32 * 32 + 3 * 32 * 64  # keys and values of all rows, the rest of one
    assert costs["segment_6_8"].linear_flops == 2 * (full + last + 32 * 96)
    assert costs["segment_6_8"].attention_flops == 2 * 2 * (124 * 124 + 124) * 32
    assert costs["project"] == Cost(2 * 64 * (32 * 32 + 32 * 32), 0, 8192 + 2 * 64 * 32 * 4)


def test_bytes_of_a_decode_step_are_weights_and_cache(manifest: Manifest) -> None:
    first = decode_costs(manifest, (100, 90, 80, 70))[0]
    assert first.graph == "segment_0_2"
    data = manifest.graph("segment_0_2").data
    assert data is not None
    cache = 2 * 2 * 2 * 8 * 4  # layers, key and value, kv heads, width, bytes: per row
    assert first.cost.bytes == data.bytes + 2 * 32 * 4 + 8 + cache * (100 + 101)


def test_the_tower_is_found_from_probes_and_size(manifest: Manifest) -> None:
    found = tower(manifest)
    assert (found.layers, found.head_dim, found.intermediate) == (1, 16, 64)


@pytest.mark.parametrize(
    ("width", "intermediate", "layers", "side", "patch"),
    [(1024, 4096, 23, 336, 14), (768, 3072, 11, 224, 16), (1152, 4304, 26, 384, 14)],
)
def test_the_tower_is_found_at_real_sizes(
    manifest: Manifest, width: int, intermediate: int, layers: int, side: int, patch: int
) -> None:
    rows = (side // patch) ** 2 + 1
    layer = 4 * width * width + 2 * width * intermediate + 9 * width + intermediate  # norms and biases in
    parameters = (3 * patch * patch + rows + 3) * width + layers * layer
    graph = manifest.graph("vision")
    assert graph.data is not None
    outputs = (Tensor(f"key_{layers - 1}", "fp32", ("B", rows, 64)),)
    graph = replace(graph, data=replace(graph.data, bytes=4 * parameters), outputs=outputs)
    large = replace(
        manifest,
        graphs=(graph, *manifest.graphs[1:]),
        vision=Vision((side // patch, side // patch), width, layers, width // 64, intermediate, patch),
        image=replace(manifest.image, crop=(side, side)),
    )
    found = tower(large)
    assert (found.layers, found.head_dim, found.intermediate) == (layers, 64, intermediate)


def test_what_flops_allow(manifest: Manifest) -> None:
    method = manifest.method("visiondrop")
    assert method is not None
    schedule = make_schedule("visiondrop", KEEP, site_of(manifest, method))
    assert [stage.keep for stage in schedule.stages] == [24, 18, 13, 9]
    per_row, kv, tail = 32 * 32 * 2 + 3 * 32 * 64, 2 * 32 * 16, 32 * 96

    def decoder(*rows: int) -> int:
        layers = [s for s in rows for _ in range(2)]
        full = sum(s * (per_row + kv) + 2 * s * s * 32 for s in layers[:-1])
        return full + layers[-1] * kv + per_row + 2 * layers[-1] * 32 + tail

    expected = decoder(124, 124, 124, 124) / decoder(84, 78, 73, 69)
    assert decoder_ratio(manifest, BEFORE, AFTER, method, schedule) == pytest.approx(expected)
    assert 1.5 < expected < 2.2


def test_totals_split_by_stage(manifest: Manifest) -> None:
    costs = prompt_costs(manifest, BEFORE, AFTER, None, None)
    stages = {cost.stage for cost in costs}
    assert stages == {"vision", "project", "prefill"}
    assert total(costs) == sum((total(costs, stage) for stage in stages), Cost())
