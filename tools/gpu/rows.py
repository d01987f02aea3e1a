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
from tools.random_checkpoint import DTYPES, SHAPES, Shape


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
    """Every goal of the cases that were to be measured; the best of several dialects counts.

    A row is judged where it is what the goal speaks of: the whole model in fp16 on a GPU, with logits that were held
    against eager's and found alike.
    """
    verdicts = []
    for case in cases:
        if case.goal is None:
            continue
        goal = f"prefill of {case.name} at {case.goal.keep} of {case.visual} rows against eager with all"
        rows = [row for row in report.rows if (row.case, row.variant) == (case.name, f"chain keep={case.goal.keep}")]
        faults = [(_fault(report, case, row), row) for row in rows if row.speedup is not None]
        sound = [row.speedup for fault, row in faults if fault is None and row.speedup is not None]
        best = max(faults, key=lambda pair: pair[1].speedup or 0.0, default=None)
        if sound:
            verdicts.append(Verdict(goal, case.goal.speedup, max(sound), max(sound) >= case.goal.speedup, None))
        elif best is not None:
            verdicts.append(Verdict(goal, case.goal.speedup, best[1].speedup, None, best[0]))
        else:
            note = f"no compiled chain was measured{_eager(report, case)}"
            verdicts.append(Verdict(goal, case.goal.speedup, None, None, note))
    return verdicts


def _fault(report: Report, case: Case, row: Row) -> str | None:
    """Why a row says nothing about its case's goal; None where it does."""
    layers, dtype = report.settings["layers"], report.settings["dtype"]
    if not report.measurement:
        return "not on a GPU"
    if layers is not None and layers < SHAPES[case.checkpoint].decoder.num_hidden_layers:
        return f"decoder layers: {report.settings['depths']}"
    if dtype != "fp16":
        return f"in {dtype}; the goal is for fp16"
    key = (row.case, row.variant, row.dialect)
    compared = [one for one in report.comparisons if (one.case, one.variant, one.dialect) == key]
    if not compared:
        return "its logits were not compared with PyTorch eager's"
    failures = [failure for one in compared for failure in one.failures]
    return f"it computes something else than PyTorch eager: {failures[0]}" if failures else None


def _eager(report: Report, case: Case) -> str:
    """What eager alone gained, where that is all there is."""
    name = f"eager keep={case.goal.keep}" if case.goal else ""
    gained = [row.speedup for row in report.rows if (row.case, row.variant) == (case.name, name) and row.speedup]
    return f"; pruned in PyTorch eager: {gained[0]:.2f}x" if gained else ""


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
