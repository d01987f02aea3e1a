"""A report made by hand."""

from __future__ import annotations

from dataclasses import replace

from edgeprune.bench.host import Host
from edgeprune.bench.report import (
    BenchReport,
    Ceiling,
    Comparison,
    Conditions,
    Energy,
    Engine,
    Memory,
    Prediction,
    Spread,
    Variant,
)
from edgeprune.bench.targets import judge
from edgeprune.power.state import DeviceState

HOST = Host("Test CPU", 2, 8_000_000_000, False, 1e11, 2e10, {"python": "3.11.0", "onnxruntime": "1.30.0"})


def variant(
    name: str, prefill_ms: float, itl_ms: float, decoder_flops: int, step_bytes: int, engine: Engine = "chain"
) -> Variant:
    chain = engine == "chain"
    stages = {
        "preprocess": Spread(5.0, 6.0),
        "vision": Spread(50.0, 55.0),
        "project": Spread(1.5, 2.0),
        "prefill": Spread(prefill_ms, prefill_ms * 1.1),
    }
    ceiling = Ceiling("prefill", decoder_flops, 10**8, "FLOPs", 40.0, prefill_ms, 40.0 / prefill_ms)
    return Variant(
        name=name,
        engine=engine,
        dtype="fp32",
        tokens=(96, 70, 52, 38) if name == "keep=64" else (576,),
        average=64.0 if name == "keep=64" else 576.0,
        stages=stages,
        pruning=Spread(7.0, 8.0) if chain and name != "keep=all" else None,
        ttft=Spread(prefill_ms + 60, prefill_ms + 70),
        itl=Spread(itl_ms, itl_ms * 1.2),
        prefill_overhead=Spread(0.5, 0.6) if chain else None,
        decode_overhead=Spread(0.05, 0.06) if chain else None,
        decoder_flops=decoder_flops,
        prompt_flops=decoder_flops + 10**9,
        step_bytes=step_bytes,
        ceilings=(ceiling,),
    )


def metered(report: BenchReport) -> BenchReport:
    """The same report from a board with sensors."""
    state = DeviceState(
        "Test Board", "INA3221 (VDD_IN)", "15W", None, 306.0, 624.75, False, (), {"cpu": 50.1, "tj": 52}
    )
    energies = {"keep=all": (9.0, 8.5, 9.5, 9.1, 8.9), "keep=64": (4.0, 4.1, 3.9, 4.0, 4.2)}
    variants = tuple(
        replace(v, energy=Energy.of(energies[v.name], [1.0] * 5, [16] * 5) if v.name in energies else None)
        for v in report.variants
    )
    return replace(report, conditions=replace(report.conditions, device=state), variants=variants)


def predicted(report: BenchReport, factor: float = 1.1) -> BenchReport:
    """The same report with predictions that are that much off."""
    variants = tuple(
        replace(
            v,
            predicted=Prediction(
                round(50 * factor, 4),
                round(v.stages["prefill"].median_ms * factor, 4),
                round(v.graphs_ms * factor, 4),
                round(v.itl.median_ms * factor, 4),
            ),
        )
        if v.engine == "chain"
        else v
        for v in report.variants
    )
    return replace(report, variants=variants)


def of_runs(report: BenchReport) -> BenchReport:
    """The same report of a picture in five runs of the encoder, with its keys and values counted."""
    sizes = {"keep=all": 9_000_000, "keep=64": 1_000_000}
    variants = tuple(replace(v, kv_bytes=sizes.get(v.name)) for v in report.variants)
    return replace(report, conditions=replace(report.conditions, runs=5, visual_tokens=2928), variants=variants)


def repeated(report: BenchReport, scale: float = 1.0, repeats: int = 5) -> BenchReport:
    """The same report with the times that its medians stand for, all scaled; 15 steps per repeat."""

    def spread(old: Spread, count: int) -> Spread:
        times = [old.median_ms * scale * (1 + (turn - (count - 1) / 2) / 100) for turn in range(count)]
        return Spread.of([value / 1e3 for value in times])

    variants = tuple(
        replace(
            v,
            stages={name: spread(times, repeats) for name, times in v.stages.items()},
            pruning=spread(v.pruning, repeats) if v.pruning else None,
            ttft=spread(v.ttft, repeats),
            itl=Spread.of(
                [v.itl.median_ms / 1e3 * scale * (1 + turn / 100) for turn in range(repeats) for _ in range(15)]
            ),
        )
        for v in report.variants
    )
    return replace(report, variants=variants)


def report(keep_ms: float = 100.0, all_ms: float = 460.0, eager_itl_ms: float = 20.0) -> BenchReport:
    small = variant("keep=64", keep_ms, 16.0, 10**10, 10**8)
    every = variant("keep=all", all_ms, 17.0, 51 * 10**9, 12 * 10**7)
    eager = variant("eager fp32", 500.0, eager_itl_ms, 51 * 10**9, 12 * 10**7, "eager")
    comparisons = (
        Comparison.between("prefill", small, every),
        Comparison.between("decode", every, eager),
    )
    memory = (
        Memory("keep=all", 1_500_000_000, 1_000_000_000, 50_000_000, 1_700_000_000),
        Memory("keep=64", 1_800_000_000, 1_000_000_000, 50_000_000, 1_700_000_000),
        Memory("eager fp32", 2_000_000_000, 1_000_000_000, 0, None),
    )
    conditions = Conditions("m", "0123456789ab", "fp32", "base", "onnxruntime-cpu", 2, 60, 576, 16, 1, 5, HOST)
    notes = ("bf16: this CPU has no bf16 arithmetic, not run",)
    variants = (every, small, eager)
    targets = judge(variants, comparisons, memory)
    return BenchReport(conditions, variants, comparisons, memory, targets, notes)
