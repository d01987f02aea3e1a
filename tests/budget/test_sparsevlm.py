"""SparseVLM's budget rules: the lists of its code, the rows it recycles, and what holds for every depth."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.budget import sparsevlm, sparsevlm_plus
from edgeprune.budget.schedule import Schedule, Site, make_schedule, reach
from edgeprune.errors import BudgetError

LLAVA = Site(tokens=576, places=(3, 7, 16), layers=32)
METHODS = ("sparsevlm", "sparsevlm-plus")


def counts(schedule: Schedule) -> list[int]:
    return [stage.keep for stage in schedule.stages]


def logged(schedule: Schedule) -> float:
    """The average as the code logs it: what each layer puts out, a cut being part of the layer before it."""
    first, second, third = counts(schedule)
    return (2 * 576 + 4 * first + 9 * second + 17 * third) / 32


@pytest.mark.parametrize(
    ("selected", "expected"),
    [
        ((300, 200, 110), [(276, 83, 9), (109, 33, 4), (94, 29, 3)]),
        ((66, 30, 17), [(510, 154, 16), (52, 16, 2), (15, 5, 1)]),
    ],
)
def test_what_is_recycled(selected: sparsevlm.Selected, expected: list[tuple[int, int, int]]) -> None:
    found, rows = [], 576
    for stage in sparsevlm.select(selected, 1.0, LLAVA, recycling=True):
        dropped = rows - (stage.keep - stage.merge)
        found.append((dropped, sparsevlm.looked_at(dropped), stage.merge))
        rows = stage.keep
    assert found == expected


@given(st.integers(1, 3000))
def test_whole_numbers_round_as_the_code_does(dropped: int) -> None:
    assert sparsevlm.looked_at(dropped) == int(0.3 * dropped) + 1
    assert sparsevlm.clusters(dropped) == int(sparsevlm.looked_at(dropped) / 10) + 1
    assert 1 <= sparsevlm.clusters(dropped) <= sparsevlm.looked_at(dropped) <= dropped


@pytest.mark.parametrize(
    ("method", "label", "expected", "put_out", "taken_in"),
    [
        ("sparsevlm", "192", [309, 204, 113], 192.03125, 206.5),
        ("sparsevlm", "128", [312, 117, 39], 128.63, 145.4),
        ("sparsevlm", "96", [249, 55, 27], 96.94, 114.1),
        ("sparsevlm", "64", [82, 32, 18], 64.81, 82.3),
        ("sparsevlm-plus", "192", [300, 200, 118], 192.44, 206.8),
        ("sparsevlm-plus", "128", [238, 108, 60], 128.0, 144.1),
        ("sparsevlm-plus", "96", [246, 54, 28], 96.81, 113.9),
        ("sparsevlm-plus", "64", [66, 34, 20], 64.44, 81.8),
    ],
)
def test_the_published_rows(method: str, label: str, expected: list[int], put_out: float, taken_in: float) -> None:
    schedule = make_schedule(method, f"paper:{label}", LLAVA)
    assert counts(schedule) == expected
    assert logged(schedule) == pytest.approx(put_out, abs=0.006)
    assert schedule.average == pytest.approx(taken_in, abs=0.06)
    assert schedule.label == label
    assert schedule.first == 576


@pytest.mark.parametrize("index", range(4))
def test_the_lists_are_those_of_the_cards(index: int) -> None:
    label = ("192", "128", "96", "64")[index]
    recycled = make_schedule("sparsevlm", f"paper:{label}", LLAVA).stages
    assert sparsevlm.select(sparsevlm.LISTS[index], 1.0, LLAVA, recycling=True) == recycled
    kept = make_schedule("sparsevlm-plus", f"paper:{label}", LLAVA).stages
    assert sparsevlm.select(sparsevlm_plus.LISTS[index], 1.0, LLAVA, recycling=False) == kept


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("label", ["192", "128", "96", "64"])
def test_a_list_is_the_answer_to_its_own_average(method: str, label: str) -> None:
    published = make_schedule(method, f"paper:{label}", LLAVA)
    nearby = make_schedule(method, round(published.average), LLAVA)
    for mine, theirs in zip(counts(nearby), counts(published), strict=True):
        assert mine == pytest.approx(theirs, abs=2)  # the average is no whole number


@st.composite
def sites(draw: st.DrawFn) -> Site:
    layers = draw(st.integers(4, 80))
    cuts = draw(st.sets(st.integers(1, layers - 1), min_size=3, max_size=3))
    return Site(draw(st.integers(16, 2880)), tuple(sorted(cuts)), layers)


SMALL = [Site(64, (1, 2, 3), 4), Site(64, (1, 2, 4), 8)]


@pytest.mark.parametrize("method", METHODS)
@given(st.one_of(st.just(LLAVA), st.sampled_from(SMALL), sites()), st.data())
def test_every_reachable_budget_is_met(method: str, site: Site, data: st.DataObject) -> None:
    low, high = reach(method, site)
    keep = data.draw(st.integers(low, high))
    schedule = make_schedule(method, keep, site)
    assert abs(schedule.average - keep) <= 0.5
    for before, stage in pairwise([None, *schedule.stages]):
        assert stage is not None
        rows = before.keep if before else site.tokens
        selected = stage.keep - stage.merge
        assert 1 <= selected <= stage.keep <= rows
        assert stage.merge == (sparsevlm.clusters(rows - selected) if method == "sparsevlm" else 0)


@pytest.mark.parametrize(("method", "low", "high"), [("sparsevlm", 58, 575), ("sparsevlm-plus", 55, 573)])
def test_beyond_the_range_names_the_range(method: str, low: int, high: int) -> None:
    for keep in (low - 1, high + 1):
        with pytest.raises(BudgetError, match=rf"cannot keep {keep} .* reaches {low}\.\.{high} of 576"):
            make_schedule(method, keep, LLAVA)


def test_too_few_tokens_for_any_budget() -> None:
    with pytest.raises(BudgetError, match="sparsevlm-plus cannot prune 2 visual tokens: too few for 3 stages"):
        reach("sparsevlm-plus", Site(2, (1, 2, 3), 4))
