"""How many times larger one group of measurements is than another, and how sure that is, without assuming a shape.

Hodges and Lehmann's estimate: the median of all pairwise ratios. Its interval holds the ratios that Wilcoxon's
rank-sum test does not reject (Hollander, Wolfe and Chicken, Nonparametric Statistical Methods, 3rd ed., section 4.3):
of the sorted pairwise ratios those from number C to number C from the end, C from the exact distribution of the rank
sum, or from its normal approximation where the groups are large. Ratios are worked on as differences of logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

CONFIDENCE = 0.95
_NORMAL = 1.959963984540054  # the normal distribution's point for CONFIDENCE, two-sided
_EXACT_PAIRS = 2500  # above as many pairs the normal approximation is as good, and faster
_RESOLUTION = 1e-12  # of a logarithm; times come with four digits


@dataclass(frozen=True)
class Interval:
    """A ratio and where it lies with at least 95% confidence; ``low`` and ``high`` are None for too few samples."""

    ratio: float
    low: float | None
    high: float | None


def ratio_interval(old: Sequence[float], new: Sequence[float]) -> Interval:
    """How many times larger ``new`` is than ``old``; every value is positive, and either has at least one."""
    before, after = sorted(map(math.log, old)), sorted(map(math.log, new))
    pairs = len(before) * len(after)
    middle = [_difference(before, after, rank) for rank in ((pairs + 1) // 2, pairs // 2 + 1)]
    ratio = round(math.exp(sum(middle) / 2), 6)
    rank = _rank(len(before), len(after))
    if rank == 0:
        return Interval(ratio, None, None)
    low, high = (_difference(before, after, number) for number in (rank, pairs + 1 - rank))
    return Interval(ratio, round(math.exp(low), 6), round(math.exp(high), 6))


def _rank(m: int, n: int) -> int:
    """C: the most with P(U < C) <= 2.5% where both groups are alike; 0 where not even P(U = 0) is so small."""
    tail = (1 - CONFIDENCE) / 2
    if m * n > _EXACT_PAIRS:
        spread = math.sqrt(m * n * (m + n + 1) / 12)
        return max(0, math.floor(m * n / 2 + 0.5 - _NORMAL * spread))  # half a step of continuity correction
    allowed, seen, rank = tail * math.comb(m + n, n), 0, 0
    for count in _rank_sum_counts(m, n):
        seen += count
        if seen > allowed:
            return rank
        rank += 1
    return rank


@lru_cache(maxsize=64)
def _rank_sum_counts(m: int, n: int) -> tuple[int, ...]:
    """Of all orders of m and n values, how many have U = 0, 1, ..., m n; U counts the pairs where the second is less.

    The Gaussian binomial coefficient: the product over i = 1..n of (1 - q^(m + i)) / (1 - q^i), factor by factor.
    """
    size = m * n + 1
    counts = [1] + [0] * (size - 1)
    for i in range(1, n + 1):
        for u in range(size - 1, m + i - 1, -1):
            counts[u] -= counts[u - m - i]
        for u in range(i, size):
            counts[u] += counts[u - i]
    return tuple(counts)


def _difference(before: Sequence[float], after: Sequence[float], rank: int) -> float:
    """The difference ``after - before`` with number ``rank`` of all pairs in rising order, counted from 1.

    Found by halving, so that a hundred thousand pairs need no list; both groups are sorted.
    """
    low, high = after[0] - before[-1] - _RESOLUTION, after[-1] - before[0]
    while high - low > _RESOLUTION:
        middle = (low + high) / 2
        if _pairs_up_to(before, after, middle) >= rank:
            high = middle
        else:
            low = middle
    return high


def _pairs_up_to(before: Sequence[float], after: Sequence[float], most: float) -> int:
    count = place = 0
    for value in before:
        while place < len(after) and after[place] - value <= most:
            place += 1
        count += place
    return count
