"""Seconds of a graph on a machine: what its operations take and what its bytes take, the shorter behind the longer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeprune.estimate.cost import Cost, GraphCost
from edgeprune.estimate.machine import Machine

TTFT = "TTFT"
"""The key of the sum over stages."""
_QUANTISED = ("prefill", "decode")  # stages of the decoder
_ENCODERS = ("vision", "text")


@dataclass(frozen=True)
class Timing:
    """How long, and which of the two the machine waits for."""

    seconds: float
    bound: Literal["FLOPs", "bytes"]


def time_graph(cost: GraphCost, machine: Machine) -> Timing:
    """One run of one graph."""
    operations, bytes_ = _parts(cost.stage, cost.cost, machine)
    return Timing(_join(operations, bytes_, machine) + machine.efficiency.launch, _bound(operations, bytes_))


def time_stages(costs: Iterable[GraphCost], machine: Machine) -> dict[str, Timing]:
    """Every stage in order of execution, and their sum as "TTFT"; a stage is bound by what most of its time goes to."""
    timed = [(cost.stage, time_graph(cost, machine)) for cost in costs]
    stages = dict.fromkeys(stage for stage, _ in timed)
    found = {name: _sum([timing for stage, timing in timed if stage == name]) for name in stages}
    return {**found, TTFT: _sum([timing for _, timing in timed])}


def _sum(timings: Sequence[Timing]) -> Timing:
    """One after another."""
    by_bound = [sum(timing.seconds for timing in timings if timing.bound == bound) for bound in ("FLOPs", "bytes")]
    return Timing(sum(by_bound), _bound(*by_bound))


def _parts(stage: str, cost: Cost, machine: Machine) -> tuple[float, float]:
    """Seconds of the operations alone, and of the bytes alone."""
    shares = machine.efficiency
    peak = machine.flops if stage in _QUANTISED else machine.element_flops
    share = shares.vision if stage in _ENCODERS else shares.prefill
    return cost.flops / (peak * share), cost.bytes / (machine.bandwidth * shares.decode)


def _join(operations: float, bytes_: float, machine: Machine) -> float:
    return max(operations, bytes_) + (1 - machine.efficiency.overlap) * min(operations, bytes_)


def _bound(operations: float, bytes_: float) -> Literal["FLOPs", "bytes"]:
    return "FLOPs" if operations >= bytes_ else "bytes"
