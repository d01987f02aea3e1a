"""A report as Markdown: what was tried, what was compared, what was measured, and under which conditions."""

from __future__ import annotations

from edgeprune.bench.report import Spread
from edgeprune.bench.table import Grid
from tools.gpu.report import Report, Row

NO_MEASUREMENT = (
    "This is a check of the tool on a CPU, with models of random weights: no number here is a measurement of a GPU."
)


def markdown(report: Report) -> str:
    """All of a report."""
    blocks = ["# GPU check", _machine(report)]
    if not report.measurement:
        blocks.append(f"**{NO_MEASUREMENT}**")
    if report.attempts:
        blocks.append(_attempts(report).markdown())
    if report.comparisons:
        blocks.append(_comparisons(report).markdown())
    if report.rows:
        blocks.append(_rows(report).markdown())
    lines = [verdict.sentence() for verdict in report.verdicts]
    lines += [f"FAIL {failure}" for failure in report.failures]
    lines += [f"ERROR {error}" for error in report.errors]
    lines += report.notes
    lines += [f"skipped: {skipped.name}: {skipped.reason}" for skipped in report.progress.skipped]
    if lines:
        blocks.append("\n".join(f"- {line}" for line in lines))
    blocks.append(_conditions(report))
    return "\n\n".join(blocks)


def _attempts(report: Report) -> Grid:
    header = ("backend", "dialect", "runs", "graphs and chain against PyTorch", "seconds")
    rows = []
    for tried in report.attempts:
        checks = f"{tried.checks - tried.failed} of {tried.checks} ok" if tried.works else "-"
        state = f"yes: {tried.library}" if tried.works else f"no: {tried.reason}"
        rows.append((tried.backend, tried.dialect, state, checks, f"{tried.seconds:.0f}"))
    return Grid("Backends, each on a tiny model", header, tuple(rows))


def _comparisons(report: Report) -> Grid:
    header = ("variant", "cosine", "max error", "same token", "rows kept by both", "")
    rows = []
    for c in report.comparisons:
        kept = "-" if c.kept is None else f"{c.kept:.1%}"
        state = "FAIL" if c.failures else "ok" if c.note is None else f"ok ({c.note})"
        token = "yes" if c.same_token else "no"
        rows.append(
            (f"{c.case}, {c.variant}, {c.dialect}", f"{c.cosine:.6f}", f"{c.max_error:.1e}", token, kept, state)
        )
    return Grid("First logits against PyTorch eager on the same device", header, tuple(rows))


def _rows(report: Report) -> Grid:
    header = (
        *("variant", "visual rows", "per stage", "prefill ms (p90)", "x eager, all", "x FLOPs allow"),
        *("ceiling ms", "of ceiling", "prune ms", "outside ms", "ITL ms (p90)", "TTFT ms (p90)", "peak MB"),
    )
    return Grid("Prefill from the projected visual rows on", header, tuple(_row(row) for row in report.rows))


def _row(row: Row) -> tuple[str, ...]:
    where = f", {row.dialect}" if row.dialect else ""
    return (
        f"{row.case}, {row.variant}{where}",
        f"{row.average:g}",
        ", ".join(map(str, row.stages)),
        _spread(row.prefill),
        _number(row.speedup, ".2f"),
        f"{row.flops_ratio:.2f}",
        _number(row.ceiling_ms, ".2f"),
        _number(row.ratio, ".2f"),
        _number(row.prune_ms, ".2f"),
        _number(row.outside_ms, ".2f"),
        _spread(row.step),
        _spread(row.ttft),
        "-" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f}",
    )


def _spread(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median_ms:.2f} ({spread.p90_ms:.2f})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _machine(report: Report) -> str:
    m = report.machine
    parts = [m.name]
    if m.capability:
        parts.append(f"compute capability {m.capability}")
    if m.memory:
        parts.append(f"{m.memory / 1e9:.0f} GB")
    if m.driver:
        parts.append(f"driver {m.driver}")
    if m.clocks and m.clocks.sm_mhz:
        after = report.clocks_after
        then = f", {after.sm_mhz:.0f} at the end" if after and after.sm_mhz else ""
        most = f" of {m.clocks.sm_most_mhz:.0f}" if m.clocks.sm_most_mhz else ""
        parts.append(f"SM clock {m.clocks.sm_mhz:.0f}{most} MHz{then}")
    if m.clocks and m.clocks.power_limit_watts:
        parts.append(f"power limit {m.clocks.power_limit_watts:.0f} W")
    if m.flops and m.bandwidth:
        parts.append(f"reaches {m.flops / 1e12:.0f} fp16 TFLOP/s and copies {m.bandwidth / 1e9:,.0f} GB/s")
    return ", ".join(parts)


def _conditions(report: Report) -> str:
    s = report.settings
    versions = ", ".join(f"{name} {version}" for name, version in report.machine.versions.items())
    ceilings = f"; ceilings: {report.ceilings}" if report.ceilings else ""
    return (
        f"Conditions: random weights, {s['dtype']}, one picture, {s['text_tokens']} text tokens, decoder layers: "
        f"{s['depths']}; {s['warmup']} warm-ups, up to {s['repeats']} repeats with the variants taking turns, median "
        f"(p90); ITL over {s['new_tokens']} tokens; the visual rows are on the device before the clock starts, the "
        f"first token is on the host when it stops{ceilings}; {versions}"
    )
