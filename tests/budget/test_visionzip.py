"""VisionZip's budget rule: the published splits and what holds for every budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.budget.schedule import Site, Stage, make_schedule, reach
from edgeprune.errors import BudgetError

LLAVA = Site(tokens=576, places=("vision",), layers=32)


@pytest.mark.parametrize(("keep", "merged"), [(192, 30), (128, 20), (64, 10), (32, 5)])
def test_the_published_splits(keep: int, merged: int) -> None:
    schedule = make_schedule("visionzip", keep, LLAVA)
    assert schedule.stages == (Stage("vision", keep, merged, 32),)
    assert schedule.stages == make_schedule("visionzip", f"paper:{keep}", LLAVA).stages
    assert schedule.label == str(keep)
    assert schedule.first == keep


@given(st.integers(5, 2880), st.integers(1, 80), st.data())
def test_every_reachable_budget_is_met(tokens: int, layers: int, data: st.DataObject) -> None:
    site = Site(tokens, ("vision",), layers)
    low, high = reach("visionzip", site)
    keep = data.draw(st.integers(low, high))
    schedule = make_schedule("visionzip", keep, site)
    (stage,) = schedule.stages
    assert schedule.average == keep
    assert 1 <= stage.merge < stage.keep <= tokens  # the class row is selected, so one at least
    assert stage.merge <= tokens + 1 - (stage.keep - stage.merge)  # references stand among what was not selected


@pytest.mark.parametrize("keep", [1, 3, 576])
def test_beyond_the_range_names_the_range(keep: int) -> None:
    with pytest.raises(BudgetError, match=rf"cannot keep {keep} .* reaches 4\.\.575 of 576"):
        make_schedule("visionzip", keep, LLAVA)


def test_too_few_tokens_for_any_budget() -> None:
    with pytest.raises(BudgetError, match="cannot prune 4 visual tokens"):
        reach("visionzip", Site(4, ("vision",), 32))
