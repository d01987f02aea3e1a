"""The rule of one stage before the decoder and one cut in it: the published rows, and what holds at any depth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune import catalog
from edgeprune.budget import two_stage
from edgeprune.budget.keep import parse_keep
from edgeprune.budget.schedule import Schedule, Site, Stage, make_schedule
from edgeprune.bundle.manifest import Place
from edgeprune.bundle.sizes import Vision
from edgeprune.errors import BudgetError


def site(tokens: int = 576, layers: int = 32, cut: int = 16, place: Place = "projected") -> Site:
    return Site(tokens, (place, cut), layers)


@pytest.mark.parametrize(("keep", "counts"), [(192, (288, 96)), (128, (192, 64)), (64, (96, 32))])
def test_the_published_rows(keep: int, counts: tuple[int, int]) -> None:
    assert two_stage.stages(keep, site()) == (Stage("projected", counts[0], 0, 16), Stage(16, counts[1], 0, 16))


@pytest.mark.parametrize(
    ("tokens", "counts"), [(1296, (216, 72)), (3600, (600, 200)), (16384, (2729, 909)), (360, (60, 20)), (99, (17, 5))]
)
def test_the_published_shares_of_pictures_of_any_size(tokens: int, counts: tuple[int, int]) -> None:
    """Qwen2.5-VL-7B: 0.167 of the tokens enter the decoder, and 0.333 of those pass its middle, 11.1% on average."""
    card = catalog.card("vscan")
    where = Site.of(Vision(None, 5120, 32, 16, 3420, 14, "none", 2), 28, "image", card.at(28), tokens, 1)
    keep = parse_keep("11.1%", tokens)
    assert keep is not None
    schedule = make_schedule("vscan", keep, where)
    assert [(stage.cut, stage.rows) for stage in schedule.stages] == [("projected", counts[0]), (14, counts[1])]
    assert counts[0] / tokens == pytest.approx(0.167, abs=0.005)
    assert counts[1] / counts[0] == pytest.approx(0.333, abs=1 / counts[0])


def test_the_first_place_is_the_sites() -> None:
    assert [stage.cut for stage in two_stage.stages(64, site(place="vision"))] == ["vision", 16]


@pytest.mark.parametrize(
    ("tokens", "layers", "cut", "expected"),
    [(576, 32, 16, (2, 384)), (64, 4, 2, (2, 42)), (64, 8, 4, (2, 42)), (576, 32, 2, (1, 384)), (3, 4, 2, (2, 2))],
)
def test_the_reach(tokens: int, layers: int, cut: int, expected: tuple[int, int]) -> None:
    assert two_stage.reach(site(tokens, layers, cut)) == expected


@given(st.integers(2, 80), st.integers(1, 79), st.integers(1, 3000), st.data())
def test_every_reachable_budget_is_met(layers: int, cut: int, tokens: int, data: st.DataObject) -> None:
    if cut >= layers:
        return
    where = site(tokens, layers, cut)
    try:
        low, high = two_stage.reach(where)
    except BudgetError:
        assert 3 * cut >= 2 * layers or tokens < 200
        return
    keep = data.draw(st.integers(low, high))
    found = two_stage.stages(keep, where)
    first, second = (stage.keep for stage in found)
    assert 1 <= second <= first <= tokens
    assert first == int(1.5 * keep + 0.5)
    assert abs(Schedule(found, keep, tokens, where.whole).average - keep) <= 0.5
    assert sum(stage.layers for stage in found) == layers
    assert (3 * (high + 1) + 1) // 2 > tokens


def test_a_cut_too_late_for_any_budget() -> None:
    with pytest.raises(BudgetError, match="before two thirds"):
        two_stage.reach(site(cut=22))


def test_too_few_tokens_for_any_budget() -> None:
    with pytest.raises(BudgetError, match="too few"):
        two_stage.reach(site(tokens=2))
