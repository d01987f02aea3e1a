"""A benchmark's report as tables and sentences, in text or Markdown. It computes nothing but units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeprune.bench.report import BenchReport, Ceiling, Conditions, Energy, Memory, Prediction, Spread, Variant
from edgeprune.power.state import DeviceState


@dataclass(frozen=True)
class Grid:
    """A table: title, column names, rows of text."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def text(self) -> str:
        """Aligned columns, the first to the left and numbers to the right."""
        lines = (self.header, *self.rows)
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.header))]
        return "\n".join([self.title, *(_aligned(line, widths) for line in lines)])

    def markdown(self) -> str:
        """A Markdown table under its title."""
        rule = ("---", *("--:" for _ in self.header[1:]))
        lines = [f"| {' | '.join(line)} |" for line in (self.header, rule, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines])


def grids(report: BenchReport) -> tuple[Grid, ...]:
    """Stages, the encoder's share, ceilings, predictions, energy and memory; all but the first where there are any."""
    counted = (_stages(report), _shares(report), _ceilings(report), _predictions(report))
    every = (*counted, _energy(report), _memory(report.memory))
    return tuple(grid for grid in every if grid.rows)


def render_text(report: BenchReport) -> str:
    """All of a report for a terminal."""
    blocks = [grid.text() for grid in grids(report)]
    if report.comparisons:
        blocks.append("\n".join(comparison.sentence() for comparison in report.comparisons))
    if report.targets:
        blocks.append("\n".join(target.sentence() for target in report.targets))
    blocks.append(conditions_line(report))
    if report.notes:
        blocks.append("\n".join(report.notes))
    return "\n\n".join(blocks)


def render_markdown(report: BenchReport) -> str:
    """All of a report for a README."""
    blocks = [grid.markdown() for grid in grids(report)]
    if report.comparisons:
        blocks.append("\n".join(f"- {comparison.sentence()}" for comparison in report.comparisons))
    if report.targets:
        blocks.append("\n".join(f"- {target.sentence()}" for target in report.targets))
    blocks.append(f"Conditions: {conditions_line(report)}")
    blocks += report.notes
    return "\n\n".join(blocks)


def render_runs(report: BenchReport) -> str:
    """What a model of many encoder runs takes, for a README: stages, shares, ceilings, and how prefill gains."""
    blocks = [grid.markdown() for grid in (_stages(report), _shares(report), _ceilings(report))]
    gains = [c for c in report.comparisons if c.stage in ("prefill", "TTFT")]
    blocks.append("\n".join(f"- {comparison.sentence()}" for comparison in gains))
    blocks.append("\n".join(f"- {target.sentence()}" for target in report.targets))
    blocks.append(f"Conditions: {conditions_line(report)}")
    return "\n\n".join(block for block in blocks if block)


def render_methods(report: BenchReport) -> str:
    """What each method's own graphs take, for a README: one row per pruned variant."""
    whole = next((v.stages["prefill"].median_ms for v in report.variants if v.engine == "chain" and not v.pruning), 0.0)
    times = ("its graphs ms", "of unpruned prefill", "vision ms", "prefill ms", "TTFT ms")
    header = ("variant", "tokens per stage", "average", *times)
    rows = tuple(_method_row(variant, whole) for variant in report.variants if variant.engine == "chain")
    grid = Grid("What each method's own graphs take", header, rows)
    return f"{grid.markdown()}\n\nConditions: {conditions_line(report)}"


def _method_row(v: Variant, whole: float) -> tuple[str, ...]:
    share = f"{100 * v.pruning.median_ms / whole:.2f}%" if v.pruning and whole else "-"
    text = f" + {_ms(v.stages['text'].median_ms)} text tower" if "text" in v.stages else ""
    tokens = ", ".join(map(str, v.tokens))
    times = (_spread(v.stages["vision"]), _spread(v.stages["prefill"]), _spread(v.ttft))
    return (v.name, tokens, f"{v.average:.1f}", f"{_spread(v.pruning)}{text}", share, *times)


def conditions_line(report: BenchReport) -> str:
    """Model, machine and method of measurement in one sentence."""
    c, host = report.conditions, report.conditions.host
    revision = f"@{c.revision[:8]}" if c.revision else ""
    versions = ", ".join(f"{name} {version}" for name, version in host.versions.items())
    memory = f", {host.memory_bytes / 1e9:.0f} GB" if host.memory_bytes else ""
    return (
        f"{c.model}{revision}, {c.dtype}, {c.backend} ({c.dialect} graphs), {_plural(c.threads, 'thread')}, "
        f"{_visual(c)}, {c.text_tokens} text tokens, {c.visual_tokens} visual tokens unpruned, "
        f"{c.new_tokens} new tokens; "
        f"{_plural(c.warmup, 'warm-up')}, {_plural(c.repeats, 'repeat')} with the variants taking turns, "
        f"median (p90); {host.cpu}, {_plural(host.cores, 'core')}{memory}, "
        f"{host.peak_flops / 1e9:.1f} fp32 GFLOP/s and {host.read_bandwidth / 1e9:.1f} GB/s read at best (measured); "
        f"{versions}{f'; {_device(c.device)}' if c.device else ''}"
    )


def _visual(c: Conditions) -> str:
    """What is looked at."""
    if c.medium == "video":
        return f"1 video of {_plural(c.runs, 'frame')}"
    return "1 picture" if c.runs == 1 else f"1 picture in {c.runs} encoder runs"


def _shares(report: BenchReport) -> Grid:
    """What pruning does not touch, and what it saves beside time; only of reports that have counted it."""
    header = ("variant", "rows per stage", "vision ms", "of TTFT", "KV MB", "of unpruned")
    whole = max((v.kv_bytes for v in report.variants if v.kv_bytes is not None), default=0)
    rows = tuple(_share_row(v, v.kv_bytes, whole) for v in report.variants if v.kv_bytes is not None)
    return Grid("The encoder's share of TTFT, and keys and values of the prompt (counted)", header, rows)


def _share_row(v: Variant, kv_bytes: int, whole: int) -> tuple[str, ...]:
    rows = ", ".join(map(str, v.tokens))
    share, kept = f"{100 * v.vision_share:.1f}%", f"{100 * kv_bytes / whole:.1f}%"
    return (v.name, rows, _ms(v.stages["vision"].median_ms), share, _number(kv_bytes / 1e6), kept)


def _stages(report: BenchReport) -> Grid:
    stages = ("preprocess ms", "vision ms", "prune ms", "project ms", "prefill ms")
    header = (
        "variant",
        "tokens per stage",
        *stages,
        "pruning in all ms",
        "TTFT ms",
        "ITL ms",
        "overhead prompt/step ms",
    )
    return Grid("Time per stage", header, tuple(_stage_row(variant) for variant in report.variants))


def _stage_row(variant: Variant) -> tuple[str, ...]:
    stages = (_spread(variant.stages.get(stage)) for stage in ("preprocess", "vision", "prune", "project", "prefill"))
    overhead = "-"
    if variant.prefill_overhead and variant.decode_overhead:
        overhead = f"{_ms(variant.prefill_overhead.median_ms)} / {_ms(variant.decode_overhead.median_ms)}"
    tokens = ", ".join(map(str, variant.tokens))
    times = (_spread(variant.pruning), _spread(variant.ttft), _spread(variant.itl))
    return (variant.name, tokens, *stages, *times, overhead)


def _ceilings(report: BenchReport) -> Grid:
    header = ("variant", "stage", "GFLOP", "MB", "limit", "ceiling ms", "measured ms", "ratio")
    rows = [(variant.name, *_ceiling(c)) for variant in report.variants for c in variant.ceilings]
    return Grid("What this machine could reach", header, tuple(rows))


def _ceiling(c: Ceiling) -> tuple[str, ...]:
    return (
        c.stage, _number(c.flops / 1e9), _number(c.bytes / 1e6), c.bound, _ms(c.ceiling_ms), _ms(c.measured_ms),
        f"{c.ratio:.2f}",
    )  # fmt: skip


def _predictions(report: BenchReport) -> Grid:
    header = ("variant", "stage", "predicted ms", "measured ms", "predicted / measured")
    rows = [(v.name, *row) for v in report.variants if v.predicted for row in _predicted(v, v.predicted)]
    return Grid("Predicted beside measured", header, tuple(rows))


def _predicted(v: Variant, p: Prediction) -> Iterator[tuple[str, ...]]:
    yield _pair("vision", p.vision_ms, v.stages["vision"].median_ms)
    yield _pair("prefill", p.prefill_ms, v.stages["prefill"].median_ms)
    yield _pair("TTFT without preprocessing", p.ttft_ms, v.graphs_ms)
    yield _pair("decode", p.decode_ms, v.itl.median_ms)


def _pair(stage: str, predicted: float, measured: float) -> tuple[str, ...]:
    return (stage, _ms(predicted), _ms(measured), f"{predicted / measured:.2f}")


def _energy(report: BenchReport) -> Grid:
    header = ("variant", "J per request", "mean W", "tokens / J")
    rows = [(v.name, *map(_number, _energies(v.energy))) for v in report.variants if v.energy]
    return Grid("Energy of a request, idle power included", header, tuple(rows))


def _energies(energy: Energy) -> tuple[float, ...]:
    return (energy.joules, energy.watts, energy.tokens_per_joule)


def _device(state: DeviceState) -> str:
    """A device's state in a few words."""
    clock = f"GPU at {state.clock_mhz:.0f} of {state.clock_most_mhz:.0f} MHz" if _clocked(state) else None
    locked = None if state.locked is None else "clocks locked" if state.locked else "clocks not locked"
    parts = (
        state.device,
        f"power mode {state.power_mode}" if state.power_mode else None,
        f"{state.power_limit_watts:.0f} W at most" if state.power_limit_watts else None,
        clock,
        locked,
        f"{max(state.temperatures.values()):.0f} C before the start" if state.temperatures else None,
        f"power by {state.sensor}" if state.sensor else None,
    )
    return ", ".join(part for part in parts if part)


def _clocked(state: DeviceState) -> bool:
    return bool(state.clock_mhz and state.clock_most_mhz)


def _memory(memory: Sequence[Memory]) -> Grid:
    header = ("variant", "peak MB", "weights MB", "embedding, mapped MB", "target MB", "")
    return Grid("Memory of a whole run", header, tuple(_memory_row(entry) for entry in memory))


def _memory_row(m: Memory) -> tuple[str, ...]:
    numbers = (f"{value / 1e6:,.0f}" for value in (m.peak_bytes, m.weights_bytes, m.mapped_bytes))
    if m.target_bytes is None:
        return (m.variant, *numbers, "-", "-")
    verdict = "within" if m.peak_bytes <= m.target_bytes else "above"
    return (m.variant, *numbers, f"{m.target_bytes / 1e6:,.0f}", verdict)


def _spread(spread: Spread | None) -> str:
    return "-" if spread is None else f"{_ms(spread.median_ms)} ({_ms(spread.p90_ms)})"


def _ms(value: float) -> str:
    """Three digits that mean something: 1234, 123, 12.3, 1.23, 0.012."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(line, widths, strict=True)
    cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
    return "  ".join(cells).rstrip()
