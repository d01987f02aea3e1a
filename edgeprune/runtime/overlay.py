"""One picture that shows which patches of a photo each pruning stage kept.

The first panel is the model's view of the photo; every further panel is one stage: kept patches stay as they
are inside an outline, dropped ones turn dark and grey, merged ones carry a diamond. Knows nothing about
models or methods: it draws the indices it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edgeprune.bundle.image import ImageProcessing
from edgeprune.errors import UsageError
from edgeprune.runtime.preprocess import fit

CLS = -1
"""The index of the class token, which has no place in the picture."""

COLOURS = ("#56b4e9", "#e69f00", "#cc79a7", "#f0e442", "#009e73", "#d55e00")
"""Of the stages in order: the palette of Okabe and Ito, for any colour vision; repeats after six."""

_PANEL = 600  # least pixels of a panel's shorter edge: 25 or more for a patch of a 24 x 24 grid
_GAP = 24
_DIM = 0.38  # brightness that dropped patches keep
_INK, _PAPER = "#1a1a1a", "#ffffff"
_FAINT, _CLEAR, _DROPPED = "#6a6a6a", "#efe7d8", "#3c3c3c"  # of the legend, which stands for every stage


@dataclass(frozen=True)
class OverlayStage:
    """What one stage kept.

    Attributes:
        label: the stage's name in the title of its panel.
        kept: indices of the patches that remain, row by row from the upper left; -1 is the class token.
        merged: those of ``kept`` whose row is the mean of several patches.

    Raises:
        UsageError: an index appears twice, or ``merged`` holds one that ``kept`` does not.
    """

    label: str
    kept: tuple[int, ...]
    merged: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, indices in (("kept", self.kept), ("merged", self.merged)):
            if len(set(indices)) != len(indices):
                raise UsageError(f"overlay stage {self.label!r}: {name} holds an index twice: {sorted(indices)}")
        strangers = sorted(set(self.merged) - (set(self.kept) - {CLS}))
        if strangers:
            raise UsageError(f"overlay stage {self.label!r}: merged holds {strangers}, expected patches of kept")

    def title(self, patches: int) -> str:
        """Such as "vision: 96 of 576 (83 + CLS + 12 merged)"; the class token counts among the kept."""
        plain = len(self.kept) - len(self.merged) - (CLS in self.kept)
        parts = [str(plain)] if plain else []
        parts += ["CLS"] if CLS in self.kept else []
        parts += [f"{len(self.merged)} merged"] if self.merged else []
        detail = f" ({' + '.join(parts)})" if len(self.kept) > plain else ""
        return f"{self.label}: {len(self.kept)} of {patches}{detail}"


def draw_overlay(
    image: Image.Image, processing: ImageProcessing, grid: tuple[int, int], stages: Sequence[OverlayStage]
) -> Image.Image:
    """Draw the input and every stage side by side, wrapped to rows of at most three panels, with a legend.

    Args:
        image: the photo, as ``load_image`` returns it.
        processing: how the model resizes and crops it.
        grid: (rows, columns) of patches.
        stages: what each stage kept, in the order they run.

    Returns:
        A picture in mode RGB; its panels are whole multiples of the model's input size, 600 pixels or more.

    Raises:
        ImageError: as ``preprocess``.
        UsageError: the grid is empty or finer than the pixels, or a stage keeps a patch outside it.
    """
    view = fit(image, processing)
    _check(view, grid, stages)
    view, patch = _enlarge(view, grid)
    rows, columns = grid
    panels = [(f"input: {image.width} x {image.height}, seen as {columns} x {rows} patches", view, "")]
    for place, stage in enumerate(stages):
        colour = COLOURS[place % len(COLOURS)]
        panels.append((stage.title(rows * columns), _draw_stage(view, stage, grid, patch, colour), colour))
    return _arrange(panels, stages)


def draw_panel(
    image: Image.Image, processing: ImageProcessing, grid: tuple[int, int], stage: OverlayStage | None
) -> Image.Image:
    """One panel alone, without title or legend: a stage, or the model's view where it is None.

    Arguments, result and errors are those of ``draw_overlay``.
    """
    view = fit(image, processing)
    _check(view, grid, [] if stage is None else [stage])
    view, patch = _enlarge(view, grid)
    return view if stage is None else _draw_stage(view, stage, grid, patch, COLOURS[0])


def _enlarge(view: Image.Image, grid: tuple[int, int]) -> tuple[Image.Image, tuple[int, int]]:
    """The view at a panel's size, and (height, width) of a patch in its pixels."""
    scale = ceil(_PANEL / min(view.size))
    patch = view.height // grid[0] * scale, view.width // grid[1] * scale
    return view.resize((view.width * scale, view.height * scale), Image.Resampling.BICUBIC), patch


def _check(view: Image.Image, grid: tuple[int, int], stages: Sequence[OverlayStage]) -> None:
    rows, columns = grid
    if not (1 <= rows <= view.height and 1 <= columns <= view.width):
        raise UsageError(
            f"overlay: a grid of {rows} x {columns} patches does not fit {view.height} x {view.width} pixels"
        )
    for stage in stages:
        outside = [index for index in stage.kept if not CLS <= index < rows * columns]
        if outside:
            known = f"{CLS}..{rows * columns - 1}"
            raise UsageError(f"overlay stage {stage.label!r} keeps patch {outside[0]}, expected {known}")


def _draw_stage(
    view: Image.Image, stage: OverlayStage, grid: tuple[int, int], patch: tuple[int, int], colour: str
) -> Image.Image:
    height, width = patch
    kept = np.zeros(grid, bool)
    kept.reshape(-1)[[index for index in stage.kept if index != CLS]] = True
    panel = _dim_dropped(view, kept, patch)
    draw = ImageDraw.Draw(panel)
    thick = min(max(2, min(patch) // 8), 6)
    for row, column in np.argwhere(kept):
        box = (column * width, row * height, (column + 1) * width - 1, (row + 1) * height - 1)
        _outline(draw, box, kept, (int(row), int(column)), thick, colour)
    for index in stage.merged:
        centre = (index % grid[1] + 0.5) * width, (index // grid[1] + 0.5) * height
        _diamond(draw, centre, min(0.4 * min(patch), 24), colour)
    return panel


def _dim_dropped(view: Image.Image, kept: NDArray[np.bool_], patch: tuple[int, int]) -> Image.Image:
    """Dark and grey outside ``kept`` [rows, columns]; so is a margin that belongs to no patch."""
    pixels = np.asarray(view)
    clear = np.zeros(pixels.shape[:2], bool)
    inside = kept.repeat(patch[0], axis=0).repeat(patch[1], axis=1)
    clear[: inside.shape[0], : inside.shape[1]] = inside
    grey = np.asarray(view.convert("L"), np.float32)[..., None] * _DIM
    return Image.fromarray(np.where(clear[..., None], pixels, grey.astype(np.uint8)))


def _outline(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    kept: NDArray[np.bool_],
    place: tuple[int, int],
    thick: int,
    colour: str,
) -> None:
    """Thick towards dropped neighbours, one pixel towards kept ones: regions and patches both show."""
    left, top, right, bottom = box
    row, column = place
    around = np.pad(kept, 1)[row : row + 3, column : column + 3]
    up, west, east, down = (1 if around[at] else thick for at in ((0, 1), (1, 0), (1, 2), (2, 1)))
    draw.rectangle((left, top, right, top + up - 1), fill=colour)
    draw.rectangle((left, top, left + west - 1, bottom), fill=colour)
    if east > 1:  # a kept neighbour draws the common line itself
        draw.rectangle((right - east + 1, top, right, bottom), fill=colour)
    if down > 1:
        draw.rectangle((left, bottom - down + 1, right, bottom), fill=colour)


def _diamond(draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, colour: str) -> None:
    x, y = centre
    for reach, fill in ((radius + 2, _INK), (radius, colour), (radius * 0.35, _PAPER)):
        draw.polygon([(x - reach, y), (x, y - reach), (x + reach, y), (x, y + reach)], fill=fill)


def _arrange(panels: Sequence[tuple[str, Image.Image, str]], stages: Sequence[OverlayStage]) -> Image.Image:
    """Titles over panels over the legend, on white paper."""
    width, height = panels[0][1].size
    text = max(18, width // 26)
    across = {1: 1, 2: 2, 4: 2}.get(len(panels), 3)
    down = ceil(len(panels) / across)
    row_height = height + 2 * text + _GAP
    paper = (_GAP + across * (width + _GAP), down * row_height + 2 * text + _GAP)
    picture = Image.new("RGB", paper, _PAPER)
    draw = ImageDraw.Draw(picture)
    for place, (title, panel, colour) in enumerate(panels):
        left, top = _GAP + place % across * (width + _GAP), _GAP // 2 + place // across * row_height
        _title(draw, (left, top + text), title, width, text, colour)
        picture.paste(panel, (left, top + 2 * text))
    words = ["kept", "dropped"]
    words += ["merged: one token from several patches"] if any(stage.merged for stage in stages) else []
    words += ["CLS: class token, not a patch"] if any(CLS in stage.kept for stage in stages) else []
    _legend(draw, (_GAP, down * row_height + text + _GAP // 2), words, paper[0] - 2 * _GAP, text)
    return picture


def _title(draw: ImageDraw.ImageDraw, place: tuple[int, int], title: str, width: int, size: int, colour: str) -> None:
    """A swatch of the stage's colour, if any, and the title, in smaller letters where it is long.

    ``place`` is the middle of its left edge.
    """
    left, middle = place
    half = size // 3
    start = 2 * half + size // 2 if colour else 0
    if colour:
        draw.rectangle((left, middle - half, left + 2 * half, middle + half), fill=colour)
    draw.text((left + start, middle), title, _INK, _font(draw, title, width - start, size), anchor="lm")


def _legend(draw: ImageDraw.ImageDraw, place: tuple[int, int], words: Sequence[str], width: int, size: int) -> None:
    """The words in a line, those of a patch behind a patch of that kind; ``place`` is its left middle."""
    icon, gap = round(size * 1.1), size // 2
    spare = width - len(words) * (icon + 3 * gap)
    font = _font(draw, "".join(words), spare, size)
    (left, middle), half = place, icon // 2
    for word in words:
        kind = word.split(":")[0]
        if kind != "CLS":
            box = (left, middle - half, left + 2 * half, middle + half)
            fill = _DROPPED if kind == "dropped" else _CLEAR
            draw.rectangle(box, fill, outline=fill if kind == "dropped" else _FAINT, width=max(2, size // 8))
            if kind == "merged":
                _diamond(draw, (left + half, middle), 0.4 * icon, _FAINT)
            left += 2 * half + gap
        draw.text((left, middle), word, _INK, font, anchor="lm")
        left += round(draw.textlength(word, font)) + 2 * gap


def _font(draw: ImageDraw.ImageDraw, text: str, width: int, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, at most ``size`` pixels high and small enough for ``text`` to fit ``width``."""
    font = ImageFont.load_default(size)
    length = draw.textlength(text, font)
    return font if length <= width else ImageFont.load_default(max(8, int(size * width / length)))
