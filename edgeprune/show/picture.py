"""One picture for several methods: a row each, with what the model sees and then every stage.

It draws the indices and words it is given; matplotlib is imported where it is needed, and no window is opened.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeprune.runtime.overlay import CLS, NEWLINE, OverlayStage
from edgeprune.runtime.sheet import Block, Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KEPT, _MERGED = "#56b4e9", "#e69f00"  # sky blue and orange of Okabe and Ito, told apart by any colour vision
_INK, _FAINT, _DROPPED = "#1a1a1a", "#5a5a5a", "#3c3c3c"
_DIM = 0.38  # brightness that dropped patches keep
_DPI = 160
_SIDE, _GAP, _MARGIN = 2.4, 0.14, 0.2  # inches: longer edge of a panel, between panels, around everything
_MANY = 4.6  # inches: longer edge of a panel of several blocks
_BETWEEN = 8  # pixels between two blocks
_TOP, _HEAD, _TITLE, _FOOT = 0.42, 0.34, 0.36, 0.4  # inches: question, a row's head, a panel's title, legend
_LEAST = 7.0  # inches that the legend needs
_LETTERS = 12.5  # of 9 points, that an inch holds at least


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        name: of the method.
        caption: what is said beside it, such as its answer; cut short where it does not fit.
        stages: what each kept, in order of execution.
    """

    name: str
    caption: str
    stages: tuple[OverlayStage, ...]


def draw_methods(sheet: Sheet, title: str, rows: Sequence[Row]) -> Image.Image:
    """Draw every method's stages over what the model sees, one method below the other.

    Args:
        sheet: see ``make_sheet``.
        title: above everything.
        rows: at least one method.

    Returns:
        A picture in mode RGB.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # a style of the user's own may have a dark background, or typeset with TeX
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box is drawn in place of the letter
        figure = make_figure(sheet, title, rows)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def make_figure(sheet: Sheet, title: str, rows: Sequence[Row]) -> Figure:
    """The figure: per method one panel for the view and one for every stage; all of one size, in columns."""
    from matplotlib.figure import Figure

    pixels, _ = sheet.arranged(_BETWEEN)
    scale = (_SIDE if len(sheet.blocks) == 1 else _MANY) / max(pixels)
    width, height = pixels[0] * scale, pixels[1] * scale
    across = 1 + max(len(row.stages) for row in rows)
    row_height = _HEAD + _TITLE + height + _GAP
    room = max(across * (width + _GAP) - _GAP, _LEAST)
    size = (room + 2 * _MARGIN, _MARGIN + _TOP + len(rows) * row_height + _FOOT)
    figure = Figure(size, dpi=_DPI, facecolor="white")
    _write(figure, (_MARGIN, _MARGIN + 0.5 * _TOP), _short(title, room * 0.8), size=11, weight="bold")
    for number, row in enumerate(rows):
        top = _MARGIN + _TOP + number * row_height
        _head(figure, top, row, room)
        top += _HEAD + _TITLE
        for column in range(1 + len(row.stages)):
            box = (_MARGIN + column * (width + _GAP), size[1] - top - height, width, height)
            axes = figure.add_axes((box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1]))
            axes.set_axis_off()
            _draw(axes, sheet, row.stages[column - 1] if column else None)
    _legend(figure, rows)
    return figure


def _write(figure: Figure, place: tuple[float, float], text: str, **style: Any) -> Any:
    """Text as it stands, dollar signs included; ``place`` is the middle of its left edge, inches from upper left."""
    x, y = place[0] / figure.get_figwidth(), 1 - place[1] / figure.get_figheight()
    return figure.text(x, y, text, ha="left", va="center", color=_INK, parse_math=False, **style)


def _head(figure: Figure, top: float, row: Row, room: float) -> None:
    """The method's name, what is said beside it, and a thin line above."""
    from matplotlib.lines import Line2D

    edges = _MARGIN / figure.get_figwidth()
    y = 1 - (top + 0.03) / figure.get_figheight()
    figure.add_artist(Line2D([edges, 1 - edges], [y, y], color="#c8c8c8", linewidth=0.7))
    name = _write(figure, (_MARGIN, top + 0.55 * _HEAD), row.name, size=10, weight="bold")
    taken = name.get_window_extent().width / _DPI + 0.15
    caption = _short(row.caption, room - taken)
    _write(figure, (_MARGIN + taken, top + 0.55 * _HEAD), caption, size=9)


def _short(text: str, room: float) -> str:
    return shorten(text, max(20, int(room * _LETTERS)), placeholder=" ...")


def _draw(axes: Axes, sheet: Sheet, stage: OverlayStage | None) -> None:
    """A stage, or what the model sees."""
    (width, height), corners = sheet.arranged(_BETWEEN)
    for block, (left, top) in zip(sheet.blocks, corners, strict=True):
        extent = (left, left + block.view.width, top + block.view.height, top)
        if stage is None:
            axes.imshow(np.asarray(block.view), extent=extent)
        else:
            _draw_stage(axes, block, stage, extent)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    if stage is None:
        _title(axes, "input", f"as the model sees it: {sheet.seen}")
    else:
        _title(axes, stage.label, _counts(stage))


def _draw_stage(axes: Axes, block: Block, stage: OverlayStage, extent: tuple[int, int, int, int]) -> None:
    from matplotlib.collections import LineCollection

    kept = np.isin(block.numbers, stage.kept)
    corner = np.array((extent[0], extent[3]))
    axes.imshow(_dimmed(block.view, kept, block.patch), extent=extent)
    outer, inner = (np.array(lines).reshape(-1, 2, 2) + corner for lines in _borders(kept, block.patch))
    axes.add_collection(LineCollection(list(inner), colors=_KEPT, linewidths=0.35, alpha=0.8))
    axes.add_collection(LineCollection(list(outer), colors=_KEPT, linewidths=1.1, capstyle="projecting"))
    if stage.merged:
        row, column = np.nonzero(np.isin(block.numbers, stage.merged))
        x, y = (column + 0.5) * block.patch[1] + corner[0], (row + 0.5) * block.patch[0] + corner[1]
        axes.scatter(x, y, s=20, c=_MERGED, marker="D", linewidths=0.7, edgecolors="black")


def _counts(stage: OverlayStage) -> str:
    """Such as "96 rows: 83 + class row + 12 merged", and "38 rows" where they are all plain."""
    classes, ends = (stage.kept.count(kind) - stage.merged.count(kind) for kind in (CLS, NEWLINE))
    plain = len(stage.kept) - len(stage.merged) - classes - ends
    parts = [str(plain)] if plain else []
    parts += ["class row" if classes == 1 else f"{classes} class rows"] if classes else []
    parts += ["line end" if ends == 1 else f"{ends} line ends"] if ends else []
    parts += [f"{len(stage.merged)} merged"] if stage.merged else []
    detail = f": {' + '.join(parts)}" if plain < len(stage.kept) else ""
    return f"{len(stage.kept)} {'row' if len(stage.kept) == 1 else 'rows'}{detail}"


def _title(axes: Axes, first: str, second: str) -> None:
    style: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "left", "va": "bottom"}
    axes.annotate(first, (0, 1), (0, 13), color=_INK, size=9, **style)
    axes.annotate(second, (0, 1), (0, 3.5), color=_FAINT, size=7.5, **style)


def _dimmed(view: Image.Image, kept: NDArray[np.bool_], patch: tuple[int, int]) -> NDArray[np.uint8]:
    """Dark and grey outside ``kept`` [rows, columns]; so is a margin that belongs to no patch."""
    pixels = np.asarray(view)
    clear = np.zeros(pixels.shape[:2], bool)
    inside = kept.repeat(patch[0], axis=0).repeat(patch[1], axis=1)
    clear[: inside.shape[0], : inside.shape[1]] = inside
    grey = (np.asarray(view.convert("L"), np.float32)[..., None] * _DIM).astype(np.uint8)
    return np.where(clear[..., None], pixels, grey)


_Line = tuple[tuple[int, int], tuple[int, int]]


def _borders(kept: NDArray[np.bool_], patch: tuple[int, int]) -> tuple[list[_Line], list[_Line]]:
    """Edges between a kept patch and a dropped one, and between two kept ones, as ((x, y), (x, y)) in pixels."""
    height, width = patch
    outer: list[_Line] = []
    inner: list[_Line] = []
    around = np.pad(kept, 1)
    for row, column in np.ndindex(kept.shape[0] + 1, kept.shape[1] + 1):
        here, above, left = around[row + 1, column + 1], around[row, column + 1], around[row + 1, column]
        x, y = column * width, row * height
        for neighbour, line in ((above, ((x, y), (x + width, y))), (left, ((x, y), (x, y + height)))):
            if here or neighbour:
                (inner if here and neighbour else outer).append(line)
    return outer, inner


def _legend(figure: Figure, rows: Sequence[Row]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    stages = [stage for row in rows for stage in row.stages]
    handles: list[Any] = [
        Patch(facecolor="white", edgecolor=_KEPT, linewidth=1.5, label="kept"),
        Patch(facecolor=_DROPPED, edgecolor=_DROPPED, label="dropped"),
    ]
    if any(stage.merged for stage in stages):
        merged = "merged: one row from several patches, drawn at its reference"
        marker: dict[str, Any] = {
            "marker": "D",
            "linestyle": "",
            "markersize": 5,
            "markeredgecolor": "black",
            "markeredgewidth": 0.7,
        }
        handles.append(Line2D([], [], color=_MERGED, label=merged, **marker))
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(_MARGIN / figure.get_figwidth(), 0.06 / figure.get_figheight()),
        ncols=len(handles),
        frameon=False,
        fontsize=8.5,
        borderaxespad=0,
        borderpad=0,
        handlelength=1.2,
        handleheight=1.0,
    )
