"""A sweep as one HTML file that needs nothing else: no network, no script, no font; it prints on A4.

The template escapes every text: names of models, questions and answers are whatever somebody wrote.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from importlib import resources

import jinja2

from edgeprune.bench.table import Grid
from edgeprune.sweep.plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, make_plot
from edgeprune.sweep.report import Row, SweepReport
from edgeprune.sweep.table import (
    STAGES,
    cells_grid,
    facts,
    headline,
    kinds_grid,
    spell_ms,
    spell_time,
    stages_grid,
    times_grids,
    title,
)


@dataclass(frozen=True)
class Part:
    """A stretch of a bar, in percent of its full length; ``kind`` gives its colour."""

    kind: str
    start: float
    width: float


@dataclass(frozen=True)
class Bar:
    """A cell's bar: its parts from left to right, the figure at its end, and all of it in words."""

    name: str
    parts: tuple[Part, ...]
    figure: str
    said: str


def render_page(report: SweepReport) -> str:
    """The page."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["jpeg"] = lambda content: base64.b64encode(content).decode()
    template = resources.files("edgeprune.sweep").joinpath("page.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        title=title(report),
        finished=spell_time(report.finished),
        headline=headline(report),
        report=report,
        plot=make_plot(report),
        size={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
        cells=cells_grid(report),
        stages=stages_grid(report),
        stage_bars=stage_bars(report),
        stage_names=_used(report),
        memory=memory_grid(report),
        memory_bars=memory_bars(report),
        kinds=kinds_grid(report),
        times=times_grids(report),
        facts=facts(report),
    )


def stage_bars(report: SweepReport) -> tuple[Bar, ...]:
    """Time to first token split by stage, every bar on the scale of the longest."""
    rows = [(row, row.variant.ttft.median_ms) for row in report.rows if row.variant]
    longest = max((ttft for _, ttft in rows), default=1.0)
    found = []
    for row, ttft in rows:
        stages = {
            stage: row.variant.stages[stage].median_ms
            for stage in STAGES
            if row.variant and stage in row.variant.stages
        }
        start, parts = 0.0, []
        for stage, value in stages.items():
            width = 100 * value / longest
            parts.append(Part(stage, round(start, 2), round(width, 2)))
            start += width
        said = ", ".join(f"{STAGES[stage]} {spell_ms(value)} ms" for stage, value in stages.items())
        found.append(Bar(row.name, tuple(parts), f"{spell_ms(ttft)} ms", f"{row.name}: {said}"))
    return tuple(found)


def memory_bars(report: SweepReport) -> tuple[Bar, ...]:
    """Peak memory of a run: weights, and everything else."""
    rows = [(row.name, row.memory) for row in report.rows if row.memory]
    longest = max((memory.peak_bytes for _, memory in rows), default=1)
    found = []
    for name, memory in rows:
        weights = min(memory.weights_bytes, memory.peak_bytes)
        split = round(100 * weights / longest, 2)
        rest = round(100 * (memory.peak_bytes - weights) / longest, 2)
        peak = f"{memory.peak_bytes / 1e6:,.0f} MB"
        said = f"{name}: peak {peak}, weights {memory.weights_bytes / 1e6:,.0f} MB"
        found.append(Bar(name, (Part("weights", 0.0, split), Part("rest", split, rest)), peak, said))
    return tuple(found)


def memory_grid(report: SweepReport) -> Grid:
    """Peak memory in figures."""
    rows = tuple((row.name, *_memory(row)) for row in report.rows if row.memory)
    return Grid("Memory of a whole run", ("cell", "peak MB", "weights MB", "embedding, mapped MB"), rows)


def _memory(row: Row) -> tuple[str, ...]:
    assert row.memory is not None  # the caller looked
    found = (row.memory.peak_bytes, row.memory.weights_bytes, row.memory.mapped_bytes)
    return tuple(f"{value / 1e6:,.0f}" for value in found)


def _used(report: SweepReport) -> dict[str, str]:
    """The stages that any cell has, and what they are called."""
    variants = [row.variant for row in report.rows if row.variant]
    return {stage: name for stage, name in STAGES.items() if any(stage in variant.stages for variant in variants)}
