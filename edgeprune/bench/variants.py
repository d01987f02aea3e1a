"""Times and counts of a variant brought together: its row of the report, its ceilings, its comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgeprune.bench.host import Host
from edgeprune.bench.measure import Samples
from edgeprune.bench.report import Ceiling, Comparison, Energy, Engine, Prediction, Spread, Stage, Variant
from edgeprune.budget.schedule import Schedule
from edgeprune.bundle.manifest import Manifest, MethodEntry
from edgeprune.estimate.cost import GraphCost, total
from edgeprune.estimate.machine import Machine
from edgeprune.estimate.request import Request, prompt_costs, step_costs
from edgeprune.estimate.roofline import TTFT, time_stages

_STAGES = ("preprocess", "vision", "prune", "project", "text", "prefill")
_COMPARED: tuple[Stage, ...] = ("prefill", "decode", "TTFT")


@dataclass(frozen=True)
class PromptSize:
    """Tokens of a prompt before and after its picture, its visual rows unpruned, and runs of the encoder."""

    before: int
    after: int
    visual: int
    runs: int

    @property
    def text(self) -> int:
        """Text tokens."""
        return self.before + self.after


@dataclass(frozen=True)
class Counts:
    """What a variant computes.

    Attributes:
        tokens: visual tokens per stage, of all runs.
        average: over the decoder layers.
        prompt: every graph of the prompt.
        late: those behind the projector, whose wall time is measured as prefill.
        steps: every graph of every decode step.
        step_count: how many steps.
        kv_bytes: keys and values of the prompt in all layers.
    """

    tokens: tuple[int, ...]
    average: float
    prompt: tuple[GraphCost, ...]
    late: tuple[GraphCost, ...]
    steps: tuple[GraphCost, ...]
    step_count: int
    kv_bytes: int

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        prompt: PromptSize,
        method: MethodEntry | None,
        schedule: Schedule | None,
        new_tokens: int,
        chunk: int | None = None,
    ) -> Counts:
        """Count a budget; no method is all tokens. ``chunk`` is the backend's."""
        name = method.name if method else None
        request = Request.of(manifest, prompt.before, prompt.after, name, schedule, prompt.visual, prompt.runs)
        request = replace(request, chunk=chunk)
        graphs = prompt_costs(request)
        cuts = [cut for cut in method.cuts if cut.at == "vision"] if method else []
        early = {name for cut in cuts for name in (cut.graph, cut.kernel)}
        count = new_tokens - 1  # the first token comes from the prompt
        return cls(
            tokens=tuple(stage.rows for stage in schedule.stages) if schedule else (prompt.visual,),
            average=round(schedule.average, 2) if schedule else float(prompt.visual),
            prompt=graphs,
            late=tuple(c for c in graphs if c.stage not in ("vision", "project", "text") and c.graph not in early),
            steps=tuple(cost for step in range(count) for cost in step_costs(request, step)),
            step_count=count,
            kv_bytes=_kv_bytes(request),
        )

    def graphs(self, stage: Stage) -> tuple[GraphCost, ...]:
        """The graph runs of a stage."""
        if stage == "decode":
            return self.steps
        return tuple(cost for cost in self.prompt if stage in ("TTFT", cost.stage))


def make_variant(
    samples: Samples, engine: Engine, dtype: str, counts: Counts, host: Host | None, machine: Machine | None = None
) -> Variant:
    """A row of the report.

    Args:
        samples: its times.
        engine: what ran it.
        dtype: of its weights.
        counts: what it computes; for eager what it must compute at least, which is the unpruned chain's.
        host: this machine; its peak is of fp32 on the CPU, so other dtypes get no ceilings; None for a GPU.
        machine: its calibrated rates for the dtype, to predict from; None predicts nothing.
    """
    ttft = Spread.of([run.ttft for run in samples.runs])
    itl = Spread.of(samples.steps)
    stages = {stage: Spread.of(seconds) for stage in _STAGES if (seconds := samples.stage(stage))}
    measured: dict[Stage, float] = {
        "vision": stages["vision"].median_ms,
        "prefill": stages["prefill"].median_ms,
        "TTFT": ttft.median_ms,
        "decode": itl.median_ms,
    }
    ceilings = [_ceiling(stage, counts, host, ms) for stage, ms in measured.items()] if host else []
    prefill_overhead = [run.prefill_overhead for run in samples.runs if run.prefill_overhead is not None]
    decode_overhead = [run.decode_overhead for run in samples.runs if run.decode_overhead is not None]
    return Variant(
        name=samples.name,
        engine=engine,
        dtype=dtype,
        tokens=counts.tokens,
        average=counts.average,
        stages=stages,
        pruning=Spread.of(samples.pruning) if samples.pruning else None,
        ttft=ttft,
        itl=itl,
        prefill_overhead=Spread.of(prefill_overhead) if prefill_overhead else None,
        decode_overhead=Spread.of(decode_overhead) if decode_overhead else None,
        decoder_flops=total(counts.prompt, "prefill").flops,
        prompt_flops=total(counts.prompt).flops,
        step_bytes=total(counts.steps).bytes // counts.step_count,
        ceilings=tuple(ceilings) if dtype == "fp32" else (),
        kv_bytes=counts.kv_bytes if engine == "chain" else None,
        predicted=predict(counts, machine) if machine and engine == "chain" else None,
        energy=_energy(samples),
    )


def predict(counts: Counts, machine: Machine) -> Prediction:
    """What a chain's graphs take by their counts."""
    prompt = time_stages(counts.prompt, machine)
    seconds = {
        "vision_ms": prompt["vision"].seconds,
        "prefill_ms": time_stages(counts.late, machine)[TTFT].seconds,
        "ttft_ms": prompt[TTFT].seconds,
        "decode_ms": time_stages(counts.steps, machine)["decode"].seconds / counts.step_count,
    }
    return Prediction(**{name: round(value * 1e3, 4) for name, value in seconds.items()})


def compare(variants: Sequence[Variant]) -> tuple[Comparison, ...]:
    """Every budget against all tokens, then every budget against eager; prefill, decode and TTFT apart."""
    chains = [variant for variant in variants if variant.engine == "chain"]
    unpruned = [variant for variant in chains if variant.pruning is None]
    eagers = [variant for variant in variants if variant.engine == "eager"]
    pairs = [(chain, unpruned[0]) for chain in chains if unpruned and chain is not unpruned[0]]
    pairs += [(chain, eager) for eager in eagers for chain in chains]
    return tuple(Comparison.between(stage, *pair) for pair in pairs for stage in _COMPARED)


def _kv_bytes(request: Request) -> int:
    decoder = request.shape.decoder
    rows = sum((last - first) * rows for (first, last), rows in zip(request.bounds, request.rows, strict=True))
    return rows * 2 * decoder.kv_heads * decoder.head_dim * request.precision.element


def _energy(samples: Samples) -> Energy | None:
    """Of the repeats in which every sensor answered."""
    runs = [(run.joules, run.ttft + sum(run.steps), 1 + len(run.steps)) for run in samples.runs]
    known = [(joules, seconds, tokens) for joules, seconds, tokens in runs if joules is not None]
    return Energy.of(*zip(*known, strict=True)) if known else None


def _ceiling(stage: Stage, counts: Counts, host: Host, measured_ms: float) -> Ceiling:
    """Each graph takes the longer of its operations at peak and its bytes at peak; graphs add up."""
    compute = move = least = 0.0
    runs = counts.graphs(stage)
    for run in runs:
        operations = run.cost.flops / host.peak_flops
        traffic = run.cost.bytes / host.read_bandwidth
        least += max(operations, traffic)
        compute += operations if operations >= traffic else 0.0
        move += traffic if operations < traffic else 0.0
    per = counts.step_count if stage == "decode" else 1
    cost, ceiling_ms = total(runs), least / per * 1e3
    return Ceiling(
        stage=stage,
        flops=cost.flops // per,
        bytes=cost.bytes // per,
        bound="FLOPs" if compute >= move else "bytes",
        ceiling_ms=round(ceiling_ms, 4),
        measured_ms=measured_ms,
        ratio=round(ceiling_ms / measured_ms, 4),
    )
