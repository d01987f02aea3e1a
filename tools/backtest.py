"""Holds the estimates against every published latency, and fits the shares of peak that they count on.

    python -m tools.backtest            fit; write edgeprune/estimate/efficiency.toml, and the table, tools/backtest.md
    python -m tools.backtest --check    fail unless both are exactly what data and code say

Rows are ``tools/backtest.toml``. Within each device and kind the rows that count alternate, in the order
of the file: the 1st, 3rd, ... fit the shares, the 2nd, 4th, ... judge them.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from edgeprune.bundle.sizes import Decoder, Vision
from edgeprune.estimate.cost import Cost, GraphCost
from edgeprune.estimate.decoder import kv_width
from edgeprune.estimate.encoder import vision_cost
from edgeprune.estimate.machine import EFFICIENCY, Efficiency, Machine, class_of, machine_of_target
from edgeprune.estimate.precision import Precision, precision
from edgeprune.estimate.request import Request, prompt_costs, step_costs
from edgeprune.estimate.roofline import time_graph
from edgeprune.estimate.shape import Shape
from edgeprune.recipes import target as targets
from tools.backtest_fit import Point, fit
from tools.bench_table import first_difference

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

ROOT = Path(__file__).resolve().parents[1]
SEGMENTS = 4
NO_VISION = Vision((1, 1), 1, 1, 1, 1, 1)
UNITS = {"vision": "ms", "prefill": "ms", "TTFT": "ms", "decode": "tok/s", "ratio": "x"}
LIMIT = 0.25
"""The median absolute error of the judged rows must not be above."""
SLOW = "below Super clocks?"
"""The note of rows that may have been measured at other rates than those of their target file."""
ENOUGH = 5
"""Judged rows from which on a class has a band of its own."""


@dataclass(frozen=True)
class How:
    """How the shares of a class are found.

    Attributes:
        free: those that are fitted, in the order in which they are turned.
        start: the class whose shares the others are; None for ``START``.
        given: those that are stated.
        why: of what is not fitted, for the file.
    """

    free: tuple[str, ...]
    start: str | None
    given: dict[str, float]
    why: str


START = Efficiency(vision=0.5, prefill=0.5, decode=0.8, overlap=1.0, launch=500e-6)
CLASSES = {
    "jetson-orin": How(
        ("vision", "prefill", "decode", "launch"),
        None,
        {},
        "overlap is not fitted but that of a plain roofline: the rows hardly tell. Fitted, it would be 0, and the mean "
        "error of the rows that fit 0.105 in place of 0.116; most are INT4, whose kernels unpack before they multiply.",
    ),
    "fp4": How(
        ("vision", "prefill", "decode", "launch"),
        "jetson-orin",
        {},
        "FP4 rates of any device. overlap is jetson-orin's.",
    ),
    "jetson-thor": How(
        ("prefill", "decode"),
        "fp4",
        {},
        "Rates other than FP4. vision, overlap and launch are fp4's, of which the rows are Thor's, too.",
    ),
    "measured": How(
        (),
        "jetson-orin",
        {"vision": 0.9, "prefill": 0.9, "decode": 0.95, "launch": 200e-6},
        "Of what a calibration measured, not of a data sheet; stated, not fitted. The encoder and a segment of the "
        "README's benchmark, timed in turn with the calibration on one core, reached 0.89..0.94, 0.89..0.99 and "
        "0.88..1.02 of it.",
    ),
    "gpu": How(
        ("decode",),
        "jetson-orin",
        {"launch": 100e-6},
        "No row is of a compiled engine on a discrete GPU: decode is that of PyTorch programs; vision, prefill and "
        "overlap are jetson-orin's; launch is assumed: a hundred kernels a segment, a microsecond each.",
    ),
}
"""In the order in which one starts from another."""


@dataclass(frozen=True)
class Row:
    """A published figure.

    Attributes:
        group, source: who published it, and where.
        model, target, dtype, kind: as in the file.
        published: in the unit of its kind.
        rows, kept: of the prompt; for decode, of the cache.
        note: what else tells it from its neighbours.
        skip: why it does not count; None where it does.
        half: "fit" or "judge"; "" where it does not count.
    """

    group: str
    source: str
    model: str
    target: str
    dtype: str
    kind: str
    published: float
    rows: int = 0
    kept: int = 0
    note: str = ""
    skip: str | None = None
    half: str = ""


@dataclass(frozen=True)
class Data:
    """The file: its rows, and the tables that they name."""

    rows: tuple[Row, ...]
    models: Mapping[str, Any]
    machines: Mapping[str, Any]

    def machine(self, row: Row) -> tuple[str, Machine]:
        """The class of a row's machine, and the machine; what it reaches of its peaks is for the caller to say."""
        held = precision(row.dtype)
        if row.target not in self.machines:
            target = targets.load(row.target)
            return class_of(target, held), machine_of_target(target, held)
        table = self.machines[row.target]
        flops, bandwidth = table["tflops"][held.math] * 1e12, table["bandwidth_gbps"] * 1e9
        return table["class"], Machine(row.target, row.target, None, flops, bandwidth, START, 0.0, 0, flops)


def read(path: Path) -> Data:
    """Reads the file, and halves the rows that count."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    seen: Counter[tuple[str, str]] = Counter()
    rows = []
    for group in table["groups"]:
        common = {"group": group["name"], "source": group["source"], "dtype": group["dtype"]}
        for entry in group["rows"]:
            row = Row(**(common | entry))
            if row.skip is None:
                key = (row.target, row.kind)
                row = replace(row, half="judge" if seen[key] % 2 else "fit")
                seen[key] += 1
            rows.append(row)
    return Data(tuple(rows), table["models"], table["machines"])


def reckoner(data: Data, row: Row) -> Callable[[Machine], float]:
    """What gives a row's figure for any machine; counting is done once."""
    held, model = precision(row.dtype), data.models[row.model]
    if row.kind == "vision":
        costs = [_vision(model, held)]
    else:
        shape = Shape(row.model, NO_VISION, Decoder(**model["decoder"]))
        costs = _decoder(shape, held, row.rows, row.kind == "decode")
    if row.kind == "decode":
        return lambda machine: 1 / _seconds(costs, machine)
    if row.kind == "ratio":
        fewer = _decoder(shape, held, row.kept, False)
        return lambda machine: _seconds(costs, machine) / _seconds(fewer, machine)
    return lambda machine: 1e3 * _seconds(costs, machine)


def _seconds(costs: Sequence[GraphCost], machine: Machine) -> float:
    return sum(time_graph(cost, machine).seconds for cost in costs)


def _decoder(shape: Shape, held: Precision, rows: int, step: bool) -> list[GraphCost]:
    """Prefill of so many rows, or a step behind them.

    In four segments, as bundles have them, so that a launch is of a segment. A step without the copy of the cache that
    our graphs write: the engines that were measured have it in place.
    """
    depth = shape.decoder.layers
    edges = tuple(depth * part // SEGMENTS for part in range(1, SEGMENTS))
    request = Request(shape, held, rows - 1, 0, None, None, edges)  # the picture that there must be is one row
    if not step:
        return [cost for cost in prompt_costs(request) if cost.stage == "prefill" and cost.graph != "assemble"]
    copy = rows * 2 * kv_width(shape.decoder) * held.element
    return [
        replace(cost, cost=cost.cost + Cost(traffic=-copy * (last - first)))
        for cost, (first, last) in zip(step_costs(request), request.bounds, strict=True)
    ]


def _vision(model: Mapping[str, Any], held: Precision) -> GraphCost:
    """Encoder and projectors of a Qwen model."""
    table = model["vision"]
    v = Vision(**(table | {"grid": tuple(table["grid"])}))
    cost = vision_cost(Shape("", v, Decoder(**model["decoder"])), held, ())
    if "window" in model:
        unseen = (v.layers - model["full"]) * 2 * v.tokens * (v.tokens - model["window"]) * v.width
        cost += Cost(flops=-2 * unseen)
    wide = 4 * v.width
    parameters = model["mergers"] * wide * (wide + model["decoder"]["hidden"])
    return GraphCost("vision", "vision", cost + Cost(2 * parameters * v.tokens // 4, parameters * held.element))


# --- the table


@dataclass(frozen=True)
class Line:
    """A row with the class of its machine and what is estimated for it; None where nothing is."""

    row: Row
    name: str
    estimate: float | None

    @property
    def error(self) -> float:
        """Absolute, relative to what is published."""
        assert self.estimate is not None
        return abs(self.estimate / self.row.published - 1)


def reckon(data: Data, shares: Mapping[str, Efficiency]) -> list[Line]:
    """Every row with its estimate, by the shares of each class."""
    lines = []
    for row in data.rows:
        if row.skip is not None:
            lines.append(Line(row, "", None))
            continue
        name, machine = data.machine(row)
        lines.append(Line(row, name, reckoner(data, row)(replace(machine, efficiency=shares[name]))))
    return lines


def judged(lines: Sequence[Line], name: str | None = None) -> list[float]:
    """Errors of the judged rows, of one class or of all."""
    return [line.error for line in lines if line.row.half == "judge" and name in (None, line.name)]


def band(lines: Sequence[Line], name: str) -> float:
    """The error band of a class: its own, or where it has few judged rows the larger of its own and that of all."""
    own, every = judged(lines, name), median(judged(lines))
    if len(own) >= ENOUGH:
        return median(own)
    return max([every, *([median(own)] if own else [])])


def render(data: Data, shares: Mapping[str, Efficiency], lines: Sequence[Line]) -> str:
    """The page: what was found, the shares, every row, the sources."""
    errors = judged(lines)
    page = [
        "# Estimates against published latencies",
        "",
        "Written by `python -m tools.backtest`; the figures are in `backtest.toml`, the shares in "
        "`edgeprune/estimate/efficiency.toml`.",
        "",
        f"**Median absolute error of the judged rows: {_percent(median(errors))}** ({len(errors)} rows; at most "
        f"{_percent(LIMIT)} is asked for). Within each device and kind rows alternate in the order of the file: "
        "the 1st, 3rd, ... were fitted to, the 2nd, 4th, ... judge. `edgeprune estimate` prints the band of its class: "
        f"the median of the class, or with fewer than {ENOUGH} judged rows at least that of all.",
        "",
        "| class | rows fitted | rows judged | median error | band | vision | prefill | decode | overlap | launch us |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, share in shares.items():
        own = judged(lines, name)
        fitted = sum(line.row.half == "fit" and line.name == name for line in lines)
        figures = [share.vision, share.prefill, share.decode, share.overlap, share.launch * 1e6]
        found = [fitted, len(own), _percent(median(own)) if own else "-", _percent(band(lines, name))]
        page.append(_cells([name, *found, *(f"{figure:g}" for figure in figures)]))
    page += [
        "",
        *_remarks(lines),
        "",
        "| source | model | device | dtype | what | published | estimate | ratio | half |",
    ]
    page.append("|---|---|---|---|---|--:|--:|--:|---|")
    page += [_line(line) for line in lines]
    page += ["", "Sources:", ""]
    page += [f"- {name}: {source}" for name, source in dict.fromkeys((row.group, row.source) for row in data.rows)]
    return "\n".join(page) + "\n"


def _remarks(lines: Sequence[Line]) -> list[str]:
    doubtful = [line.error for line in lines if line.row.half == "judge" and line.row.note != SLOW]
    return [
        "- Sizes of models are those of their public config.json files as we know them; the files were not read here.",
        f"- Rows marked *{SLOW}*: Edge-LLM does not say in which mode its Orin Nano ran. They are 1.3 to 1.9 times as "
        "slow as the Orin NX, which has the same bandwidth and 1.1 times the FLOPs; others report the rates of the "
        "Super modes on the same board. They count against those, like all; nothing is tuned to them. Without them "
        f"the median is {_percent(median(doubtful))}.",
        "- A published step has its cache in place; ours copies it. The copy is left out here, as it was in what was "
        f"measured. A decoder is asked for in {SEGMENTS} segments: a launch is of a segment.",
        "- `gpu` is judged on PyTorch programs alone, whose small models wait for launches: its band is theirs.",
    ]


def _line(line: Line) -> str:
    row, unit = line.row, UNITS[line.row.kind]
    what = row.kind + (f" {row.rows}" if row.rows else "") + (f" to {row.kept}" if row.kept else "")
    what += f" ({row.note})" if row.note else ""
    cells = [row.group, row.model, row.target, row.dtype, what, f"{row.published:g} {unit}"]
    if line.estimate is None:
        return _cells([*cells, "-", "-", f"not counted: {row.skip}"])
    return _cells([*cells, f"{line.estimate:.3g} {unit}", f"{line.estimate / row.published:.2f}", row.half])


def _cells(values: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, values))} |"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


# --- fitting


def fitted(data: Data) -> dict[str, Efficiency]:
    """The shares of every class, from its rows to fit and those of the class before it."""
    points: dict[str, list[Point]] = {name: [] for name in CLASSES}
    for row in data.rows:
        if row.half == "fit":
            name, machine = data.machine(row)
            points[name].append(Point(row.published, machine, reckoner(data, row)))
    found: dict[str, Efficiency] = {}
    for name, how in CLASSES.items():
        start = replace(found[how.start] if how.start else START, **how.given)
        found[name] = fit(points[name], start, how.free) if how.free else start
    return found


def render_shares(shares: Mapping[str, Efficiency], lines: Sequence[Line]) -> str:
    """The text of ``efficiency.toml``."""
    text = ["# Shares of peak that estimates count on, per class of machines. Written by tools/backtest.py."]
    for name, share in shares.items():
        text += ["", *textwrap.wrap(CLASSES[name].why, 118, initial_indent="# ", subsequent_indent="# "), f"[{name}]"]
        text += [f"{key} = {getattr(share, key):g}" for key in ("vision", "prefill", "decode", "overlap")]
        text += [f"launch_us = {share.launch * 1e6:g}", f"band = {band(lines, name):.3f}"]
    return "\n".join(text) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=ROOT / "tools" / "backtest.toml", metavar="FILE")
    parser.add_argument("--page", type=Path, default=ROOT / "tools" / "backtest.md", metavar="FILE")
    parser.add_argument("--shares", type=Path, default=EFFICIENCY, metavar="FILE")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is stale")
    options = parser.parse_args(arguments)
    data = read(options.rows)
    shares = fitted(data)
    lines = reckon(data, shares)
    for path, want in ((options.shares, render_shares(shares, lines)), (options.page, render(data, shares, lines))):
        have = path.read_text(encoding="utf-8") if path.is_file() else ""
        if have == want:
            continue
        if options.check:
            raise SystemExit(f"{path} is stale, {first_difference(have, want)}: run python -m tools.backtest")
        path.write_text(want, encoding="utf-8")


if __name__ == "__main__":
    main()
