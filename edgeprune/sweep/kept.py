"""Pictures of what each method kept at one budget, to be shown side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from edgeprune.errors import EdgePruneError
from edgeprune.runtime.overlay import OverlayStage, draw_panel
from edgeprune.runtime.preprocess import load_image
from edgeprune.runtime.request import Pictures
from edgeprune.runtime.sheet import make_sheet
from edgeprune.runtime.vlm import VLM
from edgeprune.sweep.axes import Cell
from edgeprune.sweep.plan import MAX_NEW_TOKENS, Asked
from edgeprune.sweep.report import Kept, Panel

_PICTURES = 2
_SIDE = 480  # px of a panel's longer edge: 20 for a patch of a 24 x 24 grid
_SIDE_OF_MANY = 960  # of one with tiles side by side, or with a grid of its own
_QUALITY = 80
_QUESTION = "What is in this picture?"  # of a picture that comes without one


def draw_kept(
    vlm: VLM, cells: Sequence[Cell], recommended: str | None, image: Path | None, asked: Asked | None
) -> tuple[Kept, ...]:
    """What the cells of one budget keep of the first two pictures of the questions, else of the picture of the timing.

    The budget is the recommended one; without one that prunes, the smallest that most methods reach. Nothing is drawn
    without a picture, and a cell that fails on one is left out: its failure is told where its answers are counted.

    Args:
        vlm: an opened bundle for pictures.
        cells: those that can run.
        recommended: name of a cell.
        image: picture of the timing.
        asked: questions with their pictures.
    """
    chosen = common_budget(cells, recommended)
    if not chosen:
        return ()
    found = []
    for question, picture in _pictures(image, asked):
        tokens = Pictures([[picture]], vlm.manifest).tokens
        panels = [Panel("picture", (tokens,), "", _panel(vlm, picture, None))]
        for cell in chosen:
            try:
                panels.append(_answer(vlm, cell, question, picture))
            except EdgePruneError:
                continue
        found.append(Kept(question, tuple(panels)))
    return tuple(found)


def common_budget(cells: Sequence[Cell], recommended: str | None) -> list[Cell]:
    """The cells of the recommended budget; without one, of the smallest among those that most methods reach."""
    pruned = [cell for cell in cells if cell.schedule is not None]
    named = [cell.keep for cell in pruned if cell.name == recommended]
    if named:
        return [cell for cell in pruned if cell.keep == named[0]]
    reached = Counter(cell.keep for cell in pruned)
    if not reached:
        return []
    most = max(reached.values())
    averages = {
        keep: min(cell.schedule.average for cell in pruned if cell.keep == keep and cell.schedule)
        for keep, count in reached.items()
        if count == most
    }
    smallest = min(averages, key=lambda keep: averages[keep])
    return [cell for cell in pruned if cell.keep == smallest]


def _pictures(image: Path | None, asked: Asked | None) -> list[tuple[str, Image.Image]]:
    """Questions and pictures to draw: of several questions about one picture the first."""
    if asked is None:
        return [] if image is None else [(_QUESTION, load_image(image))]
    first = {sample.index: sample for sample in reversed(asked.samples)}
    samples = [first[index] for index in sorted(first)][:_PICTURES]
    return [(sample.question, load_image(sample.picture())) for sample in samples]


def _answer(vlm: VLM, cell: Cell, question: str, picture: Image.Image) -> Panel:
    answer = vlm.generate(question, [picture], cell.keep, cell.method, max_new_tokens=MAX_NEW_TOKENS)
    last = answer.stages[-1]
    panel = _panel(vlm, picture, OverlayStage(cell.name, last.kept, last.merged))
    return Panel(cell.name, tuple(stage.visual_tokens_out for stage in answer.stages), answer.text, panel)


def _panel(vlm: VLM, picture: Image.Image, stage: OverlayStage | None) -> bytes:
    image = vlm.manifest.image
    panel = draw_panel(make_sheet([picture], image, vlm.manifest.vision), stage)
    side = _SIDE if image.kind == "fixed" else _SIDE_OF_MANY
    panel.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = BytesIO()
    panel.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return stream.getvalue()
