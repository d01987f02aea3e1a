"""The rule of one cut inside the decoder: FastV's numbers, and what holds for every depth."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgeprune.budget import single_cut
from edgeprune.budget.schedule import Site, Stage, make_schedule, reach
from edgeprune.errors import BudgetError

LLAVA = Site(tokens=576, places=(2,), layers=32)


@pytest.mark.parametrize(
    ("cut", "keep", "count"),
    [(2, 192, 166), (2, 128, 98), (2, 64, 30), (3, 192, 152), (3, 128, 82), (3, 64, 11), (1, 32, 14)],
)
def test_counts_for_an_average(cut: int, keep: int, count: int) -> None:
    (stage,) = single_cut.stages(keep, Site(576, (cut,), 32))
    assert stage == Stage(cut, count, 0, 32 - cut)


@pytest.mark.parametrize(("label", "count"), [("432", 432), ("288", 288), ("144", 144), ("72", 72)])
def test_the_published_counts_are_those_after_the_cut(label: str, count: int) -> None:
    schedule = make_schedule("fastv", f"paper:{label}", LLAVA)
    assert schedule.stages == (Stage(2, count, 0, 30),)
    assert schedule.average == (2 * 576 + 30 * count) / 32
    assert schedule.first == 576


def test_half_of_the_rows_after_layer_two() -> None:
    """FastV's K = 2, R = 50 % in a prompt of 639 rows: 351 of them from layer 2 on."""
    (stage,) = make_schedule("fastv", "paper:288", LLAVA).stages
    assert 639 - 576 + stage.keep == 351
    assert (stage.cut, stage.layers) == (2, 30)


def test_what_two_whole_layers_cost_names_the_range() -> None:
    with pytest.raises(BudgetError, match=r"cannot keep 32 .* reaches 37\.\.575 of 576"):
        make_schedule("fastv", 32, LLAVA)


@given(st.integers(2, 2880), st.integers(2, 80), st.data())
def test_every_reachable_budget_is_met(tokens: int, layers: int, data: st.DataObject) -> None:
    site = Site(tokens, (data.draw(st.integers(1, layers - 1)),), layers)
    assume(site.weights[0] * (tokens - 2) >= layers)  # so that a whole number lies between one row and all but one
    low, high = reach("fastv", site)
    keep = data.draw(st.integers(low, high))
    schedule = make_schedule("fastv", keep, site)
    assert abs(schedule.average - keep) <= 0.5
    assert 1 <= schedule.stages[0].keep < tokens
