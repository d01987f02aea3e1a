"""What is to be swept, and what tells one sweep from another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgeprune
from edgeprune.bench.host import available_cores, cpu_model, versions
from edgeprune.bench.run import Settings
from edgeprune.bundle.manifest import NAME
from edgeprune.bundle.store import Bundle
from edgeprune.errors import ImageError
from edgeprune.eval.data import Sample
from edgeprune.runtime.preprocess import load_image
from edgeprune.sweep.axes import Axes

MAX_NEW_TOKENS = 16  # of an answer, as of ``edgeprune eval``


@dataclass(frozen=True)
class Asked:
    """The questions of a sweep: ``data`` and ``suited`` are as in ``Questions``, ``samples`` at least one."""

    data: str
    samples: Sequence[Sample]
    suited: bool


@dataclass(frozen=True)
class Plan:
    """What is to be swept.

    Attributes:
        bundle: its folder.
        axes: what was typed.
        settings: how to time, as for ``bench``.
        asked: questions; None leaves accuracy out.
        image: the picture or video of the timing; None makes one.
        check_hashes: compare every file with its recorded hash first.
        draw: also draw kept tokens.
        command: the command line, for the report.
    """

    bundle: Path
    axes: Axes
    settings: Settings
    asked: Asked | None = None
    image: Path | None = None
    check_hashes: bool = True
    draw: bool = False
    command: str = ""


def check_pictures(samples: Sequence[Sample]) -> None:
    """Open every picture once: one that cannot be used would cost each cell its accuracy, hours later.

    Raises:
        ImageError: there is one; the message says where it is asked about.
    """
    for sample in {sample.index: sample for sample in reversed(samples)}.values():
        try:
            load_image(sample.picture())
        except ImageError as error:
            raise ImageError(f"{sample.where}: {error}") from error


def identity(plan: Plan, bundle: Bundle) -> dict[str, Any]:
    """Everything that a finished value depends on; what the report is written to is no part of it."""
    settings = plan.settings
    questions = [[q.question, q.accepted, q.choices, _stamp(q)] for q in plan.asked.samples] if plan.asked else None
    return {
        "bundle": _hash((bundle.root / NAME).read_bytes()),
        "methods": plan.axes.methods,
        "keeps": plan.axes.keeps,
        "threads": settings.threads or available_cores(),
        "warmup": settings.warmup,
        "repeats": settings.repeats,
        "text_tokens": settings.text_tokens,
        "new_tokens": settings.new_tokens,
        "memory": settings.memory,
        "image": None if plan.image is None else _hash(_content(plan.image)),
        "questions": None if questions is None else _hash(repr(questions).encode()),
        "cpu": _cpu(),
        "versions": versions(),
        "code": hash_code(Path(edgeprune.__file__).parent),
    }


def hash_code(folder: Path) -> str:
    """Of a package's code and method cards: between two versions they change what is measured, too."""
    names = sorted(path.relative_to(folder).as_posix() for ext in ("py", "toml") for path in folder.rglob(f"*.{ext}"))
    return _hash(repr([(name, _hash((folder / name).read_bytes())) for name in names]).encode())


def _stamp(question: Sample) -> object:
    """Of a picture in a file, what changes when it does; scenes are drawn from the question's own number."""
    picture = question.picture()
    if not isinstance(picture, Path):
        return question.index
    facts = picture.stat()
    return str(picture), facts.st_size, facts.st_mtime_ns


def _cpu() -> str:
    try:
        return cpu_model(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return cpu_model("")


def _content(image: Path) -> bytes:
    """Of a picture or a video, which may be a folder of pictures."""
    if image.is_dir():
        return repr([(path.name, _hash(path.read_bytes())) for path in sorted(image.iterdir())]).encode()
    return image.read_bytes()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
