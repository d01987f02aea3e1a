"""Where overlays go, checked before anything runs, and how an answer becomes one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from PIL import Image

    from edgeprune.bundle.manifest import Place
    from edgeprune.runtime.answer import Answer, StageReport
    from edgeprune.runtime.vlm import VLM


def overlay_paths(
    overlay: Path, images: Sequence[str | Path], bundle: Path, option: str = "--overlay", together: bool = False
) -> list[Path]:
    """One path per prompt, numbered where there are several.

    Args:
        overlay: what was given.
        images: paths of the pictures asked about.
        bundle: its folder.
        option: what it was given to, for messages.
        together: whether all pictures are in one prompt, instead of one in each.

    Raises:
        UsageError: no picture format has that ending, or a path is one of the images or lies in the bundle.
        OutputError: the folder is not there, or it or a file of that name cannot be written.
    """
    from PIL import Image

    from edgeprune.errors import OutputError, UsageError

    Image.init()
    if Image.registered_extensions().get(overlay.suffix.lower()) not in {"PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"}:
        raise UsageError(f"{option} {overlay}: pictures are not written as {overlay.suffix!r}; try kept.png")
    if not overlay.parent.is_dir():
        raise OutputError(f"{option} {overlay}: there is no folder {overlay.parent}")
    if not os.access(overlay.parent, os.W_OK):
        raise OutputError(f"{option} {overlay}: {overlay.parent} cannot be written")
    count = 1 if together else len(images)
    paths = [overlay.with_stem(f"{overlay.stem}-{i + 1}") if count > 1 else overlay for i in range(count)]
    taken = {Path(image).resolve() for image in images}
    for path in paths:
        if path.resolve() in taken or path.resolve().is_relative_to(bundle.resolve()):
            raise UsageError(f"{option} {path} would overwrite an input; give another name")
        if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
            raise OutputError(f"{option} {path}: it is {'a folder' if path.is_dir() else 'write-protected'}")
    return paths


def stage_label(stage: StageReport) -> str:
    """Where a stage pruned, as the title of its panel."""
    from edgeprune.bundle.manifest import spell_place

    return spell_place(cast("Place | int", stage.cut))


def write_overlay(vlm: VLM, target: Path, paths: str | Path | Sequence[str | Path], answer: Answer) -> None:
    """Paint what each stage kept over the picture, or all the pictures of the prompt, or the frames of its video.

    Raises:
        OutputError: the target cannot be written.
    """
    from edgeprune.runtime.overlay import OverlayStage, draw_overlay
    from edgeprune.runtime.sheet import make_sheet

    facts = vlm.manifest
    sheet = make_sheet([paths] if isinstance(paths, str | Path) else paths, facts.image, facts.vision)
    stages = [OverlayStage(stage_label(stage), stage.kept, stage.merged) for stage in answer.stages]
    save_picture(draw_overlay(sheet, stages), target)


def save_picture(picture: Image.Image, target: Path) -> None:
    """Write a picture in the format of its ending.

    Raises:
        OutputError: the target cannot be written.
    """
    from edgeprune.errors import OutputError

    try:
        picture.save(target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
