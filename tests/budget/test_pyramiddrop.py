"""PyramidDrop's budget rule: the published row, its reach, and what holds for every depth."""

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgeprune.budget.pyramiddrop import decayed
from edgeprune.budget.schedule import Schedule, Site, make_schedule, reach
from edgeprune.errors import BudgetError

LLAVA = Site(tokens=576, places=(8, 16, 24), layers=32)


def rows(schedule: Schedule) -> list[int]:
    """Visual rows per group of layers."""
    return [schedule.tokens, *(stage.keep for stage in schedule.stages)]


@pytest.mark.parametrize("keep", [270, "paper:270"])
def test_the_published_row(keep: int | str) -> None:
    schedule = make_schedule("pyramiddrop", keep, LLAVA)
    assert rows(schedule) == [576, 288, 144, 72]
    assert [before - after for before, after in pairwise(rows(schedule))] == [288, 144, 72]  # shifts of positions
    assert schedule.average == 270
    assert schedule.label == "270"
    assert schedule.first == 576  # all of them enter the decoder


def test_the_published_fraction_at_other_sizes() -> None:
    assert [stage.keep for stage in decayed(0.5, Site(2880, (8, 16, 24), 32))] == [1440, 720, 360]
    assert rows(make_schedule("pyramiddrop", 1350, Site(2880, (8, 16, 24), 32))) == [2880, 1440, 720, 360]
    assert rows(make_schedule("pyramiddrop", 30, Site(64, (1, 2, 3), 4))) == [64, 32, 16, 8]
    assert rows(make_schedule("pyramiddrop", 30, Site(64, (2, 4, 6), 8))) == [64, 32, 16, 8]


def test_the_fraction_that_averages_192() -> None:
    assert [stage.keep for stage in decayed(0.2531, LLAVA)] == [145, 36, 9]  # 191.5
    assert rows(make_schedule("pyramiddrop", 192, LLAVA)) == [576, 146, 37, 9]


@pytest.mark.parametrize("keep", [64, 128, 144])
def test_below_what_the_first_layers_cost_names_the_range(keep: int) -> None:
    with pytest.raises(BudgetError, match=rf"cannot keep {keep} .* reaches 145\.\.575 of 576"):
        make_schedule("pyramiddrop", keep, LLAVA)


def test_too_few_tokens_for_any_budget() -> None:
    with pytest.raises(BudgetError, match="cannot prune 2 visual tokens with cuts at 1, 2, 3 of 4 layers"):
        reach("pyramiddrop", Site(2, (1, 2, 3), 4))


@given(st.integers(16, 2880), st.integers(4, 80), st.data())
def test_every_reachable_budget_is_met(tokens: int, layers: int, data: st.DataObject) -> None:
    quarters = tuple(layers * quarter // 4 for quarter in (1, 2, 3))
    cuts = data.draw(st.one_of(st.just(quarters), st.sets(st.integers(1, layers - 1), min_size=3, max_size=3)))
    site = Site(tokens, tuple(sorted(cuts)), layers)
    assume(site.whole + (layers - site.whole) / tokens <= layers - layers / tokens)  # else nothing is in reach
    low, high = reach("pyramiddrop", site)
    keep = data.draw(st.integers(low, high))
    schedule = make_schedule("pyramiddrop", keep, site)
    assert abs(schedule.average - keep) <= 0.5
    assert rows(schedule) == sorted(rows(schedule), reverse=True)
    assert rows(schedule)[-1] >= 1
    assert all(stage.merge == 0 for stage in schedule.stages)
