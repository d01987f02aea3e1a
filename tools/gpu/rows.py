"""Times and counts brought together: the rows of the table, and whether the goals were reached."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from edgeprune.bench.report import Spread
from tools.gpu.bench import Times
from tools.gpu.cases import Budget, Case
from tools.gpu.count import flops, prefill_work, shortest_ms
from tools.gpu.report import Report, Row, Verdict
from tools.gpu.target import Speed
from tools.gpu.variant import Variant, label
from tools.random_checkpoint import DTYPES, Shape


def make_row(
    case: Case, shape: Shape, variant: Variant, times: Times, whole: Times | None, best: Speed | None, dtype: str
) -> Row:
    """A variant's row; backend, dialect and memory are for the caller to fill in.

    Args:
        case: whose.
        shape: of the model.
        variant: what was measured.
        times: of it, at least one prefill.
        whole: of eager with all tokens, measured beside it.
        best: what the GPU reaches; None leaves the ceiling open.
        dtype: of the weights.
    """
    decoder, width = shape.decoder, DTYPES[dtype][1]
    every = Budget("all", (case.visual,), (decoder.num_hidden_layers,), None)
    work = prefill_work(decoder, variant.budget, width)
    prefill = Spread.of(times.prefill)
    ceiling = None if best is None else shortest_ms(work, best)
    return Row(
        case=case.name,
        variant=label(variant),
        engine=variant.engine,
        backend="",
        dialect=None,
        average=round(variant.budget.average, 2),
        stages=variant.budget.rows,
        prefill=prefill,
        speedup=round(median(whole.prefill) / median(times.prefill), 3) if whole and whole.prefill else None,
        flops_ratio=round(flops(prefill_work(decoder, every, width)) / flops(work), 3),
        ceiling_ms=None if ceiling is None else round(ceiling, 4),
        ratio=None if ceiling is None else round(ceiling / prefill.median_ms, 4),
        prune_ms=_rounded(times.part_ms("prune")),
        outside_ms=_rounded(times.outside_ms),
        step=Spread.of(times.steps) if times.steps else None,
        ttft=Spread.of(times.ttft) if times.ttft else None,
        peak_bytes=None,
        repeats=len(times.prefill),
    )


def make_verdicts(report: Report, cases: Sequence[Case]) -> list[Verdict]:
    """Every goal of the cases that were to be measured; the best of several dialects counts."""
    verdicts = []
    for case in cases:
        if case.goal is None:
            continue
        name = f"chain keep={case.goal.keep}"
        goal = f"prefill of {case.name} at {case.goal.keep} of {case.visual} rows against eager with all"
        rows = [row for row in report.rows if (row.case, row.variant) == (case.name, name)]
        found = max((row.speedup for row in rows if row.speedup is not None), default=None)
        note = None
        if found is None:
            note = f"no compiled chain was measured{_eager(report, case)}"
        elif not report.measurement:
            note = "not on a GPU"
        elif report.settings["layers"] is not None:
            note = f"decoder layers: {report.settings['depths']}"
        reached = None if found is None or not report.measurement else found >= case.goal.speedup
        verdicts.append(Verdict(goal, case.goal.speedup, found, reached, note))
    return verdicts


def _eager(report: Report, case: Case) -> str:
    """What eager alone gained, where that is all there is."""
    name = f"eager keep={case.goal.keep}" if case.goal else ""
    gained = [row.speedup for row in report.rows if (row.case, row.variant) == (case.name, name) and row.speedup]
    return f"; pruned in PyTorch eager: {gained[0]:.2f}x" if gained else ""


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
