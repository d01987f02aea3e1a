"""A cell's times under the names, units and statistics of AIPerf's ``profile_export_aiperf.json`` (AIPerf 0.13).

A request is one repeat. AIPerf's definitions: the inter-token latency of a request is the mean over its steps, and
``output_token_throughput_per_user`` its inverse; ``e2e_output_token_throughput`` is tokens over the whole request;
``output_token_throughput`` is one value, all tokens over the time of all requests, which here follow each other; the
standard deviation is of the population.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.bench.measure import Sample

_PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)


@dataclass(frozen=True)
class Metric:
    """One measured quantity of all repeats, in ``unit``."""

    unit: str
    avg: float
    p1: float
    p5: float
    p10: float
    p25: float
    p50: float
    p75: float
    p90: float
    p95: float
    p99: float
    min: float
    max: float
    std: float
    count: int

    @classmethod
    def of(cls, unit: str, values: Sequence[float]) -> Metric:
        """Of at least one value."""
        array = np.asarray(values, np.float64)
        points = {f"p{share}": round(float(np.percentile(array, share)), 4) for share in _PERCENTILES}
        ends = {"min": round(float(array.min()), 4), "max": round(float(array.max()), 4)}
        spread = {"avg": round(float(array.mean()), 4), "std": round(float(array.std()), 4)}
        return cls(unit=unit, count=len(array), **points, **ends, **spread)


@dataclass(frozen=True)
class Total:
    """One value of all repeats together; AIPerf calls it their average, too."""

    unit: str
    avg: float


def metrics(samples: Sequence[Sample], prompt_tokens: int) -> dict[str, Metric | Total]:
    """Every metric of a cell by AIPerf's name.

    Args:
        samples: its repeats, at least one.
        prompt_tokens: text and visual tokens before pruning, which is what a server would count.
    """
    tokens = [1 + len(sample.steps) for sample in samples]
    latency = [sample.ttft + sum(sample.steps) for sample in samples]
    itl = [sum(sample.steps) / len(sample.steps) for sample in samples]
    return {
        "time_to_first_token": Metric.of("ms", [sample.ttft * 1e3 for sample in samples]),
        "time_to_second_token": Metric.of("ms", [sample.steps[0] * 1e3 for sample in samples]),
        "inter_token_latency": Metric.of("ms", [seconds * 1e3 for seconds in itl]),
        "request_latency": Metric.of("ms", [seconds * 1e3 for seconds in latency]),
        "output_token_throughput": Total("tokens/sec", round(sum(tokens) / sum(latency), 4)),
        "e2e_output_token_throughput": Metric.of(
            "tokens/sec/user", [count / seconds for count, seconds in zip(tokens, latency, strict=True)]
        ),
        "output_token_throughput_per_user": Metric.of("tokens/sec/user", [1 / seconds for seconds in itl]),
        "output_sequence_length": Metric.of("tokens", tokens),
        "input_sequence_length": Metric.of("tokens", [prompt_tokens] * len(samples)),
    }
