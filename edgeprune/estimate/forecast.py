"""What a request will take on a machine: operations, bytes, memory, time to the first token, and what bounds each.

Everything follows from counts (``request``) and two rates (``roofline``). ``verdict`` says it in words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgeprune.bundle.sizes import Vision
from edgeprune.errors import UsageError
from edgeprune.estimate.cost import GraphCost, total
from edgeprune.estimate.decoder import layer_parameters
from edgeprune.estimate.machine import Machine
from edgeprune.estimate.memory import Memory, cache_bytes, memory_of
from edgeprune.estimate.papers import PROJECTIONS, layer_macs, visual_macs, whole_model_flops
from edgeprune.estimate.request import Request, prompt_costs, step_costs
from edgeprune.estimate.roofline import TTFT, Timing, time_graph, time_stages

CONVENTIONS = {
    "flops_total": "two per multiply-accumulate, what our graphs compute",
    "flops_profiler": "two per multiply-accumulate, all of the model as PyTorch runs it (VisionDrop's table)",
    "flops_paper": "one per multiply-accumulate, decoder layers on visual tokens alone (PyramidDrop)",
}
"""How each count of operations is made."""
ONE_PATCH = Vision((1, 1), 1, 1, 1, 1, 1)


@dataclass(frozen=True)
class Figure:
    """An estimate and its error band: half of the published figures that were held against it lie inside."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, band: float) -> Figure:
        """With a band of so much; 0.2 is 20%."""
        return cls(value, value / (1 + band), value * (1 + band))


@dataclass(frozen=True)
class Entry:
    """A graph or a stage.

    Attributes:
        name: of the graph, or the stage: "vision", "prune", "project", "text", "prefill".
        stage: the same for a stage.
        flops, bytes: of one prompt.
        ms: what that takes.
        bound: what it waits for, "FLOPs", "bytes" or "launch" (a graph that is too small for either).
    """

    name: str
    stage: str
    flops: int
    bytes: int
    ms: float
    bound: str


@dataclass(frozen=True)
class Limits:
    """How far pruning can go.

    Attributes:
        encoder_share: of the unpruned TTFT, 0..1; no pruning after the encoder is faster than 1 over this.
        least_ms: TTFT with a single visual token.
        most_speedup: unpruned TTFT over that.
        rows: of a prompt, text included, from which on prefill waits for operations; with fewer it waits for the
            weights, and takes as long whatever is dropped.
        tokens: the visual tokens among them; 0 where the text alone is as long.
        weight_read_ms: what reading the decoder's weights once takes, which no prefill can undercut.
    """

    encoder_share: float
    least_ms: float
    most_speedup: float
    rows: int
    tokens: int
    weight_read_ms: float


@dataclass(frozen=True)
class Forecast:
    """One row of the report.

    Attributes:
        model, target, device, dtype: what runs where.
        method, keep: as asked; null and "all" without pruning.
        counts: visual tokens out of each stage, in order; empty without pruning.
        average: visual tokens averaged over the decoder's layers.
        tokens: of them without pruning.
        runs: of the encoder.
        text_tokens, new_tokens: of the prompt, and of the answer.
        flops_total, bytes_total: of one prompt.
        flops_profiler, flops_paper: of the same as papers count it; ``CONVENTIONS`` says how.
        graphs, stages: of one prompt, in order of execution.
        ttft_ms: time to the first token.
        unpruned_ms: the same keeping all.
        decode: tokens per second behind the prompt, in the middle of the answer.
        decode_unpruned: the same keeping all.
        decode_bound: as of an entry.
        step_flops, step_bytes: of one step of decoding.
        rows, cached: of the prompt in each segment, and in its cache at the end.
        memory: bytes.
        cache_unpruned: bytes of keys and values keeping all, as ``memory.cache`` has them.
        encoder_share: of the TTFT, 0..1.
        memory_there: bytes that the device has for it, without what its system keeps; null where nobody says.
        build_there: the same for building engines, where host and device share it; null elsewhere.
        limits: how far pruning can go.
        band: median absolute error of such estimates; 0.2 is 20%.
    """

    model: str
    target: str
    device: str
    dtype: str
    method: str | None
    keep: str
    counts: tuple[int, ...]
    average: float
    tokens: int
    runs: int
    text_tokens: int
    new_tokens: int
    flops_total: int
    bytes_total: int
    flops_profiler: float
    flops_paper: float
    graphs: tuple[Entry, ...]
    stages: tuple[Entry, ...]
    ttft_ms: Figure
    unpruned_ms: float
    decode: Figure
    decode_unpruned: float
    decode_bound: str
    step_flops: int
    step_bytes: int
    rows: tuple[int, ...]
    cached: tuple[int, ...]
    memory: Memory
    cache_unpruned: int
    encoder_share: float
    memory_there: int | None
    build_there: int | None
    limits: Limits
    band: float

    @property
    def speedup(self) -> float:
        """Of the time to the first token."""
        return self.unpruned_ms / self.ttft_ms.value

    @property
    def fits(self) -> bool:
        """Whether it can run there; what is not known does not stand in the way."""
        return self.memory_there is None or self.memory.run <= self.memory_there


def forecast(request: Request, machine: Machine, new_tokens: int, context: int | None = None) -> Forecast:
    """Estimate a request.

    Args:
        request: with or without a method.
        machine: for its precision.
        new_tokens: of the answer.
        context: rows that every cache has room for; None for what prompt and answer need.

    Raises:
        UsageError: prompt and answer exceed the context, or that exceeds the model's.
    """
    cached = _cached(request, new_tokens, context)
    costs, whole = prompt_costs(request), replace(request, method=None, schedule=None, edges=_edges(request))
    stages = time_stages(costs, machine)
    unpruned = time_stages(prompt_costs(whole), machine)
    steps = step_costs(request, new_tokens // 2)
    every, step = total(costs), total(steps)
    there = None if machine.memory is None else machine.memory - machine.reserve
    rate = Figure.of(1 / time_stages(steps, machine)[TTFT].seconds, machine.band)
    return Forecast(
        model=request.shape.name,
        target=machine.name,
        device=machine.device,
        dtype=request.precision.name,
        method=request.method,
        keep=str(request.schedule.asked) if request.schedule else "all",
        counts=tuple(stage.rows for stage in request.schedule.stages) if request.schedule else (),
        average=request.schedule.average if request.schedule else request.shape.tokens,
        tokens=request.shape.tokens,
        runs=request.shape.runs,
        text_tokens=request.text,
        new_tokens=new_tokens,
        flops_total=every.flops,
        bytes_total=every.bytes,
        flops_profiler=whole_model_flops(
            request.shape, request.text, request.schedule, PROJECTIONS.get(request.method or "", 0)
        ),
        flops_paper=_paper_macs(request),
        graphs=tuple(_entry(cost.graph, cost.stage, [cost], time_graph(cost, machine)) for cost in costs),
        stages=tuple(
            _entry(name, name, [cost for cost in costs if cost.stage == name], timing)
            for name, timing in stages.items()
            if name != TTFT
        ),
        ttft_ms=Figure.of(1e3 * stages[TTFT].seconds, machine.band),
        unpruned_ms=1e3 * unpruned[TTFT].seconds,
        decode=rate,
        decode_unpruned=1 / time_stages(step_costs(whole, new_tokens // 2), machine)[TTFT].seconds,
        decode_bound=time_stages(steps, machine)[TTFT].bound,
        step_flops=step.flops,
        step_bytes=step.bytes,
        rows=request.rows,
        cached=cached,
        memory=memory_of(request, costs, cached),
        cache_unpruned=sum(cache_bytes(whole, [context or rows + new_tokens for rows in whole.rows])),
        encoder_share=stages["vision"].seconds / stages[TTFT].seconds,
        memory_there=there,
        build_there=there if machine.reserve else None,
        limits=_limits(whole, machine, unpruned),
        band=machine.band,
    )


def _cached(request: Request, new_tokens: int, context: int | None) -> tuple[int, ...]:
    """Rows in every segment's cache at the end."""
    longest, most = max(request.rows) + new_tokens, request.shape.decoder.context
    if longest > most:
        raise UsageError(
            f"prompt and answer have {longest:,} rows, and {request.shape.name} has positions for {most:,}; lower "
            "--text-tokens or --new-tokens"
        )
    if context is not None and not longest <= context <= most:
        raise UsageError(
            f"--context {context} is out of range; prompt and answer have {longest:,} rows, the model has positions "
            f"for {most:,}: {longest}..{most}"
        )
    return tuple(context or rows + new_tokens for rows in request.rows)


def _edges(request: Request) -> tuple[int, ...]:
    """The segments stay as they are where nothing is pruned."""
    return tuple(first for first, _ in request.bounds[1:])


def _entry(name: str, stage: str, costs: list[GraphCost], timing: Timing) -> Entry:
    cost = total(costs)
    return Entry(name, stage, cost.flops, cost.bytes, 1e3 * timing.seconds, timing.bound)


def _paper_macs(request: Request) -> float:
    d = request.shape.decoder
    if request.schedule is None:
        return d.layers * layer_macs(request.shape.tokens, hidden=d.hidden, intermediate=d.intermediate)
    return visual_macs(request.schedule, d.hidden, d.intermediate)


def _limits(whole: Request, machine: Machine, unpruned: dict[str, Timing]) -> Limits:
    d, shares = whole.shape.decoder, machine.efficiency
    ttft, encoder = unpruned[TTFT].seconds, unpruned["vision"].seconds
    one = replace(whole.shape, vision=ONE_PATCH, runs=1, rows=1, family="llava", size=None, blends=False)
    tiny = replace(whole, shape=one)
    costs = [cost for cost in prompt_costs(tiny) if cost.stage == "prefill"]
    least = encoder + time_stages(costs, machine)[TTFT].seconds
    read = total(costs).weights / (machine.bandwidth * shares.decode)
    row = 2 * d.layers * layer_parameters(d) / (machine.flops * shares.prefill)
    rows = round(read / row)
    return Limits(
        encoder_share=encoder / ttft,
        least_ms=1e3 * least,
        most_speedup=ttft / least,
        rows=rows,
        tokens=max(0, rows - whole.text),
        weight_read_ms=1e3 * read,
    )
