"""What a bundle is verified on: synthetic pictures or a video, one question, several budgets. The same every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeprune import catalog
from edgeprune.budget.keep import parse_keep
from edgeprune.budget.schedule import Schedule, make_schedule, reach, site_of
from edgeprune.bundle.manifest import Manifest, MethodEntry
from edgeprune.bundle.store import Bundle
from edgeprune.errors import BudgetError, UsageError
from edgeprune.runtime.assembly import Assembly, assemble, positions
from edgeprune.runtime.chain import Text
from edgeprune.runtime.clip_ids import open_clip_ids
from edgeprune.runtime.layout import whole
from edgeprune.runtime.pixels import Pixels, prepare
from edgeprune.runtime.prompt import Prompt

QUESTION = "What is in the picture?"
SEED = 1
"""Of methods that draw at random."""
SHARES = (3, 9, 18)
"""Default budgets, as divisors of all visual tokens: 192, 64 and 32 of 576, which the papers report."""
_NATIVE_FRAMES = 9
"""Of a video whose frames are not counted; an odd number, so that the last pair is one frame twice. With fewer there
are too few visual tokens for VisionDrop's four stages in 28 layers."""
NEW_TOKENS = 16
"""Of an answer: tokens generated, decode steps one less."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A prompt with its pictures or its video, as the runtime prepares them.

    Attributes:
        label: what it is; empty for the one that graphs and methods are run on, too.
        pictures: in RGB; of a video its frames.
        pixels: prepared.
        text: around them.
        laid: where every row of the prompt comes from, without pruning.
        positions: [1, S], or [3, 1, S] for a decoder with three axes, before any cut.
        following: position of the first token behind the prompt.
        embedded: [1, t, D], the text's rows by the bundle's own table.
        question: [1, q, D], the same for the question alone.
    """

    label: str
    pictures: tuple[Image.Image, ...]
    pixels: Pixels
    text: Text
    laid: Assembly
    positions: NDArray[np.int64]
    following: int
    embedded: NDArray[np.float32]
    question: NDArray[np.float32]

    @property
    def tokens(self) -> int:
        """Visual rows without pruning."""
        return int(self.laid.visual_rows.shape[1])


@dataclass(frozen=True)
class Budget:
    """A run of the chain: its label, method and schedule; both None keep all."""

    label: str
    method: MethodEntry | None
    schedule: Schedule | None


def make_samples(bundle: Bundle) -> tuple[list[Sample], list[str]]:
    """Prepare the pictures and the question as the runtime does, with the bundle's own embedding table.

    A picture, a wide one, a high one and two in one prompt; of a bundle for video, a video and a higher one.

    Returns:
        The samples, and what of them the model's context does not hold, in words. The first is there in any case.
    """
    facts, prompt = (
        bundle.manifest,
        Prompt(bundle.manifest.prompt, bundle.path(bundle.manifest.tokenizer), open_clip_ids(bundle)),
    )
    table = np.load(bundle.path(facts.embedding), mmap_mode="r", allow_pickle=False)
    found, left = [], []
    for label, pictures in _pictures(facts).items():
        sample = _prepare(facts, prompt, table, label, pictures)
        room = facts.decoder.context - sample.laid.order.shape[1] - NEW_TOKENS
        if label and room < 0:
            left.append(f"{label}: {-room} tokens more than the model's context of {facts.decoder.context}")
        else:
            found.append(sample)
    return found, left


def _pictures(facts: Manifest) -> dict[str, list[Image.Image]]:
    if facts.prompt.medium == "video":
        count = facts.image.frames.count if facts.image.frames else _NATIVE_FRAMES
        return {
            "": [picture(480, 360, seed) for seed in range(count)],
            "a high video": [picture(90, 200, seed) for seed in range(count)],
        }
    one, wide, high = picture(480, 360), picture(600, 150), picture(120, 330)
    return {"": [one], "a wide picture": [wide], "a high picture": [high], "two pictures": [high, one]}


def _prepare(
    facts: Manifest, prompt: Prompt, table: NDArray[np.generic], label: str, pictures: Sequence[Image.Image]
) -> Sample:
    pixels = prepare([pictures] if facts.prompt.medium == "video" else pictures, facts.image)
    encoded = prompt.encode(QUESTION, len(pixels.pictures))
    rows = whole(facts.layout, facts.vision, pixels.pictures)
    grids = [one.grid for one in pixels.pictures if one.grid is not None]
    held = sum(int(np.prod(grid)) for grid in grids) if grids else pixels.runs * facts.vision.tokens
    laid = assemble(encoded.parts, [rows], held, facts.layout.taps > 1)
    ids, following = positions(facts, laid, encoded.parts, pixels)
    words, question = (
        np.asarray(table[np.array(found, dtype=np.int64)], dtype=np.float32)[None]
        for found in (sum(encoded.parts, ()), encoded.question)
    )
    text = Text(encoded.parts, encoded.question, encoded.clip_ids)
    return Sample(label, tuple(pictures), pixels, text, laid, ids, following, words, question)


def picture(width: int = 480, height: int = 360, seed: int = 0) -> Image.Image:
    """Flat shapes on noise; sizes in pixels."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8) // 2
    pixels[height // 6 : height // 2, width // 10 : width * 7 // 16] = (220, 40, 40)
    pixels[height * 5 // 9 : height * 11 // 12, width * 5 // 8 : width * 3 // 4] = (40, 80, 230)
    y, x = np.mgrid[:height, :width]
    middle = (0.7 + 0.02 * seed) * width
    pixels[(y - height / 3) ** 2 + (x - middle) ** 2 < (min(width, height) * 0.19) ** 2] = (240, 220, 60)
    return Image.fromarray(pixels)


def budgets(
    manifest: Manifest, sample: Sample, keeps: Sequence[int | str] | None, methods: Sequence[str] | None = None
) -> tuple[list[Budget], list[str]]:
    """The unpruned chain, then every method, or those named, at every budget.

    Returns:
        The runs, and in words which methods are left out: those that cannot prune so few visual tokens, where neither
        they nor budgets are asked for.

    Raises:
        UsageError: the bundle has no such method.
        BudgetError: a budget is malformed or out of a method's reach.
    """
    tokens, known = sample.tokens, [method.name for method in manifest.methods]
    if strangers := [name for name in methods or () if name not in known]:
        raise UsageError(f"the bundle has no method {strangers[0]!r}; it has {', '.join(known)}")
    found, left = [Budget("keep=all", None, None)], []
    for method in manifest.methods:
        if methods is not None and method.name not in methods:
            continue
        site = site_of(manifest, method, tokens, sample.pixels.runs)
        try:
            low, high = reach(method.name, site)
        except BudgetError as error:
            if keeps is not None or methods is not None:
                raise
            left.append(f"{method.name} and its graphs are not checked: {error}")
            continue
        asked = keeps
        if asked is None:
            asked = list(dict.fromkeys(min(max(tokens // share, low), high) for share in SHARES))
        for keep in asked:
            average = parse_keep(keep, tokens)
            if average is not None:
                schedule = make_schedule(method.name, average, site)
                found.append(Budget(f"{method.name} keep={average}", method, schedule))
    return found, left


def certainty(manifest: Manifest, method: MethodEntry, schedule: Schedule | None) -> float:
    """The part of a selection that the last bit of a sum does not decide.

    A determinantal point process has as many sure picks as its kernel's rank, which is at most the decoder's width; it
    picks run by run.
    """
    sure = catalog.card(method.name).sure
    if schedule is None or all(cut.sampler != "dpp" for cut in method.cuts):
        return sure
    return min(sure, manifest.decoder.hidden / schedule.stages[0].keep)
