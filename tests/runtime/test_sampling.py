"""Greedy choice, and draws whose distribution is that of Transformers' logits warpers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeprune.errors import BackendError, UsageError
from edgeprune.runtime.sampling import Sampler, Sampling, probabilities

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers.generation.logits_process import (  # noqa: E402
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


def random_logits(rows: int, vocabulary: int, seed: int = 0) -> NDArray[np.float32]:
    """Distinct values, so that no filter meets a tie."""
    stream = np.random.default_rng(seed)
    steps = np.stack([stream.permutation(vocabulary) for _ in range(rows)])
    return (steps * (12 / vocabulary) - 3).astype(np.float32)


def reference(logits: NDArray[np.float32], sampling: Sampling) -> NDArray[np.float64]:
    scores = torch.from_numpy(logits.astype(np.float64))
    scores = TemperatureLogitsWarper(float(sampling.temperature))(None, scores)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    chances: NDArray[np.float64] = scores.softmax(dim=-1).numpy()
    return chances


def test_greedy_takes_the_lowest_of_equal_ids() -> None:
    logits = np.array([[1, 3, 3, 0], [5, 5, 5, 5], [-np.inf, -1, -2, -np.inf]], np.float32)
    picked = Sampler(Sampling(), rows=3).pick(logits)
    assert picked.dtype == np.int64
    assert picked.tolist() == [1, 0, 1]


@pytest.mark.parametrize("temperature", [0.1, 0.7, 1, 3.0])
@pytest.mark.parametrize("top_k", [0, 1, 5, 1000])
@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.9, 1.0])
def test_distribution_is_that_of_transformers(temperature: float, top_k: int, top_p: float) -> None:
    sampling = Sampling(temperature, top_p, top_k)
    logits = random_logits(3, 60)
    np.testing.assert_allclose(probabilities(logits, sampling), reference(logits, sampling), rtol=1e-9, atol=1e-15)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    temperature=st.floats(0.05, 5),
    top_p=st.floats(0.02, 0.99),
    top_k=st.integers(0, 40),
)
def test_any_distribution_is_that_of_transformers(seed: int, temperature: float, top_p: float, top_k: int) -> None:
    sampling = Sampling(temperature, top_p, top_k)
    logits = random_logits(1, 40, seed)
    ours = probabilities(logits, sampling)
    np.testing.assert_allclose(ours, reference(logits, sampling), rtol=1e-9, atol=1e-15)
    assert ours.sum() == pytest.approx(1)


def test_ties_at_the_edge_of_top_k_all_stay() -> None:
    logits = np.array([[4, 2, 2, 1]], np.float32)
    sampling = Sampling(1.0, top_k=2)
    ours = probabilities(logits, sampling)
    assert np.flatnonzero(ours[0]).tolist() == [0, 1, 2]
    np.testing.assert_allclose(ours, reference(logits, sampling))


def test_ties_at_the_edge_of_top_p_leave_the_lowest_ids() -> None:
    ours = probabilities(np.zeros((1, 8), np.float32), Sampling(1.0, top_p=0.3))
    assert np.flatnonzero(ours[0]).tolist() == [0, 1, 2]


def test_draws_follow_the_distribution() -> None:
    sampling = Sampling(1.0, seed=3)
    logits = np.array([[np.log(0.5), -np.inf, np.log(0.3), np.log(0.2)]], np.float32)
    sampler = Sampler(sampling, rows=1)
    drawn = np.array([sampler.pick(logits)[0] for _ in range(4000)])
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    assert shares[1] == 0
    np.testing.assert_allclose(shares, [0.5, 0, 0.3, 0.2], atol=0.03)


def test_a_seed_repeats_and_rows_are_independent() -> None:
    def draws(seed: int | None, rows: int) -> list[list[int]]:
        sampler = Sampler(Sampling(1.0, seed=seed), rows)
        return [sampler.pick(np.zeros((rows, 1000), np.float32)).tolist() for _ in range(8)]

    assert draws(7, 2) == draws(7, 2)
    assert draws(7, 2) != draws(8, 2)
    assert draws(None, 2) != draws(None, 2)
    assert [step[0] for step in draws(7, 1)] == [step[0] for step in draws(7, 3)]
    assert [step[0] for step in draws(7, 2)] != [step[1] for step in draws(7, 2)]


@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 1e-3])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    logits = random_logits(2, 50)
    picked = Sampler(Sampling(temperature), rows=2).pick(logits)
    assert picked.tolist() == logits.argmax(axis=1).tolist()


def test_extreme_logits_do_not_overflow() -> None:
    logits = np.array([[3e38, -3e38, 3e38]], np.float32)
    np.testing.assert_allclose(probabilities(logits, Sampling(0.5)), [[0.5, 0, 0.5]])


@pytest.mark.parametrize("peak", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0)])
def test_broken_logits_are_an_error(peak: float, sampling: Sampling) -> None:
    logits = np.zeros((2, 4), np.float32)
    logits[1] = -np.inf
    logits[1, 2] = peak
    with pytest.raises(BackendError, match="largest logit of row 1 is"):
        Sampler(sampling, rows=2).pick(logits)


def test_another_number_of_rows_is_an_error() -> None:
    with pytest.raises(BackendError, match=r"shape \(3, 4\), expected 2 rows"):
        Sampler(Sampling(), rows=2).pick(np.zeros((3, 4), np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -0.1}, r"--temperature is -0\.1, expected a number from 0"),
        ({"temperature": float("nan")}, "--temperature is nan"),
        ({"temperature": float("inf")}, "--temperature is inf"),
        ({"temperature": "1"}, "--temperature is '1'"),
        ({"temperature": 1.0, "top_p": 0.0}, r"--top-p is 0\.0, expected a number above 0 and at most 1"),
        ({"temperature": 1.0, "top_p": 1.5}, r"--top-p is 1\.5"),
        ({"temperature": 1.0, "top_k": -1}, "--top-k is -1, expected an integer from 0"),
        ({"temperature": 1.0, "top_k": 1.5}, r"--top-k is 1\.5"),
        ({"temperature": 1.0, "seed": -1}, "--seed is -1, expected an integer from 0"),
        ({"temperature": 1.0, "seed": True}, "--seed is True"),
        ({"top_p": 0.9}, r"^--top-p has no effect at temperature 0: add --temperature 0\.7$"),
        ({"top_k": 5}, "--top-k has no effect"),
        ({"seed": 0}, "--seed has no effect"),
    ],
)
def test_sampling_validates_itself(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Sampling(**changes)


def test_sampling_prints_as_the_code_that_makes_it() -> None:
    sampling = Sampling(0.7, 0.9, 40, 3)
    assert eval(repr(sampling)) == sampling
