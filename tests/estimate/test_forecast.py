"""Forecasts: rough expectations of known devices, how the parts hang together, and the verdict in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeprune.errors import BudgetError, UsageError
from edgeprune.estimate.find import Found, find_model
from edgeprune.estimate.forecast import Forecast, forecast
from edgeprune.estimate.grid import make_grid
from edgeprune.estimate.machine import Machine, machine_of_target
from edgeprune.estimate.precision import precision
from edgeprune.estimate.request import Request
from edgeprune.estimate.verdict import judge
from edgeprune.recipes import target as targets

MODEL = find_model("llava-1.5-7b")


def asked(keep: str = "all", method: str = "visiondrop", dtype: str = "fp16", text: int = 60) -> Request:
    return make_grid(MODEL, precision(dtype), text, [method], [keep]).requests[-1]


def machine_of(name: str, dtype: str = "fp16") -> Machine:
    return machine_of_target(targets.load(name), precision(dtype))


def estimate(target: str, keep: str = "all", method: str = "visiondrop", dtype: str = "fp16") -> Forecast:
    return forecast(asked(keep, method, dtype), machine_of(target, dtype), 128)


def stage_ms(found: Forecast, name: str) -> float:
    return sum(entry.ms for entry in found.stages if entry.name == name)


@pytest.mark.parametrize(
    ("target", "keep", "dtype", "figure", "expected"),
    [  # derived from published figures of other models on these devices, for 576 visual and 60 text tokens
        ("orin-agx-64gb", "all", "fp16", "prefill", 400),
        ("orin-agx-64gb", "64", "fp16", "prefill", 85),
        ("orin-agx-64gb", "all", "fp16", "vision", 22.5),
        ("orin-agx-64gb", "all", "fp16", "decode", 12),
        ("orin-agx-64gb", "all", "int4", "decode", 40),
        ("h200", "all", "fp16", "prefill", 15),
        ("h200", "64", "fp16", "prefill", 4.5),
        ("h200", "all", "fp16", "decode", 280),
    ],
)
def test_rough_expectations_of_llava_7b(target: str, keep: str, dtype: str, figure: str, expected: float) -> None:
    found = estimate(target, keep, dtype=dtype)
    value = found.decode.value if figure == "decode" else stage_ms(found, figure)
    assert expected / 1.4 <= value <= expected * 1.4


def test_the_floor_of_fp16_on_an_agx_orin() -> None:
    limits = estimate("orin-agx-64gb", "64").limits
    assert limits.weight_read_ms == pytest.approx(82, rel=0.2)
    assert limits.rows == pytest.approx(131, rel=0.2)
    assert limits.tokens == limits.rows - 60
    assert estimate("orin-agx-64gb", "64", dtype="int4").limits.rows == pytest.approx(33, rel=0.2)


def test_the_parts_are_the_whole() -> None:
    found = estimate("orin-agx-64gb", "64")
    assert found.flops_total == sum(graph.flops for graph in found.graphs) == sum(s.flops for s in found.stages)
    assert found.bytes_total == sum(graph.bytes for graph in found.graphs) == sum(s.bytes for s in found.stages)
    assert found.ttft_ms.value == pytest.approx(sum(graph.ms for graph in found.graphs))
    assert found.ttft_ms.value == pytest.approx(sum(stage.ms for stage in found.stages))
    assert [stage.name for stage in found.stages] == ["vision", "prune", "project", "prefill"]
    assert found.counts == (96, 70, 52, 38)
    assert found.average == pytest.approx(64)
    assert found.rows == (156, 130, 112, 98)
    assert found.cached == tuple(rows + 128 for rows in found.rows)
    assert found.ttft_ms.low == pytest.approx(found.ttft_ms.value / (1 + found.band))
    assert found.ttft_ms.high == pytest.approx(found.ttft_ms.value * (1 + found.band))


def test_both_conventions_of_the_papers() -> None:
    assert estimate("h200").flops_paper == pytest.approx(3.82e12, rel=0.002)  # PyramidDrop's
    found = estimate("h200", "64")
    assert found.flops_profiler == pytest.approx(2.11e12, rel=0.03)  # VisionDrop's, with a longer prompt
    assert found.flops_paper < found.flops_total < found.flops_profiler


def test_without_pruning_nothing_is_gained() -> None:
    found = estimate("h200")
    assert (found.method, found.keep, found.counts, found.average) == (None, "all", (), 576)
    assert found.speedup == pytest.approx(1)
    assert found.decode.value == pytest.approx(found.decode_unpruned)


@pytest.mark.parametrize("target", ["orin-nano-8gb", "orin-agx-64gb", "h200", "l4"])
@pytest.mark.parametrize("method", ["visiondrop", "fastv", "sparsevlm", "visionzip"])
def test_no_gain_is_beyond_the_ceiling(target: str, method: str) -> None:
    found = estimate(target, "80", method)
    assert 1 < found.speedup <= found.limits.most_speedup <= 1 / found.limits.encoder_share
    assert found.ttft_ms.value >= found.limits.least_ms


def test_below_the_floor_fewer_tokens_gain_little() -> None:
    machine = machine_of("h100")  # which is far stronger in operations than in bytes
    floor = forecast(asked(), machine, 1).limits.tokens
    at, below = (forecast(asked(str(keep), "random"), machine, 1).ttft_ms.value for keep in (floor, floor // 4))
    twice = forecast(asked(str(2 * floor), "random"), machine, 1).ttft_ms.value
    assert at / below < 1.05 < twice / at


def test_a_context_fills_every_cache() -> None:
    machine, request = machine_of("h200"), asked("64")
    found = forecast(request, machine, 10, 2048)
    assert found.cached == (2048,) * 4
    row = 2 * 4096 * 2
    assert found.memory.cache == (8 * 2048 * row,) * 4


@pytest.mark.parametrize(
    ("new", "context", "message"),
    [
        (5000, None, "prompt and answer have 5,636 rows, and llava-1.5-7b has positions for 4,096"),
        (100, 700, "--context 700 is out of range; prompt and answer have 736 rows, the model has positions for 4,096"),
        (100, 5000, "--context 5000 is out of range"),
    ],
)
def test_what_exceeds_the_context(new: int, context: int | None, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        forecast(asked(), machine_of("h200"), new, context)
    assert message in str(caught.value)


# --- the verdict


@pytest.mark.parametrize(
    ("target", "dtype", "word"),
    [
        ("orin-agx-64gb", "fp16", "fits"),
        ("orin-nano-8gb", "fp16", "needs int4"),
        ("orin-nano-8gb", "int4", "fits"),
        ("rtx-4090", "fp32", "needs fp16"),
    ],
)
def test_whether_it_fits(target: str, dtype: str, word: str) -> None:
    request = asked("64", dtype=dtype)
    found = forecast(request, machine_of(target, dtype), 128)
    verdict = judge(request, found)
    assert verdict.memory == word
    assert verdict.lines[0].startswith(word)
    assert found.fits == (word == "fits")


def test_what_does_not_fit_at_all_and_what_is_not_known() -> None:
    machine, request = machine_of("orin-nano-8gb"), asked()
    small = replace(machine, memory=machine.reserve + (1 << 30))
    verdict = judge(request, forecast(request, small, 8))
    assert verdict.memory == "does not fit"
    assert verdict.lines[0].endswith("of 1.07 GB, and no smaller dtype would fit")
    assert "building engines takes 12.7 GB" in verdict.lines[1]
    assert judge(request, forecast(request, replace(machine, memory=None), 8)).memory == "unknown"


def test_what_pruning_gains_and_where_it_stops() -> None:
    machine = machine_of("orin-agx-64gb")
    lines = " / ".join(judge(asked("64"), forecast(asked("64"), machine, 128)).lines)
    assert "visiondrop keep 64 brings the first token 4.0x sooner than all 576 visual tokens" in lines
    assert "no pruning after the encoder gains more than 4.6x: the encoder is 4% of 453 ms" in lines
    assert "fewer than 55 visual tokens will not help: reading the decoder's weights takes 77.8 ms" in lines
    assert "below" not in lines
    verdict = judge(asked("32"), forecast(asked("32"), machine, 128))
    assert verdict.helps
    assert verdict.lines[-1].endswith("; an average of 32 is below")
    chatty = asked("32", text=400)
    assert judge(chatty, forecast(chatty, machine, 8)).lines[-1].startswith("every visual token less helps")


def test_a_method_that_costs_more_than_it_saves() -> None:
    demo = find_model("demo")
    request = make_grid(demo, precision("fp16"), 60, ["visiondrop"], ["64"]).requests[-1]
    verdict = judge(request, forecast(request, machine_of("h200"), 128))
    assert verdict.helps is False
    assert any(line.startswith("will not help: visiondrop keep 64 takes") for line in verdict.lines)


def test_a_picture_of_few_tokens() -> None:
    shape = replace(MODEL.shape, vision=replace(MODEL.shape.vision, grid=(4, 4)))
    request = make_grid(Found(shape), precision("fp16"), 60, [], ["all"]).whole
    verdict = judge(request, forecast(request, machine_of("h200"), 128))
    assert verdict.helps is None
    assert verdict.lines[-1].startswith("fewer visual tokens will not help: reading")


# --- the grid


def test_every_method_at_every_budget_in_common_segments() -> None:
    grid = make_grid(MODEL, precision("fp16"), 60, ["visiondrop", "fastv"], ["all", "192", "33.3%", "64"])
    assert [(r.method, r.schedule.asked if r.schedule else None) for r in grid.requests] == [
        (None, None),
        ("visiondrop", 192),
        ("visiondrop", 64),
        ("fastv", 192),
        ("fastv", 64),
    ]
    assert {request.edges for request in (*grid.requests, grid.whole)} == {(2, 8, 16, 24)}
    assert grid.left_out == ()


def test_budgets_out_of_reach() -> None:
    grid = make_grid(MODEL, precision("fp16"), 60, ["visiondrop", "pyramiddrop"], ["64"])
    assert [request.method for request in grid.requests] == ["visiondrop"]
    assert grid.left_out == ("pyramiddrop cannot keep 64 visual tokens on average; it reaches 145..575 of 576, or all",)
    for keeps in (["64"], ["all", "64"]):
        with pytest.raises(BudgetError, match="pyramiddrop cannot keep 64"):
            make_grid(MODEL, precision("fp16"), 60, ["pyramiddrop"], keeps)


def test_text_before_and_after() -> None:
    assert [(r.before, r.after) for r in (asked(text=60), asked(text=3), asked(text=1))] == [(5, 55), (1, 2), (0, 1)]


@pytest.mark.parametrize("method", ["visiondrop", "sparsevlm", "sts"])
def test_a_decoder_too_shallow_for_a_method(method: str) -> None:
    shallow = replace(MODEL.shape, decoder=replace(MODEL.shape.decoder, layers=1))
    with pytest.raises(UsageError, match=f"llava-1.5-7b cannot carry {method}: it cuts before layers .* decoder has 1"):
        make_grid(Found(shallow), precision("fp16"), 60, [method], ["10"])
