"""Costs of requests by hand, and what a request refuses; against the graphs: ``test_counts``."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from edgeprune import catalog
from edgeprune.budget.schedule import Schedule, Site, make_schedule, reach
from edgeprune.bundle.sizes import Decoder, Vision
from edgeprune.bundle.store import open_bundle
from edgeprune.catalog import Probe
from edgeprune.errors import UsageError
from edgeprune.estimate.cost import Cost, total
from edgeprune.estimate.precision import precision
from edgeprune.estimate.pruning import graphs_of
from edgeprune.estimate.request import Request, edges_of, prompt_costs, step_costs
from edgeprune.estimate.shape import Shape

FP32, FP16 = precision("fp32"), precision("fp16")
# As tiny-gqa: 64 patches, 4 heads and 2 kv heads of 8.
TINY = Shape("tiny", Vision((8, 8), 32, 2, 2, 64, 14), Decoder(8, 32, 4, 2, 8, 64, 96, 512))
LLAVA = Shape("llava", Vision((24, 24), 1024, 23, 16, 4096, 14), Decoder(32, 4096, 32, 32, 128, 11008, 32064, 4096))


def plan(shape: Shape, method: str, keep: int | str) -> Schedule:
    layers = shape.decoder.layers
    return make_schedule(method, keep, shape.site(catalog.card(method).at(layers)))


def tiny(method: str | None = None, keep: int = 16, edges: tuple[int, ...] = (2, 4, 6)) -> Request:
    schedule = None if method is None else plan(TINY, method, keep)
    return Request(TINY, FP32, 7, 53, method, schedule, edges)


def test_a_segment_by_hand() -> None:
    # D 32, 4 heads and 2 kv heads of 8, feed-forward 64, vocabulary 96; 124 rows; segments of 2 layers.
    costs = {cost.graph: cost.cost for cost in prompt_costs(tiny())}
    layer = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64
    full = 124 * layer + 2 * 124 * 124 * 32
    norms, rotary, cache = 2 * 2 * 32, 512 * 8, 2 * 2 * 16 * 124
    moved = 124 * (2 * 32 * 4 + 8) + cache * 4
    assert costs["segment_0_2"] == Cost(2 * 2 * full, 4 * (2 * layer + norms + rotary), moved)
    # Keys and values of all rows, the rest of one.
    last = 124 * 2 * 32 * 16 + 2 * 32 * 32 + 3 * 32 * 64 + 2 * 124 * 32
    assert costs["segment_6_8"].flops == 2 * (full + last + 32 * 96)
    assert costs["project"] == Cost(2 * 64 * 2 * 32 * 32, 4 * 2 * (32 * 32 + 32), 2 * 64 * 32 * 4)
    assert costs["assemble"] == Cost(0, 0, 2 * 124 * 32 * 4 + 124 * 8)


def test_a_decode_step_reads_weights_and_cache() -> None:
    request = tiny("visiondrop")
    assert request.rows == (84, 78, 73, 69)
    prompt, (first, *_) = prompt_costs(request), step_costs(request, 3)
    weights = next(cost.cost.weights for cost in prompt if cost.graph == "segment_0_2")
    cache = 2 * 2 * 2 * 8 * 4  # layers, key and value, kv heads, width, bytes: per row
    assert (first.graph, first.stage) == ("segment_0_2", "decode")
    assert first.cost.weights == weights
    assert first.cost.traffic == 2 * 32 * 4 + 8 + cache * (87 + 88)
    assert [cost.graph for cost in step_costs(request)] == ["segment_0_2", "segment_2_4", "segment_4_6", "segment_6_8"]


def test_what_flops_allow() -> None:
    per_row, kv, tail = 32 * 32 * 2 + 3 * 32 * 64, 2 * 32 * 16, 32 * 96

    def decoder(*rows: int) -> int:
        layers = [s for s in rows for _ in range(2)]
        full = sum(s * (per_row + kv) + 2 * s * s * 32 for s in layers[:-1])
        return full + layers[-1] * kv + per_row + 2 * layers[-1] * 32 + tail

    every = total(prompt_costs(tiny()), "prefill").flops
    kept = total(prompt_costs(tiny("visiondrop")), "prefill").flops
    assert (every, kept) == (2 * decoder(124, 124, 124, 124), 2 * decoder(84, 78, 73, 69))


def test_totals_split_by_stage() -> None:
    costs = prompt_costs(tiny("sparsevlm", 32, ()))
    stages = {cost.stage for cost in costs}
    assert stages == {"vision", "project", "prune", "prefill"}
    assert total(costs) == sum((total(costs, stage) for stage in stages), Cost())
    towers = [cost.graph for cost in prompt_costs(tiny("cdpruner", 32, ())) if cost.stage == "text"]
    assert towers == ["prepare_cdpruner"]


def test_a_quantised_decoder_leaves_everything_else_as_it_is() -> None:
    half, four = (prompt_costs(Request(LLAVA, precision(name), 35, 28, None, None)) for name in ("fp16", "int4"))
    assert half[:-1] == four[:-1]
    assert (half[-1].cost.flops, half[-1].cost.traffic) == (four[-1].cost.flops, four[-1].cost.traffic)
    matrices = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert half[-1].cost.weights - four[-1].cost.weights == pytest.approx(matrices * (2 - 4.125 / 8), abs=1)


def test_without_edges_segments_are_the_methods_own() -> None:
    assert tiny(edges=()).bounds == ((0, 8),)
    assert tiny("visiondrop", edges=()).bounds == ((0, 2), (2, 4), (4, 6), (6, 8))
    assert tiny("visionzip", edges=()).bounds == ((0, 8),)
    assert tiny("visionzip").bounds == ((0, 2), (2, 4), (4, 6), (6, 8))


def test_probes_and_queries_are_outputs_where_they_are_read() -> None:
    def moved(request: Request) -> dict[str, int]:
        return {cost.graph: cost.cost.traffic for cost in prompt_costs(request)}

    plain, fastv, zipped = moved(tiny(edges=(1,))), moved(tiny("fastv", 48, ())), moved(tiny("visionzip", edges=()))
    assert fastv["segment_0_1"] - plain["segment_0_1"] == 124 * 32 * 4
    assert fastv["vision"] == plain["vision"]
    assert zipped["vision"] - plain["vision"] == 32 * 4 + 64 * 4 + 65 * 16 * 4
    both = replace(tiny(edges=(1,)), probes=(Probe("key", 1),), queries=(1,))
    assert moved(both)["segment_0_1"] == fastv["segment_0_1"]
    assert moved(both)["vision"] - plain["vision"] == 65 * 16 * 4


def test_a_bundle_of_one_method_is_what_its_sizes_say(bundle_gqa: Path) -> None:
    manifest = open_bundle(bundle_gqa, check_hashes=False).manifest
    shape = Shape.of(manifest)
    assert edges_of(manifest) == (2, 4, 6)
    schedule = plan(shape, "visiondrop", 16)
    theirs = Request.of(manifest, 7, 53, "visiondrop", schedule)
    ours = Request(shape, FP32, 7, 53, "visiondrop", schedule)
    assert prompt_costs(theirs) == prompt_costs(ours)
    assert step_costs(theirs, 4) == step_costs(ours, 4)


def test_several_runs_share_weights_and_budget() -> None:
    five = replace(LLAVA, runs=5)
    one = {
        c.graph: c.cost for c in prompt_costs(Request(LLAVA, FP16, 35, 28, "visionzip", plan(LLAVA, "visionzip", 64)))
    }
    all_five = Request(five, FP16, 35, 28, "visionzip", plan(five, "visionzip", 320))
    many = {c.graph: c.cost for c in prompt_costs(all_five)}
    assert all_five.rows == (383,)
    for graph, once in (("vision", 0), ("prune_visionzip_vision", 2 * 8)):  # keep and merge
        traffic = 5 * (one[graph].traffic - once) + once
        assert many[graph] == Cost(5 * one[graph].flops, one[graph].weights, traffic)
    assert many["project"].flops == 5 * one["project"].flops


@pytest.mark.parametrize("name", catalog.names())
def test_every_method_has_graphs_where_its_card_prunes(name: str) -> None:
    graphs, card = graphs_of(name), catalog.card(name)
    every = {place for places in (card.places, *card.places_of.values()) for place in places}
    here = {place if isinstance(place, str) else "cut" for place in every}
    assert here == {place for place in ("encoder", "vision", "projected", "cut") if getattr(graphs, place)}


@pytest.mark.parametrize("name", catalog.names())
def test_counting_takes_no_time(name: str) -> None:
    """Below 5 ms, the first time too: a budget that is chosen while a request waits tries many."""
    low, high = reach(name, Site(576, catalog.card(name).at(32), 32))
    for keep in (low, high):
        request = Request(LLAVA, FP16, 35, 28, name, plan(LLAVA, name, keep))
        start = time.process_time()
        prompt_costs(request)
        assert time.process_time() - start < 5e-3


def refused(**changes: object) -> str:
    with pytest.raises(UsageError) as error:
        replace(tiny("visiondrop"), **changes)  # type: ignore[arg-type]
    return str(error.value)


def test_what_a_request_refuses() -> None:
    assert refused(before=-1) == "-1 and 53 text tokens around the picture; expected 0 or more"
    assert refused(schedule=None) == "a method and its schedule come together, or neither"
    assert refused(method=None) == "a method and its schedule come together, or neither"
    assert refused(edges=(4, 2)) == "segments start before [4, 2]; expected rising layers in 1..7"
    assert refused(edges=(2, 4, 8)) == "segments start before [2, 4, 8]; expected rising layers in 1..7"
    assert refused(edges=(2, 4)) == "visiondrop cuts before layer 6, where no segment starts: [2, 4]"
    assert refused(shape=replace(TINY, runs=2)) == "tiny has 128 visual tokens and the schedule is for 64 of them"
    assert refused(method="fastv") == "fastv does not prune at 'vision', where the schedule has a stage"
    assert refused(method="fastvv").startswith("unknown method 'fastvv'; methods: ")
