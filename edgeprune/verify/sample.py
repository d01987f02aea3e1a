"""What a bundle is verified on: one synthetic picture, one question, several budgets. The same every time."""

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
from edgeprune.errors import UsageError
from edgeprune.runtime.chain import Text
from edgeprune.runtime.clip_ids import open_clip_ids
from edgeprune.runtime.preprocess import batch
from edgeprune.runtime.prompt import Prompt

QUESTION = "What is in the picture?"
SEED = 1
"""Of methods that draw at random."""
SHARES = (3, 9, 18)
"""Default budgets, as divisors of all visual tokens: 192, 64 and 32 of 576, which the papers report."""


@dataclass(frozen=True)
class Sample:
    """A prepared picture [1, 3, h, w], the text around it, and its embeddings [1, n, D]."""

    pixel_values: NDArray[np.float32]
    text: Text
    embedded_before: NDArray[np.float32]
    embedded_after: NDArray[np.float32]
    embedded_question: NDArray[np.float32]


@dataclass(frozen=True)
class Budget:
    """A run of the chain: its label, method and schedule; both None keep all."""

    label: str
    method: MethodEntry | None
    schedule: Schedule | None


def make_sample(bundle: Bundle) -> Sample:
    """Prepare picture and question as the runtime does, with the bundle's own embedding table."""
    manifest = bundle.manifest
    prompt = Prompt(manifest.prompt, bundle.path(manifest.tokenizer), open_clip_ids(bundle)).encode(QUESTION)
    table = np.load(bundle.path(manifest.embedding), mmap_mode="r", allow_pickle=False)
    text = Text(prompt.before, prompt.after, prompt.question, prompt.clip_ids)
    before, after, question = (
        np.asarray(table[np.array(ids, dtype=np.int64)], dtype=np.float32)[None]
        for ids in (text.before, text.after, text.question)
    )
    return Sample(batch([picture()], manifest.image), text, before, after, question)


def picture() -> Image.Image:
    """Flat shapes on noise, 480 x 360 pixels."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (360, 480, 3), dtype=np.uint8) // 2
    pixels[60:180, 50:210] = (220, 40, 40)
    pixels[200:330, 300:360] = (40, 80, 230)
    y, x = np.mgrid[:360, :480]
    pixels[(y - 120) ** 2 + (x - 340) ** 2 < 70**2] = (240, 220, 60)
    return Image.fromarray(pixels)


def budgets(
    manifest: Manifest, keeps: Sequence[int | str] | None, methods: Sequence[str] | None = None
) -> list[Budget]:
    """The unpruned chain, then every method, or those named, at every budget.

    Raises:
        UsageError: the bundle has no such method.
        BudgetError: a budget is malformed or out of a method's reach.
    """
    tokens, known = manifest.vision.tokens, [method.name for method in manifest.methods]
    if strangers := [name for name in methods or () if name not in known]:
        raise UsageError(f"the bundle has no method {strangers[0]!r}; it has {', '.join(known)}")
    found = [Budget("keep=all", None, None)]
    for method in manifest.methods:
        if methods is not None and method.name not in methods:
            continue
        site = site_of(manifest, method)
        low, high = reach(method.name, site)
        asked = keeps
        if asked is None:
            asked = list(dict.fromkeys(min(max(tokens // share, low), high) for share in SHARES))
        for keep in asked:
            average = parse_keep(keep, tokens)
            if average is not None:
                schedule = make_schedule(method.name, average, site)
                found.append(Budget(f"{method.name} keep={average}", method, schedule))
    return found


def certainty(manifest: Manifest, method: MethodEntry, schedule: Schedule | None) -> float:
    """The part of a selection that the last bit of a sum does not decide.

    A determinantal point process has as many sure picks as its kernel's rank, which is at most the decoder's width.
    """
    sure = catalog.card(method.name).sure
    if schedule is None or all(cut.sampler != "dpp" for cut in method.cuts):
        return sure
    return min(sure, manifest.decoder.hidden / schedule.first)
