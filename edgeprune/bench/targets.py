"""What the project holds itself to, and whether a benchmark reached it."""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.bench.report import Comparison, Memory, Target, Variant

PREFILL_OF_EAGER, DECODE_OF_EAGER = 1.05, 0.90  # at most, of eager fp32's time, unpruned
EFFICIENCY = 0.85  # at least, of the prefill speed-up that the decoder's FLOPs allow
PREFILL_OVERHEAD, DECODE_OVERHEAD = 0.03, 0.07  # at most, above the sum of the graphs
PRUNING = 0.03  # at most, of the unpruned prefill: all graphs of a method together
PREDICTION = 0.20  # at most, between what was predicted and what was measured


def judge(
    variants: Sequence[Variant], comparisons: Sequence[Comparison], memory: Sequence[Memory]
) -> tuple[Target, ...]:
    """Every target that these measurements can judge."""
    return (
        *_speed(comparisons),
        *_pruning(variants),
        *_overhead(variants),
        *_prediction(variants),
        *_memory(memory),
    )


def _speed(comparisons: Sequence[Comparison]) -> list[Target]:
    targets = []
    for stage, limit in (("prefill", PREFILL_OF_EAGER), ("decode", DECODE_OF_EAGER)):
        for c in comparisons:
            if (c.stage, c.variant, c.against) == (stage, "keep=all", "eager fp32"):
                targets.append(_at_most(f"{stage} of keep=all, of eager fp32's time", 1 / c.measured, limit))
    pruned = [c for c in comparisons if c.stage == "prefill" and c.ratio is not None]
    if pruned:
        smallest = max(pruned, key=lambda c: c.allowed or 0.0)
        share = smallest.ratio or 0.0
        name = f"prefill speed-up of {smallest.variant}, of what FLOPs allow"
        targets.append(Target(name, "at least", EFFICIENCY, round(share, 4), share >= EFFICIENCY))
    return targets


def _pruning(variants: Sequence[Variant]) -> list[Target]:
    """What each method's own graphs take, of the unpruned prefill."""
    whole = [v.stages["prefill"].median_ms for v in variants if v.engine == "chain" and v.pruning is None]
    return [
        _at_most(f"graphs of {v.name}, of the unpruned prefill", v.pruning.median_ms / whole[0], PRUNING)
        for v in variants
        if v.pruning is not None and whole
    ]


def _overhead(variants: Sequence[Variant]) -> list[Target]:
    """The chain's worst case: its wall time above the graphs it runs."""
    chains = [variant for variant in variants if variant.engine == "chain"]
    prefill = [
        _share(v.stages["prefill"].median_ms, v.prefill_overhead.median_ms) for v in chains if v.prefill_overhead
    ]
    decode = [_share(v.itl.median_ms, v.decode_overhead.median_ms) for v in chains if v.decode_overhead]
    found = []
    if prefill:
        found.append(_at_most("prefill above the sum of its graphs", max(prefill), PREFILL_OVERHEAD))
    if decode:
        found.append(_at_most("a decode step above the sum of its graphs", max(decode), DECODE_OVERHEAD))
    return found


def _prediction(variants: Sequence[Variant]) -> list[Target]:
    """The variant that was predicted worst; for fp32, in which this machine's rates are measured best."""
    known = [(v, v.predicted) for v in variants if v.dtype == "fp32" and v.predicted]
    pairs = {
        "TTFT": [(predicted.ttft_ms, v.graphs_ms) for v, predicted in known],
        "decode": [(predicted.decode_ms, v.itl.median_ms) for v, predicted in known],
    }
    return [
        _at_most(f"prediction of {name}, off by", max(abs(told / found - 1) for told, found in both), PREDICTION)
        for name, both in pairs.items()
        if both
    ]


def _memory(memory: Sequence[Memory]) -> list[Target]:
    shares = [m.peak_bytes / m.target_bytes for m in memory if m.target_bytes]
    name = "peak memory of run, of 1.3 x weights + 400 MB"
    return [_at_most(name, max(shares), 1.0)] if shares else []


def _share(wall_ms: float, overhead_ms: float) -> float:
    return overhead_ms / (wall_ms - overhead_ms)


def _at_most(name: str, measured: float, limit: float) -> Target:
    return Target(name, "at most", limit, round(measured, 4), measured <= limit)
