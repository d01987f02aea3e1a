"""Bytes by formula, against bundles: their caches, their files, and what is alive between their layers."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from edgeprune.budget.schedule import make_schedule, site_of
from edgeprune.bundle.manifest import Manifest
from edgeprune.bundle.store import Bundle, open_bundle
from edgeprune.engines.memory import host_need, scratch_bytes
from edgeprune.engines.profile import make_profile
from edgeprune.estimate.find import find_model
from edgeprune.estimate.grid import make_grid
from edgeprune.estimate.memory import BUILDER_BASE, activation_bytes, build_bytes, memory_of
from edgeprune.estimate.precision import precision
from edgeprune.estimate.request import Request, prompt_costs
from edgeprune.recipes.target import Range, Shapes
from edgeprune.runtime.room import cache_bytes

TEXT = 30


@pytest.fixture(scope="module")
def bundle(bundle_gqa: Path) -> Bundle:
    return open_bundle(bundle_gqa)


def request_of(manifest: Manifest, keep: int | None) -> Request:
    if keep is None:
        return Request.of(manifest, 5, TEXT - 5, None, None)
    entry = manifest.methods[0]
    return Request.of(manifest, 5, TEXT - 5, entry.name, make_schedule(entry.name, keep, site_of(manifest, entry)))


@pytest.mark.parametrize("keep", [None, 20])
def test_caches_are_those_of_the_runtime(bundle: Bundle, keep: int | None) -> None:
    request = request_of(bundle.manifest, keep)
    found = memory_of(request, prompt_costs(request), tuple(rows + 7 for rows in request.rows))
    assert len(found.cache) == len(bundle.manifest.by_role("segment"))
    assert 2 * sum(found.cache) == cache_bytes(bundle.manifest, request.schedule, TEXT + 7)
    assert found.run == found.weights + found.activations + 2 * sum(found.cache)


def test_a_method_with_an_encoder_of_its_own_has_both_in_memory() -> None:
    model = find_model("llava-1.5-7b")
    own, plain = (
        make_grid(model, precision("fp16"), TEXT, ["flowcut", "random"], ["64"]).requests[index] for index in (0, 1)
    )
    costs = {cost.graph: cost.cost.weights for cost in prompt_costs(own)}
    assert "vision" not in costs
    found, least = (memory_of(request, prompt_costs(request), request.rows) for request in (own, plain))
    assert found.weights - least.weights == pytest.approx(costs["vision_flowcut"], rel=0.01)


def test_weights_and_embeddings_are_those_on_disk(bundle: Bundle) -> None:
    request = request_of(bundle.manifest, None)
    found = memory_of(request, prompt_costs(request), request.rows)
    names = {cost.graph for cost in prompt_costs(request)}
    graphs = [graph for graph in bundle.manifest.graphs if graph.name in names]
    assert len(graphs) == len(names)
    stored = sum(graph.data.bytes for graph in graphs if graph.data)
    assert stored <= found.weights <= stored + sum(graph.file.bytes for graph in graphs)  # small ones lie in the graph
    assert found.embedding == bundle.manifest.embedding.bytes - 128  # the header of an .npy


@pytest.mark.parametrize("keep", [None, 20])
def test_activations_are_what_is_alive_in_the_graphs(bundle: Bundle, keep: int | None) -> None:
    manifest, request = bundle.manifest, request_of(bundle.manifest, keep)
    kept = max(request.rows) - TEXT
    shapes = Shapes(Range(1, 1, 1), Range(2, TEXT, TEXT), Range(1, kept, kept), TEXT + kept + 1)
    alive = []
    for graph in manifest.graphs:
        if graph.role in ("vision", "segment"):
            model = onnx.load(str(bundle.path(graph.file)), load_external_data=False)
            alive.append(scratch_bytes(model, make_profile(graph, manifest, shapes), 1))
    assert max(alive) / 1.5 <= activation_bytes(request) <= max(alive) * 1.5


def test_a_build_takes_a_multiple_of_the_largest_graph(bundle: Bundle) -> None:
    assert build_bytes(1 << 30) == int(3.5 * (1 << 30)) + BUILDER_BASE
    graph = bundle.manifest.graphs[0]
    assert graph.data is not None
    assert host_need(graph) == build_bytes(graph.data.bytes + graph.file.bytes)
    request = request_of(bundle.manifest, None)
    costs = prompt_costs(request)
    assert memory_of(request, costs, request.rows).build == build_bytes(max(cost.cost.weights for cost in costs))
