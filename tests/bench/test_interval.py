"""Intervals against their definition: every order of two groups, counted; and how often they hold the truth."""

from __future__ import annotations

import math
import random
from itertools import combinations, product
from statistics import median

import pytest

from edgeprune.bench.interval import Interval, ratio_interval


def by_definition(old: list[float], new: list[float]) -> Interval:
    """From all pairwise ratios and all orders in which the two groups can lie."""
    ratios = sorted(after / before for before, after in product(old, new))
    m, n = len(old), len(new)
    sums = [sum(place - index for index, place in enumerate(order)) for order in combinations(range(m + n), n)]
    rank = max(c for c in range(m * n) if sum(u < c for u in sums) <= 0.025 * len(sums))
    logs = [math.log(ratio) for ratio in ratios]
    ends = (None, None) if rank == 0 else (ratios[rank - 1], ratios[-rank])
    return Interval(math.exp(median(logs)), *ends)


def test_four_against_four_by_hand() -> None:
    # 70 orders; U = 0 in one of them, U <= 1 in two: 1/70 is below 2.5% and 2/70 is not, so C = 1, both extremes.
    found = ratio_interval([1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 64.0, 128.0])
    assert found == Interval(16.0, 2.0, 128.0)


def test_three_against_three_has_no_interval() -> None:
    # 20 orders: even U = 0 is 5%, and both tails together 10%.
    assert ratio_interval([1.0, 2.0, 4.0], [8.0, 16.0, 32.0]) == Interval(8.0, None, None)
    assert ratio_interval([1.0], [3.0]) == Interval(3.0, None, None)


def test_one_against_very_many_has_no_interval() -> None:
    """The normal approximation would begin below the first pair."""
    found = ratio_interval([1.0], [1.0 + place / 1000 for place in range(2501)])
    assert (found.low, found.high) == (None, None)


@pytest.mark.parametrize(("m", "n"), [(2, 2), (3, 5), (4, 4), (5, 5), (4, 7), (8, 3), (6, 6)])
def test_small_groups_by_the_definition(m: int, n: int) -> None:
    generator = random.Random(m * 100 + n)
    old, new = ([generator.lognormvariate(0, 0.3) for _ in range(size)] for size in (m, n))
    found, expected = ratio_interval(old, new), by_definition(old, new)
    assert found.ratio == pytest.approx(expected.ratio, abs=2e-6)
    assert (found.low is None) == (expected.low is None)
    if expected.low is not None:
        assert found.low == pytest.approx(expected.low, abs=2e-6)
        assert found.high == pytest.approx(expected.high, abs=2e-6)


def test_ties_count_as_often_as_they_are() -> None:
    assert ratio_interval([2.0] * 5, [2.0] * 5) == Interval(1.0, 1.0, 1.0)
    assert ratio_interval([1.0, 1.0, 1.0, 1.0, 2.0], [2.0] * 5) == Interval(2.0, 1.0, 2.0)


def test_swapped_groups_have_the_inverse() -> None:
    generator = random.Random(7)
    old, new = ([generator.uniform(5, 9) for _ in range(9)] for _ in range(2))
    one, other = ratio_interval(old, new), ratio_interval(new, old)
    assert one.low is not None
    assert other.high is not None
    assert one.low * other.high == pytest.approx(1.0, abs=1e-5)
    assert one.ratio * other.ratio == pytest.approx(1.0, abs=1e-5)


def test_many_samples_are_close_to_the_exact_rank() -> None:
    """49 x 51 pairs are counted exactly, 51 x 51 by the normal distribution: the intervals are nearly the same."""
    places = [(turn + 0.5) / 51 for turn in range(51)]
    old, new = [math.exp(0.1 * p) for p in places], [1.05 * math.exp(0.1 * p) for p in places]
    exact, normal = ratio_interval(old[1:-1], new), ratio_interval(old, new)
    assert exact.low == pytest.approx(normal.low, abs=1e-3)
    assert exact.high == pytest.approx(normal.high, abs=1e-3)


@pytest.mark.parametrize(("size", "seed"), [(5, 1), (8, 2), (60, 3)])
def test_the_truth_is_inside_as_often_as_promised(size: int, seed: int) -> None:
    """Times with a long tail, as those of a machine; the second group is 7% larger."""
    generator, trials, inside = random.Random(seed), 2000 if size < 60 else 500, 0
    for _ in range(trials):
        old = [10 + generator.expovariate(1.0) for _ in range(size)]
        new = [1.07 * (10 + generator.expovariate(1.0)) for _ in range(size)]
        found = ratio_interval(old, new)
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= 1.07 <= found.high
    assert inside / trials >= 0.93
