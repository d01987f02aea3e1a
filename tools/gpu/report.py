"""The values of a report, and the files it is written to, anew after every part that is done.

It measures nothing; ``table`` draws the Markdown.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from edgeprune.bench.report import Spread
from tools.gpu.machine import Clocks, Machine
from tools.gpu.progress import Progress
from tools.gpu.variant import Engine

SCHEMA = 1
NAME = "gpu_check"


@dataclass(frozen=True)
class Attempt:
    """A backend that was tried on a tiny model.

    Attributes:
        backend, dialect: which.
        works: whether it ran at all.
        reason: why not, in the words of what failed.
        library: name and version of what ran.
        seconds: that it took.
        checks: how many were made, of every graph and of the chain.
        failed: how many of them found a difference.
        failures: those beyond ``edgeprune verify``'s limits, in words.
    """

    backend: str
    dialect: str
    works: bool
    reason: str | None
    library: str | None
    seconds: float
    checks: int = 0
    failed: int = 0
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """The chain's first logits against PyTorch eager's, on the GPU and in its element type.

    Attributes:
        case, variant, dialect: which.
        cosine, max_error: of the logits; the error in units of their range.
        same_token: whether the greedy token is the same.
        kept: share of rows that both kept, over all cuts; None without pruning.
        failures: what is beyond the limits of ``edgeprune verify`` for this element type.
        note: what was not judged, and why.
    """

    case: str
    variant: str
    dialect: str
    cosine: float
    max_error: float
    same_token: bool
    kept: float | None
    failures: tuple[str, ...]
    note: str | None


@dataclass(frozen=True)
class Row:
    """One variant.

    Attributes:
        case: whose.
        variant: "chain keep=64".
        engine: what kind.
        backend: what ran it, versions included; "pytorch eager" for eager.
        dialect: of the graphs; None for eager.
        average: visual rows averaged over the decoder layers.
        stages: visual rows per stage.
        prefill: from the projected visual rows to the first token.
        speedup: eager with all tokens over this, of the same run; None where that was not measured.
        flops_ratio: how many times fewer FLOPs than with all tokens the decoder's layers take.
        ceiling_ms: shortest time at the GPU's best; None where that is unknown.
        ratio: ceiling over measured.
        prune_ms: of the prefill inside prune graphs; None for eager.
        outside_ms: of the prefill outside of graphs; None for eager.
        step: from one token to the next.
        ttft: from the prepared picture to the first token; None where it cannot be.
        peak_bytes: of the GPU's memory, weights included; None without a GPU.
        repeats: prefills that count.
    """

    case: str
    variant: str
    engine: Engine
    backend: str
    dialect: str | None
    average: float
    stages: tuple[int, ...]
    prefill: Spread
    speedup: float | None
    flops_ratio: float
    ceiling_ms: float | None
    ratio: float | None
    prune_ms: float | None
    outside_ms: float | None
    step: Spread | None
    ttft: Spread | None
    peak_bytes: int | None
    repeats: int


@dataclass(frozen=True)
class Verdict:
    """A goal, and whether it was reached; both None where the run could not tell."""

    goal: str
    wanted: float
    measured: float | None
    reached: bool | None
    note: str | None

    def sentence(self) -> str:
        """For people."""
        outcome = {True: "reached", False: "not reached", None: "not judged"}[self.reached]
        measured = "" if self.measured is None else f": {self.measured:.2f}x, wanted {self.wanted:g}x"
        return f"{outcome}: {self.goal}{measured}{f' ({self.note})' if self.note else ''}"


@dataclass
class Report:
    """All of a run so far.

    Attributes:
        machine: what it runs on.
        settings: what was asked for.
        progress: steps, and what was skipped.
        ceilings: where the ceilings are from.
        attempts, comparisons, rows, verdicts: what was found.
        notes: for people.
        errors: parts that broke, with their reasons.
        clocks_after: at the end.
    """

    machine: Machine
    settings: dict[str, Any]
    progress: Progress
    ceilings: str | None = None
    attempts: list[Attempt] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    clocks_after: Clocks | None = None

    @property
    def measurement(self) -> bool:
        """Whether it says anything about a GPU."""
        return self.machine.device == "cuda"

    @property
    def failures(self) -> tuple[str, ...]:
        """Every check that found a difference."""
        tried = (f"{a.backend} {a.dialect}, tiny model: {text}" for a in self.attempts for text in a.failures)
        compared = (f"{c.case}, {c.variant}, {c.dialect}: {text}" for c in self.comparisons for text in c.failures)
        return (*tried, *compared)

    def put(self, row: Row) -> None:
        """Add a row, in the place of an earlier one of the same case, variant and dialect."""
        self.rows = [old for old in self.rows if _key(old) != _key(row)] + [row]

    def to_json(self) -> str:
        """One line."""
        fields = {
            "schema": SCHEMA,
            "measurement": self.measurement,
            "machine": dataclasses.asdict(self.machine),
            "settings": self.settings,
            "ceilings": self.ceilings,
            **{name: [dataclasses.asdict(value) for value in getattr(self, name)] for name in _LISTS},
            "notes": self.notes,
            "errors": self.errors,
            "steps": [dataclasses.asdict(step) for step in self.progress.steps],
            "skipped": [dataclasses.asdict(skipped) for skipped in self.progress.skipped],
            "clocks_after": None if self.clocks_after is None else dataclasses.asdict(self.clocks_after),
            "seconds": round(self.progress.elapsed, 1),
        }
        return json.dumps(_finite(fields), allow_nan=False)


_LISTS = ("attempts", "comparisons", "rows", "verdicts")


def _key(row: Row) -> tuple[str, str, str | None, str]:
    return (row.case, row.variant, row.dialect, row.backend)


def _finite(value: Any) -> Any:
    """JSON has no word for what is not finite."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
