"""A sweep as tables and sentences: for a terminal, for Markdown, and for the page. It computes nothing but units."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgeprune.bench.table import Grid
from edgeprune.power.state import DeviceState
from edgeprune.sweep.aiperf import metrics
from edgeprune.sweep.report import Row, SweepReport

STAGES = {
    "preprocess": "picture",
    "vision": "encoder",
    "prune": "prune",
    "project": "project",
    "text": "text tower",
    "prefill": "prefill",
}
"""Stages of the time to first token in their order, and what a reader calls them."""

_TIMES = {
    "time_to_first_token": "Time to first token, ms",
    "inter_token_latency": "Inter-token latency, ms",
    "request_latency": "Request latency, ms",
}
_NO = "–"


def render_text(report: SweepReport) -> str:
    """All of a report for a terminal."""
    blocks = [cells_grid(report).text(), report.advice.reason]
    blocks += ["\n".join(f"{name}: {text}" for name, text in facts(report))]
    return "\n\n".join(blocks)


def render_markdown(report: SweepReport) -> str:
    """All of a report for a README or an issue."""
    parts = [f"# {_inert(title(report))}", f"**{_inert(headline(report))}** {_inert(report.advice.reason)}"]
    grids = [cells_grid(report), stages_grid(report), kinds_grid(report), *times_grids(report)]
    parts += [_inert_grid(grid).markdown() for grid in grids if grid.rows]
    if report.failed:
        lines = [
            f"- {_inert(row.name)}, {one.phase}: {_inert(one.reason)}" for row in report.failed for one in row.failures
        ]
        parts.append("\n".join(["**What could not be had**", "", *lines]))
    parts.append("\n".join(["**Conditions**", "", *(f"- {name}: {_inert(text)}" for name, text in facts(report))]))
    return "\n\n".join([*parts, _fenced(report.command)]) + "\n"


def title(report: SweepReport) -> str:
    """What was swept."""
    return f"Pruning sweep of {report.conditions.model}"


def headline(report: SweepReport) -> str:
    """The recommendation in three words."""
    name = report.advice.recommended
    return "No recommendation." if name is None else f"Recommended: {'all tokens' if name == 'all' else name}."


def cells_grid(report: SweepReport) -> Grid:
    """One line per cell; a column that no cell fills is left out."""
    columns: list[tuple[str, list[str]]] = [
        ("cell", [row.name for row in report.rows]),
        ("accuracy %", [_accuracy(row) for row in report.rows]),
        ("as unpruned %", [_agreement(row) for row in report.rows]),
        ("TTFT ms (p90)", [_ttft(row) for row in report.rows]),
        ("graphs ms (predicted)", [_predicted(row) for row in report.rows]),
        ("speed-up", [_speedup(report, row) for row in report.rows]),
        (
            "prefill ms",
            [spell_ms(row.variant.stages["prefill"].median_ms) if row.variant else _NO for row in report.rows],
        ),
        ("ITL ms", [spell_ms(row.variant.itl.median_ms) if row.variant else _NO for row in report.rows]),
        ("tokens/s", [f"{1e3 / row.variant.itl.median_ms:,.1f}" if row.variant else _NO for row in report.rows]),
        ("peak MB", [f"{row.memory.peak_bytes / 1e6:,.0f}" if row.memory else _NO for row in report.rows]),
        ("J/answer", [_energy(row) for row in report.rows]),
        ("tokens per stage", [", ".join(map(str, row.variant.tokens)) if row.variant else _NO for row in report.rows]),
        ("average", [f"{row.variant.average:.1f}" if row.variant else _NO for row in report.rows]),
        ("", [verdict(report, row) for row in report.rows]),
    ]
    filled = [column for column in columns if column[0] in ("cell", "") or any(cell != _NO for cell in column[1])]
    lines = tuple(zip(*(cells for _, cells in filled), strict=True))
    return Grid("All cells", tuple(name for name, _ in filled), lines)


def verdict(report: SweepReport, row: Row) -> str:
    """What is to be said about a cell in a word or two."""
    words = ["recommended"] if row.name == report.advice.recommended else []
    words += ["front"] if row.name in report.front else []
    words += ["failed"] if row.variant is None else ["incomplete"] if row.failures else []
    return ", ".join(words)


def stages_grid(report: SweepReport) -> Grid:
    """Where the time to first token goes: medians in ms."""
    rows = [row for row in report.rows if row.variant]
    used = [stage for stage in STAGES if any(row.variant and stage in row.variant.stages for row in rows)]
    lines = tuple((row.name, *_stages(row, used), _ttft(row)) for row in rows)
    header = ("cell", *(f"{STAGES[stage]} ms" for stage in used), "TTFT ms (p90)")
    return Grid("Time to first token by stage", header, lines)


def kinds_grid(report: SweepReport) -> Grid:
    """Right answers per kind of question."""
    rows = [row for row in report.rows if row.accuracy and row.accuracy.kinds]
    kinds = list(rows[0].accuracy.kinds) if rows and rows[0].accuracy else []
    header = ("cell", *(f"{kind} %" for kind in kinds), "all kinds %")
    lines = tuple(
        (row.name, *(f"{row.accuracy.percent(kind):.1f}" for kind in kinds), _accuracy(row))
        for row in rows
        if row.accuracy
    )
    return Grid("Right answers by kind of question", header, lines)


def times_grids(report: SweepReport) -> tuple[Grid, ...]:
    """Every statistic of the times that users wait for."""
    rows = [row for row in report.rows if row.samples]
    found = {row.name: metrics(row.samples, 0) for row in rows}
    header = ("cell", "avg", "min", "p50", "p90", "p95", "p99", "max", "std")
    return tuple(
        Grid(
            text,
            header,
            tuple(
                (name, *(spell_ms(getattr(named[key], statistic)) for statistic in header[1:]))
                for name, named in found.items()
            ),
        )
        for key, text in _TIMES.items()
    )


def facts(report: SweepReport) -> tuple[tuple[str, str], ...]:
    """The conditions, a name and a sentence each."""
    c, host = report.conditions, report.conditions.host
    revision = f" at revision {c.revision}" if c.revision else ""
    memory = f", {host.memory_bytes / 1e9:.0f} GB" if host.memory_bytes else ""
    found = [
        ("model", f"{c.model}{revision}, {c.dtype}, {c.dialect} graphs"),
        ("ran on", f"{c.backend}, {_plural(c.threads, 'thread')}; {host.cpu}, {_plural(host.cores, 'core')}{memory}"),
        (
            "machine at its best",
            f"{host.peak_flops / 1e9:.1f} fp32 GFLOP/s, {host.read_bandwidth / 1e9:.1f} GB/s read (measured)",
        ),
        (
            "times",
            f"1 picture, {c.text_tokens} text and {c.visual_tokens} visual tokens before pruning, {c.new_tokens} new "
            f"tokens; {_plural(c.warmup, 'warm-up')}, {_plural(c.repeats, 'repeat')}, all cells in turn per repeat; "
            "medians",
        ),
    ]
    if report.questions is not None:
        q = report.questions
        data = "held-out scenes of the demo model" if q.data == "demo" else q.data
        found.append(
            (
                "accuracy",
                f"{_plural(q.count, 'question')} about {_plural(q.images, 'picture')}: {data}; at most "
                f"{q.max_new_tokens} new tokens; ± is half the 95% interval (Wilson)",
            )
        )
        if not q.suited:
            found.append(("beware", "the questions were made for the demo model, not for this one: see --data"))
    if any(row.memory for row in report.rows):
        found.append(("memory", "peak of a whole run in a process of its own, mapped weights included as far as read"))
    if c.device is not None:
        found.append(("device", _device(c.device)))
    found += [("note", note) for note in report.notes]
    if report.sittings > 1:
        found.append(("interrupted", f"measured in {report.sittings} sittings; every sitting warmed up again"))
    found.append(("versions", ", ".join(f"{name} {version}" for name, version in host.versions.items())))
    found.append(("finished", spell_time(report.finished)))
    return tuple(found)


def spell_ms(value: float) -> str:
    """Three digits that mean something: 1,234, 123, 12.3, 1.23, 0.012."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}"


def spell_time(moment: str) -> str:
    """A moment in ISO 8601 and UTC as "2026-01-31 17:05 UTC"."""
    return f"{moment[:10]} {moment[11:16]} UTC"


def _device(state: DeviceState) -> str:
    known = {"power mode": state.power_mode, "energy by": state.sensor, "slowed down by": ", ".join(state.throttled)}
    if state.locked is not None:
        known["clocks"] = "locked" if state.locked else "not locked"
    return "; ".join([state.device, *(f"{name} {text}" for name, text in known.items() if text)])


def _stages(row: Row, used: Sequence[str]) -> list[str]:
    stages = row.variant.stages if row.variant else {}
    return [spell_ms(stages[stage].median_ms) if stage in stages else _NO for stage in used]


def _accuracy(row: Row) -> str:
    share = row.accuracy.overall if row.accuracy else None
    return _NO if share is None else f"{share.percent:.1f} ± {share.half_percent:.1f}"


def _agreement(row: Row) -> str:
    agreement = row.accuracy.agreement if row.accuracy else None
    return _NO if agreement is None else f"{100 * agreement:.1f}"


def _ttft(row: Row) -> str:
    return f"{spell_ms(row.variant.ttft.median_ms)} ({spell_ms(row.variant.ttft.p90_ms)})" if row.variant else _NO


def _predicted(row: Row) -> str:
    if row.variant is None or row.variant.predicted is None:
        return _NO
    return f"{spell_ms(row.variant.graphs_ms)} ({spell_ms(row.variant.predicted.ttft_ms)})"


def _energy(row: Row) -> str:
    energy = row.variant.energy if row.variant else None
    return _NO if energy is None else f"{energy.joules:,.2f}"


def _speedup(report: SweepReport, row: Row) -> str:
    speedup = report.speedup(row)
    return _NO if speedup is None else f"{speedup:.2f}x"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _inert(text: str) -> str:
    """A text of the user's that Markdown shows as it stands, in one line; so are names with a bar or a tag."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))


def _inert_grid(grid: Grid) -> Grid:
    rows = tuple(tuple(map(_inert, row)) for row in grid.rows)
    return Grid(grid.title, tuple(map(_inert, grid.header)), rows)


def _fenced(command: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    return f"{fence}sh\n{command}\n{fence}"
