"""FlowCut's rule for tiles: its paper's counts, what several runs make of an average, and both ends of the reach."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.budget.flowcut import halved
from edgeprune.budget.schedule import Schedule, Site, make_schedule, reach
from edgeprune.errors import BudgetError

NEXT = Site(2928, ("encoder", 2), 32, 5, 576)  # a square picture, newline rows among the tokens


def counts(schedule: Schedule) -> tuple[int, int]:
    """Rows of a run in the encoder, and rows after the second cut."""
    early, late = schedule.stages
    return early.keep, late.keep


@pytest.mark.parametrize(
    ("label", "crop", "after", "average"), [("640", 320, 640, 700), ("320", 160, 320, 350), ("160", 80, 160, 175)]
)
def test_half_of_the_budget_of_every_crop(label: str, crop: int, after: int, average: int) -> None:
    schedule = make_schedule("flowcut", f"paper:{label}", NEXT)
    assert counts(schedule) == (crop, after)
    assert (schedule.first, schedule.average, schedule.label) == (5 * crop, average, label)
    asked = make_schedule("flowcut", average, NEXT)
    assert (asked.stages, asked.label) == (schedule.stages, label)


def test_one_run_is_pruned_in_the_encoder_alone() -> None:
    schedule = make_schedule("flowcut", 64, Site(576, ("encoder",), 32))
    assert [(stage.cut, stage.keep) for stage in schedule.stages] == [("encoder", 64)]
    assert (schedule.average, schedule.label) == (64, "64")
    assert make_schedule("flowcut", "paper:64", Site(576, ("encoder",), 32)).stages == schedule.stages


def test_tiles_of_a_bundle_that_cuts_in_the_encoder_alone() -> None:
    """As one that was exported before there was a second cut."""
    site = Site(2928, ("encoder",), 32, 5, 576)
    assert [stage.keep for stage in make_schedule("flowcut", 640, site).stages] == [128]
    with pytest.raises(BudgetError, match="paper:640 has 2 counts and this bundle cuts in 1 places"):
        make_schedule("flowcut", "paper:640", site)


@pytest.mark.parametrize(
    ("runs", "rows", "expected"),
    [
        (5, 1, (1, 1)),  # int(1 / 2) would leave nothing
        (5, 2, (1, 2)),
        (5, 7, (3, 7)),
        (5, 1151, (575, 1151)),
        (5, 1152, (575, 1152)),  # the encoder prunes one patch at least
        (5, 9999, (575, 2875)),
        (3, 1, (1, 1)),
        (3, 3, (1, 3)),
        (3, 9, (4, 9)),
        (2, 8, (4, 8)),
        (2, 9, (4, 8)),  # no more can be left than there is
        (1, 9, (4, 4)),
    ],
)
def test_no_stage_has_more_rows_than_reach_it(runs: int, rows: int, expected: tuple[int, int]) -> None:
    early, late = halved(rows, Site(576 * runs, ("encoder", 2), 32, runs))
    assert (early.keep, late.keep) == expected
    assert (early.runs, late.runs, early.layers, late.layers) == (runs, 1, 2, 30)


@pytest.mark.parametrize(("runs", "low", "high"), [(1, 1, 575), (2, 2, 1150), (3, 2, 1725), (4, 2, 2300), (5, 2, 2875)])
def test_both_ends_of_the_reach(runs: int, low: int, high: int) -> None:
    site = Site(576 * runs + 30, ("encoder", 2), 32, runs, 576)
    assert reach("flowcut", site) == (low, high)
    for keep in (low, high):
        assert make_schedule("flowcut", keep, site).average == pytest.approx(keep, abs=0.55)
    assert counts(make_schedule("flowcut", high, site)) == (575, 575 * runs)
    for keep in (low - 1, high + 1):
        with pytest.raises(BudgetError, match=rf"flowcut cannot keep {keep} .* reaches {low}\.\.{high} of"):
            make_schedule("flowcut", keep, site)


def test_one_patch_a_run_cannot_be_pruned() -> None:
    with pytest.raises(BudgetError, match="3 visual tokens of 3 encoder runs are too few to prune"):
        reach("flowcut", Site(3, ("encoder", 2), 32, 3))


@given(
    st.integers(1, 20),
    st.integers(2, 60),
    st.sampled_from([(4, 1), (24, 2), (28, 2), (32, 2), (40, 3)]),
    st.integers(-60, 60),
    st.data(),
)
def test_no_other_count_is_nearer(
    runs: int, per_run: int, depth: tuple[int, int], more: int, data: st.DataObject
) -> None:
    """Averages lie 1 + K (C - 1) / L apart at most, with two runs two: half of that is how far one can be off."""
    layers, cut = depth
    site = Site(max(2 * runs, runs * per_run + more), ("encoder", cut), layers, runs, per_run)
    low, high = reach("flowcut", site)
    keep = data.draw(st.integers(low, high))
    schedule = make_schedule("flowcut", keep, site)
    every = [Schedule(halved(rows, site), keep, site.tokens, 0).average for rows in range(1, 2 * keep + 3)]
    off = abs(schedule.average - keep)
    assert off == pytest.approx(min(abs(average - keep) for average in every))
    assert off <= max(1.0 if runs == 2 else 0.0, (1 + cut * (runs - 1) / layers) / 2) + 1e-9
    early, late = schedule.stages
    assert 1 <= early.keep < per_run and 1 <= late.keep <= early.rows < site.tokens
