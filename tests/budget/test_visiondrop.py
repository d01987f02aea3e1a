"""VisionDrop's budget rule: the published row, the table derived from it, and what holds for every depth."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.budget import visiondrop
from edgeprune.budget.schedule import Schedule, Site, make_schedule, reach
from edgeprune.errors import BudgetError
from tests.reference import visiondrop as reference

SITE = Site(576, ("vision", 8, 16, 24), 32)


def counts(schedule: Schedule) -> list[tuple[int, int]]:
    """(dominant, merged) per stage."""
    return [(stage.keep - stage.merge, stage.merge) for stage in schedule.stages]


def test_the_published_row() -> None:
    assert counts(make_schedule("visiondrop", 32, SITE)) == [(42, 6), (30, 5), (22, 4), (16, 3)]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (192, [(252, 36), (184, 27), (135, 20), (99, 15)]),
        (128, [(168, 24), (123, 18), (90, 13), (66, 10)]),
        (64, [(84, 12), (61, 9), (45, 7), (33, 5)]),
    ],
)
def test_the_derived_table(keep: int, expected: list[tuple[int, int]]) -> None:
    schedule = make_schedule("visiondrop", keep, SITE)
    assert counts(schedule) == expected
    assert sum(stage.keep for stage in schedule.stages) == 4 * keep
    assert schedule.average == schedule.asked == keep


def test_the_decay_of_four_equal_stages() -> None:
    assert visiondrop.decay((8, 8, 8, 8), 1.5) == pytest.approx(0.733624, abs=1e-6)
    assert visiondrop.decay((8, 8, 8, 8), 3.0) == pytest.approx(0.25308, abs=1e-5)  # of a video


@st.composite
def decoders(draw: Callable[[st.SearchStrategy[Any]], Any]) -> tuple[int, tuple[int, ...]]:
    """A depth and cuts at its quarters, or any three whose first lies before two thirds."""
    layers = draw(st.integers(4, 80))
    if draw(st.booleans()):
        return layers, tuple(layers * quarter // 4 for quarter in (1, 2, 3))
    first = draw(st.integers(1, max(1, (layers * 2 - 1) // 3)))
    rest = draw(st.sets(st.integers(1, layers - 1), max_size=4))
    return layers, tuple(sorted({first, *(cut for cut in rest if cut > first)}))


@given(decoders(), st.integers(64, 2880), st.data())
def test_every_reachable_budget_is_met(decoder: tuple[int, tuple[int, ...]], tokens: int, data: st.DataObject) -> None:
    layers, cuts = decoder
    if cuts[0] * 3 >= layers * 2:
        return
    site = Site(tokens, ("vision", *cuts), layers)
    try:
        low, high = reach("visiondrop", site)
    except BudgetError:  # a decay so steep that the last stage cannot hold a merged row at any budget
        assert visiondrop.stages(tokens * 2 // 3, site)[-1].keep < visiondrop.PER_MERGED
        return
    keep = data.draw(st.integers(low, high))
    schedule = make_schedule("visiondrop", keep, site)
    rows = [stage.keep for stage in schedule.stages]
    assert abs(schedule.average - keep) <= 0.5  # each count is rounded by at most a half
    assert rows == sorted(rows, reverse=True)
    assert rows[0] <= tokens
    assert rows[-1] >= visiondrop.PER_MERGED
    for stage in schedule.stages:
        assert 1 <= stage.merge <= stage.keep - stage.merge
    rho = visiondrop.decay(site.weights, 1.5)
    for index, (mine, theirs) in enumerate(zip(rows, reference.visual_counts(keep, layers, cuts), strict=True)):
        tie = abs((1.5 * keep * rho**index) % 1 - 0.5) < 1e-6  # where the last bits of two bisections decide
        assert mine == theirs or tie


@given(st.integers(1, 3000))
def test_beyond_the_range_names_the_range(keep: int) -> None:
    low, high = reach("visiondrop", SITE)
    if low <= keep <= high:
        return
    with pytest.raises(BudgetError, match=rf"cannot keep {keep} .* reaches {low}\.\.{high} of 576"):
        make_schedule("visiondrop", keep, SITE)


def test_cuts_too_late_for_any_budget() -> None:
    with pytest.raises(BudgetError, match="first cut must lie before two thirds"):
        reach("visiondrop", Site(576, ("vision", 24), 32))


def test_too_few_tokens_for_any_budget() -> None:
    with pytest.raises(BudgetError, match=r"too few: of pictures it keeps 1\.5 times .* there must be 20 or more$"):
        reach("visiondrop", Site(16, ("vision", 2, 4, 6), 8))
