"""One picture that shows which patches of a photo or a video each pruning stage kept.

The first panel is what the model sees; every further panel is one stage: kept patches stay as they are inside an
outline, dropped ones turn dark and grey, merged ones carry a diamond. Knows nothing about models or methods: it
draws the indices it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edgeprune.errors import UsageError
from edgeprune.runtime.sheet import Block, Sheet

CLS = -1
"""The index of a class token, which has no place in the picture; every run of the encoder may have one."""

NEWLINE = -2
"""The index of a row that ends a line of a picture in tiles."""

COLOURS = ("#56b4e9", "#e69f00", "#cc79a7", "#f0e442", "#009e73", "#d55e00")
"""Of the stages in order: the palette of Okabe and Ito, for any colour vision; repeats after six."""

_PANEL = 600  # least pixels of a panel's shorter edge: 25 or more for a patch of a 24 x 24 grid
_LARGEST = 1800  # about the most pixels of its longer edge, where pictures or frames are many or large
_GAP = 24
_BETWEEN = 12  # pixels between the mosaic and the overview, or two frames
_HEAD = 30  # pixels above each of several pictures, for its name
_WIDE = 1.6  # width over height of a panel above which fewer stand side by side
_LETTERS = range(18, 37)  # pixels high, of titles
_DIM = 0.38  # brightness that dropped patches keep
_INK, _PAPER = "#1a1a1a", "#ffffff"
_FAINT, _CLEAR, _DROPPED = "#6a6a6a", "#efe7d8", "#3c3c3c"  # of the legend, which stands for every stage


@dataclass(frozen=True)
class OverlayStage:
    """What one stage kept.

    Attributes:
        label: the stage's name in the title of its panel.
        kept: indices of the patches that remain, row by row from the upper left, run by run; -1 is a class token, -2
            the end of a line.
        merged: those of ``kept`` whose row is the mean of several; a class token may stand for such a row, too.

    Raises:
        UsageError: an index appears twice, or ``merged`` holds one that ``kept`` does not.
    """

    label: str
    kept: tuple[int, ...]
    merged: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, indices in (("kept", self.kept), ("merged", self.merged)):
            patches = [index for index in indices if index >= 0]
            if len(set(patches)) != len(patches):
                raise UsageError(f"overlay stage {self.label!r}: {name} holds an index twice: {sorted(indices)}")
        strangers = sorted(set(self.merged) - set(self.kept))
        if strangers:
            raise UsageError(f"overlay stage {self.label!r}: merged holds {strangers}, expected rows of kept")

    def title(self, patches: int, unit: str = "") -> str:
        """Such as "vision: 96 of 576 (83 + CLS + 12 merged)"; tokens without a place count among the kept.

        ``unit`` stands behind the number of all patches: " patches".
        """
        classes, ends = (self.kept.count(kind) - self.merged.count(kind) for kind in (CLS, NEWLINE))
        plain = len(self.kept) - len(self.merged) - classes - ends
        parts = [str(plain)] if plain else []
        parts += ["CLS" if classes == 1 else f"{classes} CLS"] if classes else []
        parts += ["line end" if ends == 1 else f"{ends} line ends"] if ends else []
        parts += [f"{len(self.merged)} merged"] if self.merged else []
        detail = f" ({' + '.join(parts)})" if len(self.kept) > plain else ""
        return f"{self.label}: {len(self.kept)} of {patches}{unit}{detail}"


def draw_overlay(sheet: Sheet, stages: Sequence[OverlayStage]) -> Image.Image:
    """Draw the input and every stage side by side, wrapped to rows of at most three panels, with a legend.

    Args:
        sheet: what the model sees, see ``make_sheet``.
        stages: what each stage kept, in the order they run.

    Returns:
        A picture in mode RGB; panels of one small picture are whole multiples of the model's input size, 600 pixels
        or more.

    Raises:
        UsageError: a stage keeps a patch outside the sheet.
    """
    _check(sheet, stages)
    sheet = sheet.scaled(_PANEL, _LARGEST)
    views = [block.view for block in sheet.blocks]
    panels = [(f"input: {sheet.opened}, seen as {sheet.seen}", _compose(sheet, views), "")]
    for place, stage in enumerate(stages):
        colour = COLOURS[place % len(COLOURS)]
        drawn = [_draw_stage(block, stage, colour) for block in sheet.blocks]
        title = stage.title(sheet.tokens, " patches" if sheet.names else "")
        panels.append((title, _compose(sheet, drawn), colour))
    return _arrange(panels, stages)


def draw_panel(sheet: Sheet, stage: OverlayStage | None) -> Image.Image:
    """One panel alone, without title or legend: a stage, or what the model sees where it is None.

    Arguments, result and errors are those of ``draw_overlay``.
    """
    _check(sheet, [] if stage is None else [stage])
    sheet = sheet.scaled(_PANEL, _LARGEST)
    return _compose(
        sheet, [block.view if stage is None else _draw_stage(block, stage, COLOURS[0]) for block in sheet.blocks]
    )


def _compose(sheet: Sheet, views: Sequence[Image.Image]) -> Image.Image:
    """Pictures of the blocks, in their places; above several pictures their names."""
    size, corners = sheet.arranged(_BETWEEN, _HEAD if sheet.names else 0)
    panel = Image.new("RGB", size, _PAPER)
    for view, corner in zip(views, corners, strict=True):
        panel.paste(view, corner)
    draw, first = ImageDraw.Draw(panel), 0
    for name, group in zip(sheet.names, sheet.groups, strict=False):  # without names there is nothing to write
        left, top = corners[first]
        draw.text((left, top - _HEAD // 2), name, _INK, ImageFont.load_default(2 * _HEAD // 3), anchor="lm")
        first += len(group)
    return panel


def _check(sheet: Sheet, stages: Sequence[OverlayStage]) -> None:
    known = {NEWLINE, CLS}.union(*(block.numbers.ravel().tolist() for block in sheet.blocks))
    for stage in stages:
        outside = [index for index in stage.kept if index not in known]
        if outside:
            expected = f"{NEWLINE}..{max(known)}"
            raise UsageError(f"overlay stage {stage.label!r} keeps patch {outside[0]}, expected {expected}")


def _draw_stage(block: Block, stage: OverlayStage, colour: str) -> Image.Image:
    height, width = block.patch
    kept = np.isin(block.numbers, stage.kept)
    panel = _dim_dropped(block.view, kept, block.patch)
    draw = ImageDraw.Draw(panel)
    thick = min(max(2, min(block.patch) // 8), 6)
    for row, column in np.argwhere(kept):
        box = (column * width, row * height, (column + 1) * width - 1, (row + 1) * height - 1)
        _outline(draw, box, kept, (int(row), int(column)), thick, colour)
    for row, column in np.argwhere(np.isin(block.numbers, stage.merged)):
        _diamond(draw, ((column + 0.5) * width, (row + 0.5) * height), min(0.4 * min(block.patch), 24), colour)
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
    text = min(max(_LETTERS[0], width // 26), _LETTERS[-1])
    across = _across(len(panels), width / height)
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
    words += ["line ends: not patches"] if any(NEWLINE in stage.kept for stage in stages) else []
    _legend(draw, (_GAP, down * row_height + text + _GAP // 2), words, paper[0] - 2 * _GAP, text)
    return picture


def _across(panels: int, ratio: float) -> int:
    """Panels side by side, by how wide they are for their height."""
    if ratio > _WIDE:
        return 1 if panels < 4 else 2
    return {1: 1, 2: 2, 4: 2}.get(panels, 3)


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
        if kind not in ("CLS", "line ends"):
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
