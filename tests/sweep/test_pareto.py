"""The front and the recommended cell, on points made by hand."""

from __future__ import annotations

from dataclasses import replace

from edgeprune.sweep.pareto import advise, front, knee
from tests.sweep.sample import point

ALL = point("all", 400, 190, 576.0)  # 95.0% right, of which the interval's lower end is 91.0%


def test_the_front_is_what_no_other_point_beats() -> None:
    points = [ALL, point("a", 200, 185), point("b", 100, 180), point("worse", 210, 184), point("slower", 110, 180)]
    assert front(points) == ("b", "a", "all")


def test_points_that_are_alike_are_both_on_the_front() -> None:
    assert front([point("a", 100, 180), point("b", 100, 180), point("c", 100, 179)]) == ("a", "b")


def test_a_point_without_an_accuracy_neither_beats_nor_is_on_the_front() -> None:
    assert front([ALL, point("a", 200, 185), point("failed", 10, None)]) == ("a", "all")


def test_without_accuracies_tokens_stand_in() -> None:
    points = [point("all", 400, None, 576), point("a", 150, None, 128), point("b", 160, None, 64)]
    assert front(points) == ("a", "all")
    assert front([]) == ()


def test_the_fastest_that_is_good_enough_is_recommended() -> None:
    advice = advise([ALL, point("a", 200, 188), point("b", 100, 183), point("c", 50, 181)])  # 91.5%, 90.5%
    assert advice.recommended == "b"
    assert advice.reason == (
        "b is the fastest cell whose accuracy is not below the lower end of the unpruned model's 95% interval (91.0%): "
        "91.5% right against 95.0% unpruned, first token in 100.0 ms against 400.0 ms (4.00x)."
    )


def test_exactly_the_lower_end_is_good_enough() -> None:
    base = replace(ALL, accuracy=replace(ALL.accuracy, low=0.9)) if ALL.accuracy else ALL
    assert advise([base, point("a", 100, 180)]).recommended == "a"
    assert advise([base, point("a", 100, 179)]).recommended == "all"


def test_of_cells_as_fast_the_more_accurate_then_the_smaller_then_the_first_is_taken() -> None:
    fast = point("fast", 100, 184)
    assert advise([ALL, fast, point("better", 103, 188)]).recommended == "better"
    assert (
        "better is the most accurate of the 2 fastest cells (within 3%) whose accuracy is not below"
        in advise([ALL, fast, point("better", 103, 188)]).reason
    )
    assert advise([ALL, fast, point("later", 104, 188)]).recommended == "fast"
    assert advise([ALL, fast, point("small", 101, 184, 32.0)]).recommended == "small"
    assert advise([ALL, fast, point("same", 100, 184)]).recommended == "fast"


def test_all_tokens_where_nothing_good_enough_is_faster() -> None:
    for other in (point("slow", 500, 195), point("same", 390, 195), point("bad", 50, 100), point("none", 50, None)):
        advice = advise([ALL, other])
        assert advice.recommended == "all"
        assert advice.reason.startswith("Keep all tokens: no cell whose accuracy reaches the lower end")


def test_questions_that_the_unpruned_model_cannot_answer_recommend_nothing() -> None:
    """Its interval begins at 0%: without this the fastest cell would win, whatever it answers."""
    advice = advise([point("all", 400, 0, 576.0), point("a", 100, 0)])
    assert advice.recommended is None
    assert "the unpruned model answers no question right (200 asked)" in advice.reason


def test_few_questions_are_named_as_a_doubt() -> None:
    few = [point("all", 400, 19, 576.0, asked=20), point("a", 100, 18, asked=20)]
    assert "With 20 questions the interval is wide (± 11.4 points)" in advise(few).reason
    assert "wide" not in advise([ALL, point("a", 100, 188)]).reason


def test_a_floor_is_named_as_a_doubt() -> None:
    floor = replace(point("random 64", 100, 188), floor=True)
    assert "It chooses without looking at the picture" in advise([ALL, floor]).reason
    assert "without looking" not in advise([ALL, floor, point("a", 50, 188)]).reason


def test_noisy_times_are_named_as_a_doubt() -> None:
    noisy = replace(point("a", 100, 188), noise=0.4)
    assert "The times are noisy (90th percentile up to 40% above the median)" in advise([ALL, noisy]).reason
    assert "noisy" in advise([replace(ALL, noise=0.2), point("a", 100, 188)]).reason
    assert "noisy" not in advise([ALL, point("a", 100, 188), replace(point("b", 200, 188), noise=0.4)]).reason


def test_without_an_unpruned_model_nothing_is_recommended() -> None:
    assert advise([]).recommended is None
    assert "the unpruned model could not be measured" in advise([point("a", 100, 188)]).reason
    lame = advise([point("all", 400, None), point("a", 100, 188)])
    assert lame.recommended is None
    assert "the unpruned model's accuracy could not be measured" in lame.reason


def test_without_accuracies_the_knee_is_named_and_nothing_recommended() -> None:
    points = [
        point("all", 400, None, 576),
        point("192", 160, None, 192),
        point("64", 100, None, 64),
        point("32", 98, None, 32),
    ]
    advice = advise(points)
    assert advice.recommended is None
    assert advice.reason.startswith("Nothing is recommended: accuracy decides, and none was measured: give --eval N")
    assert "Fewer tokens than 64 has (64 on average, first token in 100.0 ms) save at most 10%" in advice.reason
    assert "the fastest cell is 32 with 98.0 ms" in advice.reason
    assert "take 30.0 ms of the fastest cell's time (31%), 30.0 ms of the unpruned model's (8%)" in advice.reason


def test_the_knee_is_the_most_tokens_within_ten_percent_of_the_shortest_time() -> None:
    points = [
        point("a", 110, None, 128),
        point("b", 111, None, 192),
        point("c", 100, None, 32),
        point("d", 105, None, 128),
    ]
    assert knee(points).name == "d"
    assert knee(points[:1]).name == "a"
    flat = [point("all", 105, None, 576), point("a", 100, None, 64)]
    assert "No budget is more than 10% faster to the first token than all tokens." in advise(flat).reason
