"""Which budget fits a time to first token: the decision behind ``keep="auto"``.

An estimate gives every request a predicted time, right in its shape and wrong in its scale. Measured times correct it:
a line through (predicted, measured), and above it a margin that nine of ten measurements stay within. Old measurements
fade, so the line follows a machine that becomes slower or faster. Knows no clock, no graph and no file: what it is
told it decides by, the same way every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeprune.errors import BundleError, UsageError

Keep = int | None
"""Average visual tokens, or all of them."""

WINDOW = 96
"""Measurements that are held."""
HALF_LIFE = 24
"""Measurements after which one counts half."""
EARLIER = 0.5
"""What one of an earlier process counts beside one of this: the machine may be in another state by now."""
SHARE = 0.9
"""Of requests that stay within what is promised."""
LEAST_SHARE = 0.5
"""Of requests at the smallest budget; where fewer fit, nothing is chosen."""
FEW, FEW_MARGIN = 10.0, 1.1
"""Below this weight of measurements their spread says little, and the margin is this at least."""
_OFFSETS = (-2.0, -1.4, -1.0, -0.7, -0.4, -0.2, *(step / 10 for step in range(10)))
"""Shares of a usual time that may not depend on the budget; below 0, time grows faster than the prediction."""
_PRIOR = 0.1
"""How strongly the line is drawn to the origin, in measurements: alike ones cannot tell offset from slope."""
_MOST = 2**31
"""No request has more of anything; beyond floats nothing could be predicted."""


@dataclass(frozen=True)
class Asked:
    """What the time of a request depends on beside its budget: text tokens around the picture, and pictures."""

    before: int
    after: int
    pictures: int


@dataclass(frozen=True)
class Sample:
    """A measured request.

    Attributes:
        keep: average visual tokens, null for all.
        before, after, pictures: as of ``Asked``.
        seconds: from prepared pictures to the first token.
        encoder: the part of it in the vision encoder.

    Raises:
        BundleError: a count or a time that nothing can have measured.
    """

    keep: Keep
    before: int
    after: int
    pictures: int
    seconds: float
    encoder: float

    def __post_init__(self) -> None:
        counts = (1 if self.keep is None else self.keep, self.before + 1, self.after + 1, self.pictures)
        if min(counts) < 1 or max(counts) > _MOST or not (0 < self.seconds < math.inf and 0 <= self.encoder < math.inf):
            raise BundleError(f"{self}: expected counts and times of a request")

    @property
    def asked(self) -> Asked:
        """The request without its budget."""
        return Asked(self.before, self.after, self.pictures)


@dataclass(frozen=True)
class Fit:
    """From predicted to measured seconds.

    Attributes:
        offset, slope: of the line through the middle of what was measured.
        ratios: of every measurement to the line, rising, each with its weight.
    """

    offset: float
    slope: float
    ratios: tuple[tuple[float, float], ...]

    def line(self, predicted: float) -> float:
        """Seconds that half of such requests stay within."""
        return self.offset + self.slope * predicted

    def margin(self, share: float) -> float:
        """How many times the line that share of the measurements stays within; few of them say little."""
        values, weights = zip(*self.ratios, strict=True)
        floor = FEW_MARGIN if sum(weights) < FEW else 1.0
        return max(floor, quantile(values, weights, share))

    def within(self, margin: float) -> float:
        """The share of the measurements that are at most so many times the line."""
        return sum(weight for ratio, weight in self.ratios if ratio <= margin) / sum(w for _, w in self.ratios)


@dataclass(frozen=True)
class Choice:
    """The budget that was chosen, and the seconds that nine of ten such requests stay within."""

    keep: Keep
    seconds: float


class Auto:
    """Decides for one method of one bundle on one machine.

    Args:
        low, high: the method's reach.
        predict: the estimate's seconds of a request at a budget; must not fall when the budget rises.
        earlier: measured before this process, oldest first.
    """

    def __init__(
        self, low: int, high: int, predict: Callable[[Keep, Asked], float], earlier: Sequence[Sample] = ()
    ) -> None:
        self.low, self.high = low, high
        self._predict = predict
        self._samples = [(sample, EARLIER) for sample in earlier[-WINDOW:]]
        self._fit: Fit | None = None

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What it decides by, oldest first."""
        return tuple(sample for sample, _ in self._samples)

    def add(self, sample: Sample) -> None:
        """Learn from a request; not from the first of a process, which pays for what later ones find done."""
        self._samples = [*self._samples, (sample, 1.0)][-WINDOW:]
        self._fit = None

    def choose(self, asked: Asked, limit: float, possible: Callable[[Keep], bool] = lambda keep: True) -> Choice | None:
        """The largest budget that fits.

        Args:
            asked: the request.
            limit: seconds it may take.
            possible: whether a budget can run at all; must not become true when the budget rises.

        Returns:
            The largest budget within which nine of ten requests stay; where a busy machine breaks any budget more often
            than that, the largest that breaks it no more often than the smallest does. None if half of the requests
            would take longer even at the smallest.
        """
        fit = self.fit()
        least = fit.line(self._predict(self.low, asked))
        within = fit.within(limit / least)
        if within < LEAST_SHARE:
            return None
        most = (limit / fit.margin(min(SHARE, within)) - fit.offset) / fit.slope

        free = possible(None)  # and with it everything

        def fits(keep: Keep) -> bool:
            return self._predict(keep, asked) <= most and (free or possible(keep))

        if free and fits(None):
            return Choice(None, self.safe(None, asked))
        low, high = self.low, self.high + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return Choice(low, self.safe(low, asked))

    def likely(self, keep: Keep, asked: Asked) -> float:
        """Seconds that half of such requests stay within."""
        return self.fit().line(self._predict(keep, asked))

    def safe(self, keep: Keep, asked: Asked) -> float:
        """Seconds that nine of ten such requests stay within."""
        return self.fit().margin(SHARE) * self.likely(keep, asked)

    def fit(self) -> Fit:
        """What the measurements give now; there must be one at least."""
        if self._fit is None:
            points = [(self._predict(sample.keep, sample.asked), sample.seconds) for sample, _ in self._samples]
            newest = len(points) - 1
            weights = [weight * 0.5 ** ((newest - i) / HALF_LIFE) for i, (_, weight) in enumerate(self._samples)]
            self._fit = fit_line(points, weights)
        return self._fit


def fit_line(points: Sequence[tuple[float, float]], weights: Sequence[float]) -> Fit:
    """The line with the least relative error, absolute and not squared: single slow requests do not move it.

    Args:
        points: (predicted, measured) seconds, at least one.
        weights: what each counts.
    """
    usual = quantile([seconds for _, seconds in points], weights, 0.5)
    best, least = (0.0, 1.0), math.inf
    for share in _OFFSETS:
        offset = share * usual
        slope = quantile([(seconds - offset) / predicted for predicted, seconds in points], weights, 0.5)
        line = [offset + slope * predicted for predicted, _ in points]
        if slope <= 0 or offset + slope * min(predicted for predicted, _ in points) / 2 <= 0:
            continue  # even smaller budgets take time
        errors = [abs(found - seconds) / seconds for found, (_, seconds) in zip(line, points, strict=True)]
        cost = sum(w * error for w, error in zip(weights, errors, strict=True)) + _PRIOR * abs(share)
        if cost < least:
            best, least = (offset, slope), cost
    offset, slope = best
    ratios = [
        (seconds / (offset + slope * predicted), w) for (predicted, seconds), w in zip(points, weights, strict=True)
    ]
    return Fit(offset, slope, tuple(sorted(ratios)))


def quantile(values: Sequence[float], weights: Sequence[float], share: float) -> float:
    """The smallest value such that those up to it have that share of the weight."""
    reached, total = 0.0, sum(weights)
    ordered = sorted(zip(values, weights, strict=True))
    for value, weight in ordered:
        reached += weight
        if reached >= share * total - 1e-12 * total:
            return value
    return ordered[-1][0]


def is_auto(keep: int | str) -> bool:
    """Whether a budget is left to be chosen."""
    return str(keep).strip().lower() == "auto"


def check_words(keep: int | str, ttft_budget_ms: float | None) -> None:
    """Refuse a time without ``keep="auto"``, and the reverse.

    Raises:
        UsageError: one without the other, or a time that is not positive.
    """
    if ttft_budget_ms is None:
        if is_auto(keep):
            raise UsageError("--keep auto needs the time to first token it is to fit: --ttft-budget 150ms")
        return
    if not is_auto(keep):
        raise UsageError(f"--ttft-budget {ttft_budget_ms:g}ms has no effect with --keep {keep}: give --keep auto")
    if not 0 < ttft_budget_ms < math.inf:
        raise UsageError(f"--ttft-budget is {ttft_budget_ms:g}ms, expected more than 0")
