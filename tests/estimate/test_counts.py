"""Counts by formula against the exported graphs themselves: their products, their constants, what goes in and out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeprune import catalog
from edgeprune.budget.schedule import Schedule, make_schedule, reach, site_of
from edgeprune.bundle.manifest import Graph, Manifest, MethodEntry
from edgeprune.bundle.store import open_bundle
from edgeprune.estimate.cost import GraphCost
from edgeprune.estimate.request import Request, prompt_costs, step_costs
from edgeprune.runtime.backend import Array, Session
from edgeprune.runtime.chain import Chain, Clock, Text
from edgeprune.runtime.layout import whole
from edgeprune.runtime.pixels import prepare
from tests.clip import make_cdpruner
from tests.conftest import MakeAll, MakeBundle, MakeCheckpoint, MakeDemo, MakeOnce

BEFORE, AFTER = 7, 53
PRODUCTS = ("MatMul", "Gemm", "Conv", "Einsum", "Attention")
SCALARS = 180  # bytes of scalars and shapes among a graph's constants that the formulas may be off by

# Every method once at toy sizes with grouped heads, and again at 576 patches, where constants are not folded; those
# that cut the decoder with a key per query head too; fused operators where a method's graphs differ; SparseVLM+ with
# more heads than it chooses.
BUNDLES = ("small-gqa", "small-mha", "tiny-gqa fused", "tiny-16-heads", "demo fp16", "demo fp16 fused", "cdpruner")


@dataclass
class Counted:
    """One run of a graph."""

    graph: str
    macs: int
    weights: int
    traffic: int


class CountingBackend:
    """ONNX Runtime that writes down what every run of a graph does, from the shapes that met in it."""

    name = "counting"
    free_bytes = None
    chunk: int | None = None

    def __init__(self) -> None:
        self.runs: list[Counted] = []

    def session(self, graph: Graph, path: Path) -> Session:
        return CountingSession(self, graph, path)

    def array(self, value: NDArray[Any]) -> Array:
        return value

    def numpy(self, array: Array) -> NDArray[Any]:
        result: NDArray[Any] = array
        return result

    def wait(self) -> None:
        pass

    def close(self) -> None:
        pass


class CountingSession:
    """A graph whose products' operands are outputs too."""

    def __init__(self, owner: CountingBackend, graph: Graph, path: Path) -> None:
        import onnx
        import onnxruntime

        model = onnx.load(str(path))
        self.owner, self.graph = owner, graph
        nodes = list(model.graph.node)
        assert not [node for node in nodes if node.op_type == "Constant" or node.domain]  # nothing is out of sight
        assert not [a for node in nodes for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        self.products = [node for node in nodes if node.op_type in PRODUCTS]
        weights = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
        self.weights = sum(weight.nbytes for weight in weights)
        self.fixed = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        have = {*self.fixed, *(value.name for value in (*model.graph.input, *model.graph.output))}
        operands = {name for node in self.products for name in (*node.input, node.output[0]) if name}
        self.extra = sorted(operands - have)
        for name in self.extra:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        names = [tensor.name for tensor in self.graph.outputs]
        results = dict(zip([*names, *self.extra], self.session.run([*names, *self.extra], dict(feeds)), strict=True))
        shapes = {**self.fixed, **{name: value.shape for name, value in {**feeds, **results}.items()}}
        macs = sum(multiply_accumulates(node, shapes) for node in self.products)
        traffic = sum(value.nbytes for value in feeds.values()) + sum(results[name].nbytes for name in names)
        self.owner.runs.append(Counted(self.graph.name, macs, self.weights, traffic))
        return {name: results[name] for name in names}


def multiply_accumulates(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Of one product, by ONNX's definitions of the operators."""
    left, right, out = (shapes[name] for name in (*node.input[:2], node.output[0]))
    if node.op_type == "Conv":
        return math.prod(out) * math.prod(right[1:])
    if node.op_type == "Attention":  # [B, H, S, d] by [B, G, T, d] and again by [B, G, T, d']
        return math.prod(left[:3]) * right[2] * (left[3] + shapes[node.input[2]][3])
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return math.prod(out) * left[0 if transposed else 1]
    if node.op_type == "Einsum":
        terms = node.attribute[0].s.decode().replace(" ", "").split("->")[0].split(",")
        sizes = {
            letter: size
            for term, shape in zip(terms, (left, right), strict=True)
            for letter, size in zip(term, shape, strict=True)
        }
        return math.prod(sizes.values())
    return math.prod(out) * left[-1]


class Counter:
    """A bundle whose chain is counted while it runs."""

    def __init__(self, root: Path) -> None:
        bundle = open_bundle(root, check_hashes=False)
        self.manifest, self.backend = bundle.manifest, CountingBackend()
        self.chain = Chain(bundle, self.backend)
        self.pixels = prepare(_pictures(self.manifest), self.manifest.image)
        placed = whole(self.manifest.layout, self.manifest.vision, self.pixels.pictures)
        self.tokens, self.runs = sum(len(rows.origin) for rows in placed), self.pixels.runs

    def request(self, method: str | None, schedule: Schedule | None) -> Request:
        """The same, by formula."""
        request = Request.of(self.manifest, BEFORE, AFTER, method, schedule, self.tokens, self.runs)
        return replace(request, chunk=self.backend.chunk)

    def schedules(self, method: MethodEntry) -> list[Schedule]:
        """The smallest budget, one in the middle, and the largest."""
        site = site_of(self.manifest, method, self.tokens, self.runs)
        low, high = reach(method.name, site)
        return [make_schedule(method.name, keep, site) for keep in (low, (low + high) // 2, high)]

    def prompt_and_step(
        self, method: MethodEntry | None, schedule: Schedule | None
    ) -> tuple[list[Counted], list[Counted]]:
        if method is not None:
            self.chain.open_method(method)
        self.backend.runs = []
        clip = (0,) * self.manifest.text.length if self.manifest.text else ()
        text = Text(((5,) * BEFORE, (6,) * AFTER), (6,) * AFTER, clip)
        prefill = self.chain.prefill(self.pixels, text, method, schedule, Clock())
        prompt, self.backend.runs = self.backend.runs, []
        self.chain.decode(np.array([5]), prefill.cache, Clock())
        return prompt, self.backend.runs


@pytest.fixture(scope="module", params=BUNDLES)
def counter(
    request: pytest.FixtureRequest,
    make_bundle_all: MakeAll,
    make_bundle_demo: MakeDemo,
    make_bundle: MakeBundle,
    make_once: MakeOnce,
    make_checkpoint: MakeCheckpoint,
) -> Counter:
    name: str = request.param
    if name.startswith("small"):
        return Counter(make_bundle_all(name))
    if name.startswith("demo"):
        return Counter(make_bundle_demo("fp16", "fused" if name.endswith("fused") else "base"))
    if name == "cdpruner":
        return Counter(make_cdpruner(make_once, make_checkpoint))
    if name == "tiny-16-heads":
        return Counter(make_plus(make_once, make_checkpoint))
    return Counter(make_bundle("tiny-gqa", "fp32", "fused"))


def make_plus(make_once: MakeOnce, make_checkpoint: MakeCheckpoint) -> Path:
    from edgeprune.checkpoint.source import resolve
    from edgeprune.export.bundle import Request as Export
    from edgeprune.export.bundle import export_bundle

    wanted = Export(resolve(str(make_checkpoint("tiny-16-heads"))), ("sparsevlm-plus",))
    return make_once("bundles/tiny-16-heads", lambda folder: export_bundle(wanted, folder))


def compare(counted: list[Counted], costs: tuple[GraphCost, ...]) -> None:
    """Products and what goes in and out to the last one; all bytes within 1%, and constants too but for scalars."""
    assert [run.graph for run in counted] == [cost.graph for cost in costs]
    for run, own in zip(counted, costs, strict=True):
        assert (own.graph, own.cost.flops) == (run.graph, 2 * run.macs)
        assert (own.graph, own.cost.traffic) == (run.graph, run.traffic)
        assert own.cost.bytes == pytest.approx(run.weights + run.traffic, rel=0.01), own.graph
        assert own.cost.weights == pytest.approx(run.weights, rel=0.01, abs=SCALARS), own.graph


def _pictures(manifest: Manifest) -> list[Any]:
    """One picture, half again as wide as high so that tiles have padding, or one video."""
    if manifest.image.kind == "frames":
        return [[Image.new("RGB", (48, 32))] * manifest.image.most_runs]
    return [Image.new("RGB", (300, 200))]


def test_every_graph_of_every_method_is_counted(counter: Counter) -> None:
    manifest = counter.manifest
    prompt, step = counter.prompt_and_step(None, None)
    request = counter.request(None, None)
    compare(prompt, prompt_costs(request))
    compare(step, step_costs(request))
    for method in manifest.methods:
        check_method(counter, method)


def check_method(counter: Counter, method: MethodEntry) -> None:
    for schedule in counter.schedules(method):
        request = counter.request(method.name, schedule)
        prompt, step = counter.prompt_and_step(method, schedule)
        compare(prompt, prompt_costs(request))
        compare(step, step_costs(request))
        assert {*method.graphs} <= {run.graph for run in prompt}


def test_a_prompt_in_pieces_is_counted(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a segment the pieces together; every other graph runs once."""
    monkeypatch.setattr(counter.backend, "chunk", 30)
    for method in (None, counter.manifest.methods[0]):
        schedule = counter.schedules(method)[1] if method else None
        prompt, step = counter.prompt_and_step(method, schedule)
        request = counter.request(method.name if method else None, schedule)
        joined = list(join(prompt))
        assert len(joined) < len(prompt)
        compare(joined, prompt_costs(request))
        compare(step, step_costs(request))


def join(runs: list[Counted]) -> Iterator[Counted]:
    """Runs of one graph behind each other as one."""
    for graph, own in itertools.groupby(runs, lambda run: run.graph):
        each = list(own)
        macs, weights, traffic = (sum(getattr(run, name) for run in each) for name in ("macs", "weights", "traffic"))
        yield Counted(graph, macs, weights, traffic)


def test_no_method_is_left_out(make_bundle_all: MakeAll, make_once: MakeOnce, make_checkpoint: MakeCheckpoint) -> None:
    roots = make_bundle_all("small-gqa"), make_cdpruner(make_once, make_checkpoint)
    manifests = [open_bundle(root, check_hashes=False).manifest for root in roots]
    assert {method.name for manifest in manifests for method in manifest.methods} == {*catalog.names()}
