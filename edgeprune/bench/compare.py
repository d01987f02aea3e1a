"""Two saved benchmarks held against each other: per figure how many times larger it became, and whether that is noise.

It measures nothing. A report is what ``edgeprune bench`` prints as its last line, with ``--sweep`` or without.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from edgeprune.bench.interval import Interval, ratio_interval
from edgeprune.bench.report import BenchReport, Conditions, Memory, Spread, Variant
from edgeprune.bench.table import Grid
from edgeprune.bundle.codec import decode
from edgeprune.errors import BundleError, UsageError

Verdict = Literal["more", "less", "no difference", "too few repeats", "no repeats kept", "one value each"]

_STAGES = ("preprocess", "vision", "prune", "project", "text", "prefill")
_DEVICE = {
    "device": "device",
    "power_mode": "power mode",
    "power_limit_watts": "power limit in watts",
    "clock_most_mhz": "GPU clock at most in MHz",
    "locked": "GPU clock locked",
    "throttled": "throttled before the start",
}
_SAME_MACHINE = 1.10  # a machine's own peak, measured twice, differs by less
_PEAKS = (
    ("the machine's own peak when it was measured", "GFLOP/s", "peak_flops"),
    ("the machine's own reading speed when it was measured", "GB/s", "read_bandwidth"),
)
_LEAST_MS = 1e-4  # times are kept with four digits
_DRIFT = (
    "intervals are 95%, each for itself; the repeats of a run share the machine's mood, so a small difference between "
    "two runs may be drift: run both again, in turn"
)
_MOVED = "the machine itself was faster in one of the two runs: what differs may be the machine, not the bundle"
_PER_REQUEST = "ITL: of each request the median of its steps"


@dataclass(frozen=True)
class Figure:
    """One number of one variant in both reports.

    Attributes:
        variant: name.
        name: "TTFT", a stage, "pruning", "ITL", "energy", "peak memory".
        unit: "ms", "J" or "MB".
        old, new: medians, or the one value.
        repeats: how many samples either has; (0, 0) where a report kept none.
        ratio: new over old.
        low, high: its 95% interval; None where there is none.
        verdict: "more" and "less" where the interval leaves out 1; "too few repeats" have no such interval.
    """

    variant: str
    name: str
    unit: str
    old: float
    new: float
    repeats: tuple[int, int]
    ratio: float
    low: float | None
    high: float | None
    verdict: Verdict

    def worse(self, percent: float) -> bool:
        """Whether it surely grew by more than ``percent``: the whole interval, or a single value, lies above."""
        least = self.ratio if self.verdict == "one value each" else self.low
        return least is not None and least > 1 + percent / 100

    def __str__(self) -> str:
        """In a list of what became worse."""
        least = "" if self.low is None else f", at least {self.low - 1:+.1%}"
        return f"{self.variant} {self.name} {self.ratio - 1:+.1%}{least}"

    def sentence(self) -> str:
        """In plain words."""
        if self.verdict == "too few repeats":
            return f"too few repeats ({self.repeats[0]} x {self.repeats[1]}) to tell"
        if self.verdict == "no repeats kept":
            return "an older report without its repeats: cannot tell"
        if self.verdict in ("more", "less"):
            return f"{abs(self.ratio - 1):.1%} {self.verdict}"
        return self.verdict


@dataclass(frozen=True)
class Change:
    """A condition that is not the same in both."""

    name: str
    old: str
    new: str


@dataclass(frozen=True)
class Differences:
    """Two reports compared.

    Attributes:
        old, new: their files.
        conditions: what else is not the same; a figure may differ because of it.
        figures: of the variants that both have.
        only_old, only_new: names of the other variants.
    """

    old: str
    new: str
    conditions: tuple[Change, ...]
    figures: tuple[Figure, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]

    @property
    def judged(self) -> bool:
        """Whether any figure has an interval; without one no time can be told from noise."""
        return any(figure.low is not None for figure in self.figures)

    def worse(self, percent: float) -> tuple[Figure, ...]:
        """The figures that are surely worse by more than ``percent``; every figure is better when it is small.

        Raises:
            UsageError: ``percent`` is below 0 or no number.
        """
        if not 0 <= percent < math.inf:
            raise UsageError(f"--fail-above {percent:g}: expected a percentage of 0 or more")
        return tuple(figure for figure in self.figures if figure.worse(percent))

    def to_json(self) -> str:
        """One line of JSON with exactly these fields."""
        return json.dumps(asdict(self), ensure_ascii=False)


@dataclass(frozen=True)
class _Cell:
    """A row of a sweep; both None where it failed."""

    bench: Variant | None
    memory: Memory | None


@dataclass(frozen=True)
class _Sweep:
    """Of a sweep's JSON what is compared."""

    conditions: Conditions
    cells: tuple[_Cell, ...]


def compare_files(old: Path, new: Path) -> Differences:
    """Compare the reports in the last lines of two files.

    Raises:
        UsageError: a file cannot be read, its last line is no report, or the two have no variant in common.
    """
    return compare_reports(_read(old), _read(new), str(old), str(new))


def compare_reports(old: BenchReport, new: BenchReport, old_name: str = "old", new_name: str = "new") -> Differences:
    """Compare two reports; variants are matched by their names.

    Raises:
        UsageError: they have no variant in common.
    """
    before, after = ({v.name: v for v in report.variants} for report in (old, new))
    shared = [name for name in before if name in after]
    if not shared:
        raise UsageError(
            f"nothing to compare: {old_name} has {', '.join(before)}; {new_name} has {', '.join(after)}; "
            "expected variants of the same names"
        )
    steps = [report.conditions.new_tokens - 1 for report in (old, new)]
    memory = [{entry.variant: entry.peak_bytes / 1e6 for entry in report.memory} for report in (old, new)]
    figures: list[Figure] = []
    for name in shared:
        figures += _figures(before[name], after[name], steps)
        if name in memory[0] and name in memory[1]:
            figures.append(_single(name, "peak memory", "MB", memory[0][name], memory[1][name]))
    return Differences(
        old=old_name,
        new=new_name,
        conditions=tuple(_changes(old.conditions, new.conditions)),
        figures=tuple(figures),
        only_old=tuple(name for name in before if name not in after),
        only_new=tuple(name for name in after if name not in before),
    )


def render_text(differences: Differences) -> str:
    """All of it for a terminal: what else differs, the table, and what to keep in mind."""
    d = differences
    blocks = [f"old: {d.old}\nnew: {d.new}"]
    if d.conditions:
        lines = [f"  {change.name}: {change.old} -> {change.new}" for change in d.conditions]
        blocks.append("\n".join(["Not measured under the same conditions:", *lines]))
    header = ("variant", "figure", "old", "new", "new / old", "95% interval", "")
    blocks.append(Grid("Figures", header, tuple(map(_row, d.figures))).text())
    alone = [
        f"only in {name}: {', '.join(names)}" for name, names in ((d.old, d.only_old), (d.new, d.only_new)) if names
    ]
    if alone:
        blocks.append("\n".join(alone))
    peaks = {name for name, _, _ in _PEAKS}
    moved = [_MOVED] if any(change.name in peaks for change in d.conditions) else []
    blocks.append("\n".join([*moved, _PER_REQUEST, _DRIFT]))
    return "\n\n".join(blocks)


def _row(figure: Figure) -> tuple[str, ...]:
    interval = "-" if figure.low is None else f"{figure.low:.3f} to {figure.high:.3f}"
    values = (f"{_number(value)} {figure.unit}" for value in (figure.old, figure.new))
    return (figure.variant, figure.name, *values, f"{figure.ratio:.3f}", interval, figure.sentence())


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _read(path: Path) -> BenchReport:
    make = "make it with edgeprune bench BUNDLE --json > FILE"
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}; {make}") from error
    if not lines:
        raise UsageError(f"{path} is empty; {make}")
    try:
        return _report(json.loads(lines[-1]))
    except (json.JSONDecodeError, BundleError) as error:
        raise UsageError(f"{path}: its last line is no report of edgeprune bench: {error}; {make}") from error


def _report(value: Any) -> BenchReport:
    """A report, or a sweep as one: of its cells those that were timed.

    Raises:
        BundleError: it is neither.
    """
    if not isinstance(value, dict) or "cells" not in value:
        return decode(BenchReport, value, "bench")
    cells = [_only(cell, ("bench", "memory")) for cell in value["cells"]] if isinstance(value["cells"], list) else None
    found = decode(_Sweep, {**_only(value, ("conditions",)), "cells": cells}, "sweep")
    return BenchReport(
        conditions=found.conditions,
        variants=tuple(cell.bench for cell in found.cells if cell.bench),
        comparisons=(),
        memory=tuple(cell.memory for cell in found.cells if cell.memory),
        targets=(),
        notes=(),
    )


def _only(value: Any, keys: Sequence[str]) -> Any:
    """Of an object those keys alone; a sweep's has many others."""
    return {key: value[key] for key in keys if key in value} if isinstance(value, dict) else value


def _figures(old: Variant, new: Variant, steps: Sequence[int]) -> Iterator[Figure]:
    yield _timed(old.name, "TTFT", old.ttft, new.ttft)
    for stage in _STAGES:
        if stage in old.stages and stage in new.stages:
            yield _timed(old.name, stage, old.stages[stage], new.stages[stage])
    if old.pruning and new.pruning:
        yield _timed(old.name, "pruning", old.pruning, new.pruning)
    itl = [_per_request(spread.times_ms, count) for spread, count in zip((old.itl, new.itl), steps, strict=True)]
    yield _sampled(old.name, "ITL", "ms", (old.itl.median_ms, new.itl.median_ms), itl[0], itl[1])
    before, after = old.energy, new.energy
    if before and after:
        yield _sampled(old.name, "energy", "J", (before.joules, after.joules), before.samples, after.samples)


def _timed(variant: str, name: str, old: Spread, new: Spread) -> Figure:
    return _sampled(variant, name, "ms", (old.median_ms, new.median_ms), old.times_ms, new.times_ms)


def _sampled(
    variant: str, name: str, unit: str, medians: tuple[float, float], old: Sequence[float], new: Sequence[float]
) -> Figure:
    repeats = (len(old), len(new))
    if not old or not new:
        return Figure(variant, name, unit, *medians, (0, 0), _ratio(*medians), None, None, "no repeats kept")
    found = ratio_interval([max(value, _LEAST_MS) for value in old], [max(value, _LEAST_MS) for value in new])
    return Figure(variant, name, unit, *medians, repeats, found.ratio, found.low, found.high, _verdict(found))


def _verdict(found: Interval) -> Verdict:
    if found.low is None or found.high is None:
        return "too few repeats"
    if found.low > 1:
        return "more"
    return "less" if found.high < 1 else "no difference"


def _single(variant: str, name: str, unit: str, old: float, new: float) -> Figure:
    return Figure(variant, name, unit, old, new, (1, 1), _ratio(old, new), None, None, "one value each")


def _ratio(old: float, new: float) -> float:
    return round(max(new, _LEAST_MS) / max(old, _LEAST_MS), 6)


def _per_request(times: Sequence[float], steps: int) -> list[float]:
    """Steps of one request hang together far more than requests do: a request counts once."""
    return [median(times[start : start + steps]) for start in range(0, len(times), steps)]


def _changes(old: Conditions, new: Conditions) -> Iterator[Change]:
    """The conditions that differ; the machine's measured peaks only where more than noise lies between them."""
    before, after = _flat(old), _flat(new)
    for name in dict.fromkeys((*before, *after)):
        have, want = before.get(name), after.get(name)
        if have != want:
            yield Change(name, *map(_word, (have, want)))
    for name, unit, key in _PEAKS:
        first, second = getattr(old.host, key), getattr(new.host, key)
        if max(first, second) > _SAME_MACHINE * min(first, second):
            yield Change(name, *(f"{value / 1e9:.1f} {unit}" for value in (first, second)))


def _word(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return "unknown" if value is None else str(value)


def _flat(conditions: Conditions) -> dict[str, object]:
    c, host = conditions, conditions.host
    plain = {
        name: getattr(c, name)
        for name in (
            *("model", "revision", "dtype", "dialect", "backend", "threads"),
            *("text_tokens", "visual_tokens", "new_tokens", "warmup"),
        )
    }
    machine = {"cpu": host.cpu, "cores": host.cores, "memory_bytes": host.memory_bytes}
    device = {word: getattr(c.device, name) for name, word in _DEVICE.items()} if c.device else {}
    return {**plain, **machine, **device, **{f"version of {name}": version for name, version in host.versions.items()}}
