"""From logits to the next token of every row: the largest one, or a draw.

Temperature, top-k and top-p apply in this order, as in Transformers' ``generate``. Knows nothing about text:
it sees numbers and returns token ids.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import BackendError, UsageError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the default takes the most likely one every time.

    Attributes:
        temperature: 0 takes the largest logit; above, logits are divided by it before a draw.
        top_p: draws only from the likeliest tokens that together reach this probability, in (0, 1]; 1 is off.
        top_k: draws only from this many of the likeliest tokens; 0 is off.
        seed: makes draws repeatable; None draws differently every time.

    Raises:
        UsageError: a value is out of range, or has no effect because ``temperature`` is 0.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        heat = self.temperature
        _require(_is_number(heat) and heat >= 0, "temperature", heat, "a number from 0")
        share = self.top_p
        _require(_is_number(share) and 0 < share <= 1, "top-p", share, "a number above 0 and at most 1")
        _require(_is_count(self.top_k), "top-k", self.top_k, "an integer from 0")
        _require(self.seed is None or _is_count(self.seed), "seed", self.seed, "an integer from 0")
        if heat == 0:
            given = {"top-p": self.top_p != 1, "top-k": self.top_k != 0, "seed": self.seed is not None}
            for name in (name for name, is_given in given.items() if is_given):
                raise UsageError(f"--{name} has no effect at temperature 0: add --temperature 0.7")


class Sampler:
    """Chooses one token per row and step; every row draws from its own stream of (seed, row).

    A row's draws therefore do not depend on how many rows run beside it.

    Args:
        sampling: how to choose.
        rows: the number of rows B that ``pick`` will be given.
    """

    def __init__(self, sampling: Sampling, rows: int) -> None:
        self._sampling = sampling
        seeds = [None if sampling.seed is None else (sampling.seed, row) for row in range(rows)]
        self._streams = [np.random.default_rng(seed) for seed in seeds]

    def pick(self, logits: NDArray[np.float32]) -> NDArray[np.int64]:
        """Choose the next token of every row.

        Args:
            logits: float32 [B, vocabulary]; -inf excludes a token.

        Returns:
            int64 [B]. At temperature 0 the lowest id wins a tie.

        Raises:
            BackendError: a row's largest logit is NaN or infinite, or the number of rows is another one.
        """
        if logits.ndim != 2 or len(logits) != len(self._streams):
            raise BackendError(f"logits have shape {logits.shape}, expected {len(self._streams)} rows of a vocabulary")
        _check_finite(logits)
        if self._sampling.temperature == 0:
            return np.asarray(np.argmax(logits, axis=1), np.int64)
        chances = probabilities(logits, self._sampling)
        drawn = [_draw(row, stream) for row, stream in zip(chances, self._streams, strict=True)]
        return np.array(drawn, np.int64)


def probabilities(logits: NDArray[np.float32], sampling: Sampling) -> NDArray[np.float64]:
    """The distribution that ``Sampler.pick`` draws from at a temperature above 0.

    Args:
        logits: float32 [B, vocabulary] with a finite largest value in every row.
        sampling: with ``temperature`` above 0.

    Returns:
        float64 [B, vocabulary]; rows add up to 1, filtered tokens are exactly 0.
    """
    peak = logits.max(axis=1, keepdims=True).astype(np.float64)
    with np.errstate(over="ignore"):  # the peak is 0, so a tiny temperature overflows only towards -inf
        scores = (logits - peak) / sampling.temperature
    if 0 < sampling.top_k < scores.shape[1]:
        scores = _keep_top_k(scores, sampling.top_k)
    if sampling.top_p < 1:
        scores = _keep_top_p(scores, sampling.top_p)
    return _softmax(scores)


def _keep_top_k(scores: NDArray[np.float64], top_k: int) -> NDArray[np.float64]:
    """Ties with the k-th largest score all stay, as in Transformers."""
    threshold = np.partition(scores, -top_k, axis=1)[:, -top_k, None]
    return np.where(scores < threshold, -np.inf, scores)


def _keep_top_p(scores: NDArray[np.float64], top_p: float) -> NDArray[np.float64]:
    """Drop the least likely tokens that add up to at most 1 - top_p; of equal ones the lowest id stays."""
    last = scores.shape[1] - 1
    ascending = last - np.argsort(scores[:, ::-1], axis=1, kind="stable")
    below = np.cumsum(_softmax(np.take_along_axis(scores, ascending, axis=1)), axis=1)
    drop_sorted = below <= 1 - top_p
    drop_sorted[:, -1] = False  # the likeliest token always stays
    drop = np.zeros_like(drop_sorted)
    np.put_along_axis(drop, ascending, drop_sorted, axis=1)
    return np.where(drop, -np.inf, scores)


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return chances


def _draw(chances: NDArray[np.float64], stream: np.random.Generator) -> int:
    candidates = np.flatnonzero(chances)
    below = np.cumsum(chances[candidates])
    place = np.searchsorted(below, stream.random() * below[-1], side="right")
    return int(candidates[min(int(place), len(candidates) - 1)])  # the product can round up to the total


def _check_finite(logits: NDArray[np.float32]) -> None:
    peaks = logits.max(axis=1)
    if np.isfinite(peaks).all():
        return
    row = int(np.flatnonzero(~np.isfinite(peaks))[0])
    raise BackendError(
        f"the largest logit of row {row} is {peaks[row]}, expected a number: the graph overflowed; "
        "export it in a wider precision"
    )


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise UsageError(f"--{name} is {value!r}, expected {expected}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
