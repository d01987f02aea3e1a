"""Seconds of a graph on a machine: what its operations take and what its bytes take, the shorter behind the longer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeprune.estimate.cost import Cost, GraphCost
from edgeprune.estimate.machine import Machine

Bound = Literal["FLOPs", "bytes", "launch"]

TTFT = "TTFT"
"""The key of the sum over stages."""
_QUANTISED = ("prefill", "decode")  # stages of the decoder
_ENCODERS = ("vision", "text")


@dataclass(frozen=True)
class Timing:
    """How long, and what that is spent on: operations, bytes, or getting a graph to run at all."""

    seconds: float
    bound: Bound


def time_graph(cost: GraphCost, machine: Machine) -> Timing:
    """One run of one graph."""
    operations, bytes_ = _parts(cost.stage, cost.cost, machine)
    launch = machine.efficiency.launch
    spent: dict[Bound, float] = {"FLOPs": operations, "bytes": bytes_, "launch": launch}
    return Timing(_join(operations, bytes_, machine) + launch, max(spent, key=lambda bound: spent[bound]))


def time_stages(costs: Iterable[GraphCost], machine: Machine) -> dict[str, Timing]:
    """Every stage in order of execution, and their sum as "TTFT"; a stage is bound by what most of its time goes to."""
    timed = [(cost.stage, time_graph(cost, machine)) for cost in costs]
    stages = dict.fromkeys(stage for stage, _ in timed)
    found = {name: _sum([timing for stage, timing in timed if stage == name]) for name in stages}
    return {**found, TTFT: _sum([timing for _, timing in timed])}


def _sum(timings: Sequence[Timing]) -> Timing:
    """One after another."""
    spent: dict[Bound, float] = {"FLOPs": 0.0, "bytes": 0.0, "launch": 0.0}
    for timing in timings:
        spent[timing.bound] += timing.seconds
    return Timing(sum(spent.values()), max(spent, key=lambda bound: spent[bound]))


def _parts(stage: str, cost: Cost, machine: Machine) -> tuple[float, float]:
    """Seconds of the operations alone, and of the bytes alone."""
    shares = machine.efficiency
    peak = machine.flops if stage in _QUANTISED else machine.element_flops
    share = shares.vision if stage in _ENCODERS else shares.prefill
    return cost.flops / (peak * share), cost.bytes / (machine.bandwidth * shares.decode)


def _join(operations: float, bytes_: float, machine: Machine) -> float:
    return max(operations, bytes_) + (1 - machine.efficiency.overlap) * min(operations, bytes_)
