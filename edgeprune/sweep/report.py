"""The values of a sweep: its rows, what failed, what the figures speak for, and the conditions. It draws nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeprune import catalog
from edgeprune.bench.measure import Sample
from edgeprune.bench.report import Conditions, Memory, Variant
from edgeprune.eval.accuracy import Accuracy
from edgeprune.sweep.pareto import Advice, Point

Phase = Literal["budget", "time", "accuracy", "memory"]
_FLOOR = "none: a floor"  # how the cards of methods that no paper is about begin
_EARLY = ("preprocess", "vision", "project")


@dataclass(frozen=True)
class Failure:
    """What could not be had of a cell, and why: "budget" and "time" leave it without times."""

    phase: Phase
    reason: str


@dataclass(frozen=True)
class Row:
    """One cell.

    Attributes:
        name: "all", or method and budget: "visiondrop 64".
        method: None without pruning.
        keep: as it was asked for.
        variant: its times and counts as ``bench`` has them; None where it failed.
        samples: every repeat.
        memory: None where it was not measured, or failed.
        accuracy: None where nothing was asked, or asking failed.
        failures: what could not be had.
    """

    name: str
    method: str | None
    keep: str
    variant: Variant | None
    samples: tuple[Sample, ...]
    memory: Memory | None
    accuracy: Accuracy | None
    failures: tuple[Failure, ...]

    @property
    def point(self) -> Point | None:
        """For the front; None where it failed."""
        if self.variant is None:
            return None
        stages, ttft = self.variant.stages, self.variant.ttft
        return Point(
            name=self.name,
            average=self.variant.average,
            ttft_ms=ttft.median_ms,
            early_ms=sum(stages[stage].median_ms for stage in _EARLY),
            accuracy=self.accuracy.overall if self.accuracy else None,
            unpruned=self.method is None,
            floor=self.method is not None and catalog.card(self.method).paper.startswith(_FLOOR),
            noise=ttft.p90_ms / ttft.median_ms - 1,
        )


@dataclass(frozen=True)
class Questions:
    """What accuracy was measured on.

    Attributes:
        data: "demo" for held-out scenes of the demo model, else the name of the file of questions.
        count: questions per cell.
        images: pictures they are about.
        max_new_tokens: the longest answer.
        suited: False where the demo model's scenes were asked of another model.
    """

    data: str
    count: int
    images: int
    max_new_tokens: int
    suited: bool


@dataclass(frozen=True)
class Panel:
    """A picture with what one cell kept of it in its last stage, as JPEG.

    Attributes:
        name: of the cell, or "the picture" for the model's view of it.
        tokens: rows out of every stage.
        answer: to the question of the picture.
        jpeg: the file.
    """

    name: str
    tokens: tuple[int, ...]
    answer: str
    jpeg: bytes


@dataclass(frozen=True)
class Kept:
    """One picture and what several cells kept of it; the first panel is the picture itself."""

    question: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class SweepReport:
    """A whole sweep.

    Attributes:
        conditions: as of ``bench``.
        rows: the first is unpruned; then methods and budgets as they were asked for.
        front: names of rows that no other beats, the fastest first.
        advice: the recommended row and why.
        questions: None where none was asked.
        kept: pictures with kept tokens; empty where nothing was drawn.
        command: the command line that makes it again.
        finished: UTC, ISO 8601.
        sittings: how many times the sweep was started until it was complete; 1 without an interruption.
        notes: on predictions, energy and throttling.
    """

    conditions: Conditions
    rows: tuple[Row, ...]
    front: tuple[str, ...]
    advice: Advice
    questions: Questions | None
    kept: tuple[Kept, ...]
    command: str
    finished: str
    sittings: int
    notes: tuple[str, ...]

    @property
    def unpruned(self) -> Row:
        """The first row."""
        return self.rows[0]

    @property
    def failed(self) -> tuple[Row, ...]:
        """Rows of which something could not be had."""
        return tuple(row for row in self.rows if row.failures)

    @property
    def worked(self) -> bool:
        """Whether any cell that prunes has times; without such cells, whether the unpruned model has."""
        asked = self.rows[1:] or self.rows
        return any(row.variant is not None for row in asked)

    def speedup(self, row: Row) -> float | None:
        """How many times faster to the first token than the unpruned model; below 1 it is slower."""
        base = self.unpruned.variant
        if base is None or row.variant is None:
            return None
        return base.ttft.median_ms / row.variant.ttft.median_ms
