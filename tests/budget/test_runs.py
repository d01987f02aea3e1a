"""Budgets of prompts for which the encoder runs several times: the crops of LLaVA-NeXT, the frames of Video-LLaVA."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune import catalog
from edgeprune.budget.schedule import Schedule, Site, make_schedule, reach
from edgeprune.errors import BudgetError


def next_site(method: str, tokens: int = 2880, runs: int = 5) -> Site:
    """A 7B LLaVA-NeXT and a picture of so many crops."""
    return Site(tokens, catalog.card(method).at(32, "tiles"), 32, runs, 576)


def video_site(method: str) -> Site:
    """Video-LLaVA: eight frames, each with its class row."""
    return Site(2056, catalog.card(method).at(32, "frames"), 32, 8, 257, "video")


def counts(schedule: Schedule) -> list[tuple[int, int, int]]:
    """(runs, rows that stay, merged rows), both of one run, per stage."""
    return [(stage.runs, stage.keep - stage.merge, stage.merge) for stage in schedule.stages]


@pytest.mark.parametrize(
    ("keep", "expected", "rows"),
    [
        (640, [(5, 168, 24), (1, 616, 88), (1, 452, 65), (1, 331, 48)], [960, 704, 517, 379]),
        (320, [(5, 84, 12), (1, 308, 44), (1, 225, 33), (1, 166, 24)], [480, 352, 258, 190]),
        (160, [(5, 42, 6), (1, 154, 22), (1, 112, 17), (1, 83, 12)], [240, 176, 129, 95]),
    ],
)
def test_visiondrop_on_the_crops_of_llava_next(
    keep: int, expected: list[tuple[int, int, int]], rows: list[int]
) -> None:
    schedule = make_schedule("visiondrop", keep, next_site("visiondrop"))
    assert counts(schedule) == expected
    assert [stage.rows for stage in schedule.stages] == rows
    assert (schedule.average, schedule.first, schedule.label) == (keep, rows[0], str(keep))
    assert schedule.stages == make_schedule("visiondrop", f"paper:{keep}", next_site("visiondrop")).stages


def test_visiondrop_on_video_begins_with_three_times_the_average() -> None:
    schedule = make_schedule("visiondrop", 256, video_site("visiondrop"))
    assert counts(schedule) == [(8, 84, 12), (1, 169, 25), (1, 42, 7), (1, 10, 2)]
    assert [stage.rows for stage in schedule.stages] == [768, 194, 49, 12]
    assert schedule.first == 3 * 256
    assert (schedule.average, schedule.label) == (255.75, "256")
    assert reach("visiondrop", video_site("visiondrop"))[1] == 2056 // 3


@pytest.mark.parametrize(("keep", "split"), [(640, (108, 20)), (320, (54, 10)), (160, (27, 5))])
def test_visionzip_splits_every_crop_alike(keep: int, split: tuple[int, int]) -> None:
    schedule = make_schedule("visionzip", keep, next_site("visionzip"))
    assert counts(schedule) == [(5, *split)]
    assert (schedule.average, schedule.first, schedule.label) == (keep, keep, str(keep))


@pytest.mark.parametrize("method", ["cdpruner", "vispruner"])
@pytest.mark.parametrize(("keep", "crop"), [(640, 128), (320, 64), (160, 32)])
def test_one_count_before_the_decoder_is_of_every_crop(method: str, keep: int, crop: int) -> None:
    schedule = make_schedule(method, keep, next_site(method))
    assert counts(schedule) == [(5, crop, 0)]
    assert (schedule.average, schedule.label) == (keep, str(keep))


@pytest.mark.parametrize(("keep", "crop", "cut"), [(640, 192, 320), (320, 96, 160), (160, 48, 80)])
def test_vscan_shares_the_first_count_and_cuts_the_sum(keep: int, crop: int, cut: int) -> None:
    schedule = make_schedule("vscan", keep, next_site("vscan"))
    assert counts(schedule) == [(5, crop, 0), (1, cut, 0)]
    assert schedule.average == keep


def test_pyramiddrop_halves_what_enters_the_decoder() -> None:
    """2,880 rows, and 2,928 with the newline rows of a square picture: the released code takes what there is."""
    for keep in (1350, "paper:1350"):
        schedule = make_schedule("pyramiddrop", keep, next_site("pyramiddrop"))
        assert [schedule.tokens, *(stage.rows for stage in schedule.stages)] == [2880, 1440, 720, 360]
        assert (schedule.average, schedule.label) == (1350, "1350")
    with_newlines = make_schedule("pyramiddrop", "paper:1350", next_site("pyramiddrop", tokens=2928))
    assert [stage.rows for stage in with_newlines.stages] == [1464, 732, 366]
    assert with_newlines.first == 2928
    assert with_newlines.average == 1372.5


def test_newline_rows_count_where_nothing_is_pruned_before_the_decoder() -> None:
    schedule = make_schedule("fastv", 640, next_site("fastv", tokens=2928))
    (stage,) = schedule.stages
    assert schedule.average == pytest.approx((2 * 2928 + 30 * stage.rows) / 32)
    assert schedule.first == 2928
    assert make_schedule("visionzip", 640, next_site("visionzip", tokens=2928)).first == 640  # which drops them


def test_what_does_not_divide_is_rounded_per_run_and_said() -> None:
    three, four = (make_schedule("visionzip", 640, next_site("visionzip", 576 * runs, runs)) for runs in (3, 4))
    assert (three.stages[0].keep, three.average, three.asked) == (213, 639, 640)
    assert (four.stages[0].keep, four.average) == (160, 640)
    seven = make_schedule("cdpruner", 100, Site(7 * 256, ("projected",), 24, 7, 256))
    assert (seven.stages[0].keep, seven.average, seven.label) == (14, 98, None)
    drop = make_schedule("visiondrop", 100, Site(7 * 256, ("vision", 8, 16, 24), 32, 7, 256))
    assert [stage.rows for stage in drop.stages] == [147, 110, 81, 59]  # 21 of each; the cuts follow the sum asked for
    assert drop.average == 99.25


def test_several_pictures_share_the_budget() -> None:
    schedule = make_schedule("visiondrop", 64, Site(1152, ("vision", 8, 16, 24), 32, 2, 576))
    assert [(stage.keep, stage.runs) for stage in schedule.stages] == [(48, 2), (70, 1), (52, 1), (38, 1)]
    assert schedule.label is None  # a paper's row for one picture is none for two


def test_beyond_the_range_names_the_range() -> None:
    with pytest.raises(BudgetError, match=r"cannot keep 2000 .* reaches 25\.\.1920 of 2880, or all"):
        make_schedule("visiondrop", 2000, next_site("visiondrop"))
    with pytest.raises(BudgetError, match=r"cannot keep 4 .* reaches 5\.\.2875 of 2880, or all"):
        make_schedule("uniform", 4, next_site("uniform"))
    with pytest.raises(BudgetError, match=r"5 encoder runs; expected 1 or more of each"):
        Site(4, ("vision",), 32, 5)


def test_a_label_of_another_number_of_tokens_is_not_taken() -> None:
    with pytest.raises(BudgetError, match=r"none for 1728 visual tokens \(it has some for 576, 2880\)"):
        make_schedule("visionzip", "paper:640", next_site("visionzip", 1728, 3))


@given(
    st.sampled_from([name for name in catalog.names() if isinstance(catalog.card(name).places[0], str)]),
    st.integers(2, 37),
    st.integers(16, 800),
    st.sampled_from([24, 28, 32, 40]),
    st.sampled_from(["image", "video"]),
    st.integers(-60, 60),
    st.data(),
)
def test_every_reachable_budget_is_held_by_every_run(
    method: str, runs: int, per_run: int, layers: int, medium: str, more: int, data: st.DataObject
) -> None:
    places = catalog.card(method).at(layers, "tiles" if medium == "image" else "frames")
    site = Site(
        max(runs, runs * per_run + more), places, layers, runs, per_run, "video" if medium == "video" else "image"
    )
    try:
        low, high = reach(method, site)
    except BudgetError:
        assert medium == "video" or runs * per_run < 600
        return
    keep = data.draw(st.integers(low, high))
    schedule = make_schedule(method, keep, site)
    early, *late = schedule.stages
    assert early.runs == runs
    assert 1 <= early.keep <= per_run
    assert early.rows == schedule.first <= site.tokens
    rows = early.rows
    for stage in late:
        assert stage.runs == 1
        assert 1 <= stage.rows <= rows
        rows = stage.rows
    assert all(0 <= stage.merge < stage.keep for stage in schedule.stages)
    assert abs(schedule.average - keep) <= 0.5 + runs / 2  # every run's share is rounded
