"""Counts by formula beside the graphs, where a method has a form of its own for tiles or for native sizes."""

from __future__ import annotations

from edgeprune.budget.schedule import make_schedule
from edgeprune.catalog import card
from edgeprune.estimate.precision import precision
from edgeprune.estimate.request import Request, prompt_costs
from edgeprune.estimate.shape import Shape
from tests.estimate.test_counts import AFTER, BEFORE, Counter, check_method, compare
from tests.families.conformance.case import MakeCase


def test_flowcut_on_tiles(make_case: MakeCase) -> None:
    counter = Counter(make_case("llava_next").vlm.bundle.root)
    method = counter.manifest.method("flowcut")
    assert method is not None and method.places == ("encoder", 1)
    check_method(counter, method)


def test_by_its_sizes_alone(make_case: MakeCase) -> None:
    """Without a bundle the card says where tiles are cut, and which segment shows its queries."""
    manifest = make_case("llava_next").vlm.manifest
    shape = Shape.of(manifest)
    site = shape.site(card("flowcut").at(shape.decoder.layers, shape.kind))
    schedule = make_schedule("flowcut", 64, site)
    costs = prompt_costs(Request(shape, precision(manifest.dtype), BEFORE, AFTER, "flowcut", schedule))
    graphs = ["vision_flowcut", "project", "assemble", "segment_0_1", "prune_flowcut_1", "segment_1_8"]
    assert [cost.graph for cost in costs] == graphs
    theirs = Request.of(manifest, BEFORE, AFTER, "flowcut", schedule)
    found = {cost.graph: cost.cost for cost in prompt_costs(theirs)}
    assert {"vision_flowcut", "prune_flowcut_1", "segment_0_1"} <= {*found}
    assert all(found[cost.graph] == cost.cost for cost in costs if cost.graph in found)


def test_vscan(make_case: MakeCase) -> None:
    counter = Counter(make_case("qwen2_5_vl").vlm.bundle.root)
    method = counter.manifest.method("vscan")
    assert method is not None
    for schedule in counter.schedules(method):
        ran, _ = counter.prompt_and_step(method, schedule)
        counted = [run for run in ran if run.graph in method.graphs]
        costs = prompt_costs(counter.request(method.name, schedule))
        compare(counted, tuple(cost for cost in costs if cost.graph in method.graphs))
        assert len(counted) == 2
