"""Cells, rows and a report made by hand."""

from __future__ import annotations

from dataclasses import replace

from edgeprune.bench.measure import Sample
from edgeprune.bench.report import Memory, Spread, Variant
from edgeprune.eval.accuracy import Accuracy
from edgeprune.eval.score import Share
from edgeprune.sweep.pareto import Point, advise, front
from edgeprune.sweep.report import Failure, Kept, Panel, Questions, Row, SweepReport
from tests.bench import sample

SAMPLES = (
    Sample({"preprocess": 0.005, "vision": 0.05, "project": 0.0015, "prefill": 0.1}, 0.160, (0.020, 0.010, 0.012)),
    Sample({"preprocess": 0.006, "vision": 0.05, "project": 0.0015, "prefill": 0.1}, 0.164, (0.022, 0.011, 0.012)),
)


def point(name: str, ttft_ms: float, right: int | None, average: float = 64.0, asked: int = 200) -> Point:
    share = None if right is None else Share.of(right, asked)
    return Point(name, average, ttft_ms, 30.0, share, unpruned=name == "all")


def accuracy(name: str, right: int, asked: int = 200) -> Accuracy:
    share = Share.of(right, asked)
    return Accuracy(name, None, None, 64.0, {"color": share}, share, 0.9, 100.0)


def row(name: str, ttft_ms: float | None, right: int | None = None, failures: tuple[Failure, ...] = ()) -> Row:
    method, _, keep = name.rpartition(" ")
    variant: Variant | None = None
    if ttft_ms is not None:
        made = sample.variant("keep=64" if method else "keep=all", ttft_ms - 60, 16.0, 10**10, 10**8)
        variant = replace(made, name=name, ttft=Spread(ttft_ms, ttft_ms + 3))
    return Row(
        name=name,
        method=method or None,
        keep=keep,
        variant=variant,
        samples=SAMPLES if variant else (),
        memory=Memory(name, 1_500_000_000, 1_000_000_000, 50_000_000, None) if variant else None,
        accuracy=None if right is None else accuracy(name, right),
        failures=failures,
    )


def report(*rows: Row, asked: bool = True, command: str = "edgeprune bench b --sweep") -> SweepReport:
    points = [each.point for each in rows if each.point]
    return SweepReport(
        conditions=sample.report().conditions,
        rows=rows,
        front=front(points),
        advice=advise(points),
        questions=Questions("questions.jsonl", 200, 20, 16, True) if asked else None,
        kept=(
            Kept("what?", (Panel("picture", (576,), "", b"\xff\xd8"), Panel("sts 64", (96, 32), "red", b"\xff\xd8"))),
        ),
        command=command,
        finished="2026-01-31T17:05:09+00:00",
        sittings=1,
        notes=("a note",),
    )


FAILED = row("sts 2", None, failures=(Failure("budget", "sts cannot keep 2 visual tokens"),))
LAME = row("sts 64", 90.0, None, (Failure("accuracy", "graph segment_0_4 failed"),))


def usual() -> SweepReport:
    """Unpruned, three that worked, one out of reach, one without an accuracy."""
    rows = (row("all", 460.0, 190), row("visiondrop 128", 150.0, 188), row("visiondrop 64", 100.0, 186), FAILED, LAME)
    return report(*rows, row("random 64", 95.0, 120))
