"""Rates of targets and calibrations, and the roofline on them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeprune.errors import UsageError
from edgeprune.estimate.calibration import Calibration
from edgeprune.estimate.cost import Cost, GraphCost
from edgeprune.estimate.machine import (
    SYSTEM_RESERVE,
    Efficiency,
    Machine,
    class_of,
    efficiency_of,
    machine_of_calibration,
    machine_of_target,
)
from edgeprune.estimate.precision import PRECISIONS, precision
from edgeprune.estimate.roofline import TTFT, time_graph, time_stages
from edgeprune.recipes import target as targets

SHARES = Efficiency(vision=0.5, prefill=0.25, decode=0.5, overlap=1.0, launch=0.01)
MACHINE = Machine("m", "M", None, 400.0, 20.0, SHARES, 0.2, 0, 100.0)


def test_a_target_is_a_machine() -> None:
    target = targets.load("orin-agx-64gb")
    machine = machine_of_target(target, precision("int4"))
    assert (machine.name, machine.device) == ("orin-agx-64gb", "NVIDIA Jetson AGX Orin 64GB")
    assert (machine.flops, machine.element_flops, machine.bandwidth) == (42.5e12, 42.5e12, 204.8e9)
    assert (machine.memory, machine.reserve) == (64 << 30, SYSTEM_RESERVE)
    assert machine_of_target(targets.load("h200"), precision("fp16")).reserve == 0


def test_what_is_quantised_runs_at_its_own_rate() -> None:
    thor = targets.load("thor-t5000")
    machine = machine_of_target(thor, precision("nvfp4"))
    assert (machine.flops, machine.element_flops) == (1035e12, 258e12)
    cost = Cost(flops=10**12)
    decoder, encoder = (time_graph(GraphCost("g", stage, cost), machine) for stage in ("prefill", "project"))
    share = machine.efficiency.prefill
    assert decoder.seconds - machine.efficiency.launch == pytest.approx(1 / (1035 * share))
    assert encoder.seconds - machine.efficiency.launch == pytest.approx(1 / (258 * share))


@pytest.mark.parametrize("name", targets.names())
def test_every_target_has_a_class_and_refuses_what_it_has_no_rate_for(name: str) -> None:
    target = targets.load(name)
    for held in PRECISIONS.values():
        shares, band = efficiency_of(class_of(target, held))
        assert all(0 < share <= 1 for share in (shares.vision, shares.prefill, shares.decode))
        assert 0 <= shares.overlap <= 1 and 0 <= shares.launch < 0.01 and 0 < band < 1
        if held.math in target.flops and (held.element == 4 or "fp16" in target.flops):
            assert machine_of_target(target, held).flops == target.flops[held.math]
        else:
            with pytest.raises(UsageError, match=f"target {name} "):
                machine_of_target(target, held)


def test_the_refusal_names_what_there_is() -> None:
    with pytest.raises(UsageError) as caught:
        machine_of_target(targets.load("orin-nano-8gb"), precision("fp8"))
    assert str(caught.value) == (
        "target orin-nano-8gb has no rate for fp8 (tflops.fp8); it has one for --dtype fp16, int8, int4"
    )
    with pytest.raises(UsageError, match="rtx-portable is several GPUs and has no rates"):
        machine_of_target(targets.load("rtx-portable"), precision("fp16"))


def test_a_calibration_is_a_machine() -> None:
    measured = Calibration("CPU", "onnxruntime-cpu", 2, "fp32", 1.5e11, 2.5e10, {}, "2026-01-01")
    machine = machine_of_calibration(measured)
    assert (machine.name, machine.device, machine.flops, machine.bandwidth) == ("here", "CPU", 1.5e11, 2.5e10)
    assert machine.element_flops == machine.flops
    assert machine.memory is not None and machine.memory > 1 << 28
    assert machine_of_calibration(replace(measured, backend="onnxruntime-cuda")).memory is None


@pytest.mark.parametrize(
    ("stage", "cost", "seconds", "bound"),
    [
        ("vision", Cost(100, 0, 10), 2.0, "FLOPs"),  # of 100 a second half, of 20 bytes half
        ("text", Cost(100, 0, 10), 2.0, "FLOPs"),
        ("project", Cost(100, 0, 10), 4.0, "FLOPs"),
        ("prune", Cost(100, 0, 10), 4.0, "FLOPs"),
        ("prefill", Cost(100, 0, 5), 1.0, "FLOPs"),
        ("decode", Cost(100, 20, 10), 3.0, "bytes"),
        ("prune", Cost(0, 0, 0), 0.0, "launch"),
    ],
)
def test_the_longer_of_operations_and_bytes(stage: str, cost: Cost, seconds: float, bound: str) -> None:
    timing = time_graph(GraphCost("g", stage, cost), MACHINE)
    assert timing.seconds == pytest.approx(seconds + 0.01)
    assert timing.bound == bound


def test_overlap_goes_from_the_sum_to_the_longer() -> None:
    cost = GraphCost("g", "decode", Cost(100, 20, 10))
    for overlap, seconds in ((0.0, 4.0), (0.5, 3.5), (1.0, 3.0)):
        machine = replace(MACHINE, efficiency=replace(SHARES, overlap=overlap))
        assert time_graph(cost, machine).seconds == pytest.approx(seconds + 0.01)


def test_a_stage_waits_for_what_most_of_its_time_goes_to() -> None:
    costs = [GraphCost("a", "prefill", Cost(1000, 0, 60)), GraphCost("b", "prefill", Cost(100, 0, 60))]
    assert [time_graph(cost, MACHINE).bound for cost in costs] == ["FLOPs", "bytes"]  # of 10 and 6 seconds
    assert time_stages(costs, MACHINE)["prefill"].bound == "FLOPs"  # though all bytes take longer than all operations


def test_stages_in_order_and_their_sum() -> None:
    costs = [
        GraphCost("vision", "vision", Cost(100, 0, 10)),
        GraphCost("a", "prefill", Cost(100, 0, 5)),
        GraphCost("prune", "prune", Cost(0, 0, 1)),
        GraphCost("b", "prefill", Cost(10, 100, 0)),
    ]
    stages = time_stages(costs, MACHINE)
    assert [*stages] == ["vision", "prefill", "prune", TTFT]
    assert stages["prefill"].seconds == pytest.approx(1.0 + 10.0 + 0.02)
    assert [stages[name].bound for name in stages] == ["FLOPs", "bytes", "bytes", "bytes"]
    assert stages[TTFT].seconds == pytest.approx(sum(time_graph(cost, MACHINE).seconds for cost in costs))
