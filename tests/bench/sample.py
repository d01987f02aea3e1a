"""A report made by hand."""

from __future__ import annotations

from edgeprune.bench.host import Host
from edgeprune.bench.report import (
    BenchReport,
    Ceiling,
    Comparison,
    Conditions,
    Engine,
    Memory,
    Spread,
    Variant,
)
from edgeprune.bench.targets import judge

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
