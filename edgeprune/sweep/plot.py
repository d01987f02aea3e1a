"""Where everything of the plot of accuracy against time lies, in the units of its drawing; the template draws it.

Each method has a colour and a shape of its own, told apart by any colour vision; its budgets are written beside the
points, where there is room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.sweep.report import Row, SweepReport

WIDTH, HEIGHT = 640, 420
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 46  # margins that hold the ticks and the names of the axes
COLOURS = 6  # of Okabe and Ito's palette that read on white and on black; the page's style names them
SHAPES = ("circle", "square", "triangle", "diamond", "wedge", "cross")
_LETTER, _LINE = 6.6, 12.0  # of the labels' type
_WIDE = 2.0  # times that differ by more are drawn as ratios: budgets are chosen by how many times faster they are
_MOST_TICKS = 12
_AROUND = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))
_REACH = (9.0, 17.0, 26.0)  # how far from its point a label may stand


@dataclass(frozen=True)
class Tick:
    """A line of the grid and its number."""

    at: float
    text: str


@dataclass(frozen=True)
class Label:
    """A text and where its middle is; ``far`` where a thin line has to say whose it is."""

    x: float
    y: float
    text: str
    far: bool


@dataclass(frozen=True)
class Mark:
    """A cell.

    Attributes:
        name: of the cell, and what a pointer over it shows.
        hint: its figures in words.
        x, y: its place.
        low, high: ends of its error bar; None without one.
        colour, shape: of its method.
        chosen, on_front: how it is drawn.
        label: its budget; None where there was no room.
    """

    name: str
    hint: str
    x: float
    y: float
    low: float | None
    high: float | None
    colour: int
    shape: str
    chosen: bool
    on_front: bool
    label: Label | None


@dataclass(frozen=True)
class Key:
    """A line of the legend."""

    text: str
    colour: int
    shape: str


@dataclass(frozen=True)
class Plot:
    """All of it.

    Attributes:
        x_ticks, y_ticks: of the grid.
        asked: whether accuracy is the vertical axis.
        y_name: of it.
        band: top and bottom of the unpruned model's interval; None without accuracies.
        path: the front from point to point, as an SVG path.
        marks: the cells.
        keys: the legend, unpruned first.
        logarithmic: whether equal distances are equal ratios of time.
        said: all of it in a sentence, for who does not see it.
    """

    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    asked: bool
    y_name: str
    band: tuple[float, float] | None
    path: str
    marks: tuple[Mark, ...]
    keys: tuple[Key, ...]
    logarithmic: bool
    said: str


def make_plot(report: SweepReport) -> Plot | None:
    """Accuracy against time to first token; without accuracies the average tokens stand in. None without points."""
    asked = any(row.point and row.point.accuracy for row in report.rows)
    rows = [row for row in report.rows if row.point and (row.point.accuracy or not asked)]
    if not rows:
        return None
    times = [_time(row) for row in rows]
    values = [_value(row, asked) for row in rows]
    spans = [_span(row) for row in rows if asked]
    logarithmic = max(times) > _WIDE * min(times)
    x_axis = _log_axis(times) if logarithmic else _Axis.around(times, LEFT, WIDTH - RIGHT, 8)
    every = [*values, *(end for span in spans for end in span)]
    y_axis = _Axis.around(every, HEIGHT - BOTTOM, TOP, 6)
    places = {row.name: (x_axis.place(t), y_axis.place(v)) for row, t, v in zip(rows, times, values, strict=True)}
    keys = _keys(report)
    labels = _labels(report, rows, places)
    marks = []
    for row in rows:
        key = next(key for key in keys if key.text == (row.method or "unpruned"))
        ends = [y_axis.place(end) for end in _span(row)] if asked else [None, None]
        x, y = places[row.name]
        on_front = row.name in report.front
        chosen = row.name == report.advice.recommended
        marks.append(
            Mark(
                row.name,
                _hint(row),
                x,
                y,
                ends[0],
                ends[1],
                key.colour,
                key.shape,
                chosen,
                on_front,
                labels.get(row.name),
            )
        )
    base = report.unpruned
    band = None
    if asked and base in rows:
        low, high = _span(base)
        band = (y_axis.place(high), y_axis.place(low))
    drawn = [name for name in report.front if name in places]
    path = "M" + " L".join(f"{places[name][0]:.1f} {places[name][1]:.1f}" for name in drawn)
    said = (
        f"{'Accuracy' if asked else 'Visual tokens kept on average'} against time to first token, {len(rows)} cells; "
        f"no other beats {', '.join(drawn)}. The figures are in the table of all cells."
    )
    y_name = "right answers, %" if asked else "visual tokens on average"
    return Plot(x_axis.ticks(), y_axis.ticks(), asked, y_name, band, path, tuple(marks), keys, logarithmic, said)


@dataclass(frozen=True)
class _Axis:
    """From a value to a place: ``low`` lies at ``start``, ``high`` at ``end``; ``values`` get a tick."""

    low: float
    high: float
    start: float
    end: float
    values: tuple[float, ...]
    digits: int = 0
    logarithmic: bool = False

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float, ticks: int) -> _Axis:
        """Some room around the values, and about so many round numbers."""
        low, high = min(values), max(values)
        room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        low, high = low - room, high + room
        raw = (high - low) / ticks
        power = math.floor(math.log10(raw))
        step = next(10.0**power * factor for factor in (1, 2, 5, 10) if 10.0**power * factor >= raw)
        least, most = max(0.0, min(values)), max(values)  # room has no numbers: nothing is right above 100%
        first, last = math.ceil(max(low, least - step) / step), math.floor(min(high, most) / step + 1e-9)
        round_ones = tuple(number * step for number in range(max(0, first), last + 1) if number * step >= low)
        return cls(low, high, start, end, round_ones, max(0, -power))

    def place(self, value: float) -> float:
        low, high, at = (math.log(v) if self.logarithmic else v for v in (self.low, self.high, value))
        return round(self.start + (at - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self) -> tuple[Tick, ...]:
        return tuple(Tick(self.place(value), f"{value:,.{self.digits}f}") for value in self.values)


def _log_axis(values: Sequence[float]) -> _Axis:
    """Of times: numbers 1, 2, 3, 5, 7 by powers of ten."""
    low, high = min(values) / 1.08, max(values) * 1.08
    power = math.floor(math.log10(low))
    numbers = [
        10.0**exponent * digit for exponent in range(power, power + 6) for digit in (1, 1.5, 2, 3, 4, 5, 6, 7, 8)
    ]
    shown = [number for number in numbers if low <= number <= high]
    if len(shown) > _MOST_TICKS:
        shown = [number for number in shown if number / 10.0 ** math.floor(math.log10(number)) in (1, 2, 5)]
    return _Axis(low, high, LEFT, WIDTH - RIGHT, tuple(shown), max(0, 1 - power), True)


def _labels(report: SweepReport, rows: Sequence[Row], places: dict[str, tuple[float, float]]) -> dict[str, Label]:
    """A place for every budget that touches no point and no other label; the most important first."""
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places.values()]
    found: dict[str, Label] = {}
    chosen = report.advice.recommended
    order = sorted(rows, key=lambda row: (row.name != chosen, row.method is not None, row.name not in report.front))
    for row in order:
        text = row.name if row.name == chosen else row.keep
        half = 0.5 * _LETTER * len(text)
        ring = 4.0 if row.name == chosen else 0.0
        for reach, (right, down) in ((reach + ring, side) for reach in _REACH for side in _AROUND):
            x = places[row.name][0] + right * (reach + half)
            y = places[row.name][1] + down * (reach + (0 if right else 0.3 * _LINE))
            box = (x - half, y - 0.5 * _LINE, x + half, y + 0.5 * _LINE)
            inside = box[0] > LEFT and box[2] < WIDTH - RIGHT and box[1] > TOP and box[3] < HEIGHT - BOTTOM
            if inside and not any(_touch(box, other) for other in taken):
                taken.append(box)
                found[row.name] = Label(round(x, 1), round(y, 1), text, reach > _REACH[0] + ring)
                break
    return found


def _touch(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _keys(report: SweepReport) -> tuple[Key, ...]:
    methods = list(dict.fromkeys(row.method for row in report.rows if row.method is not None and row.variant))
    keys = [
        Key(name, place % COLOURS, SHAPES[(place + place // COLOURS) % len(SHAPES)])
        for place, name in enumerate(methods)
    ]
    return (Key("unpruned", COLOURS, "star"), *keys)


def _time(row: Row) -> float:
    assert row.variant is not None  # only rows with a point are drawn
    return row.variant.ttft.median_ms


def _value(row: Row, asked: bool) -> float:
    point = row.point
    assert point is not None  # as above
    return 100 * point.share if asked else point.average


def _span(row: Row) -> tuple[float, float]:
    assert row.accuracy is not None and row.accuracy.overall is not None  # as above
    return 100 * row.accuracy.overall.low, 100 * row.accuracy.overall.high


def _hint(row: Row) -> str:
    point = row.point
    assert point is not None  # as above
    share = f", {100 * point.share:.1f}% right" if point.accuracy else ""
    return f"{row.name}: first token in {point.ttft_ms:,.1f} ms{share}, {point.average:.1f} visual tokens on average"
