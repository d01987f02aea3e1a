"""What can be measured: a way to run one prompt at one budget, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tools.gpu.cases import AFTER, BEFORE, Budget, Case
from tools.random_checkpoint import Shape

Engine = Literal["eager", "chain"]


@dataclass(frozen=True)
class Prompt:
    """What every variant of a case is given.

    Attributes:
        before, after: token ids around the picture.
        visual: [1, N, D] projected rows, scaled as embeddings are.
        pixels: [1, 3, h, w] fp32, None where the rows are no single picture's.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    visual: NDArray[Any]
    pixels: NDArray[np.float32] | None


def make_prompt(case: Case, shape: Shape, dtype: str) -> Prompt:
    """A random prompt, the same on every machine."""
    rng = np.random.default_rng(0)
    width, side = shape.decoder.hidden_size, shape.tower.image_size
    ids = tuple(int(value) for value in rng.integers(4, 90, BEFORE + AFTER))
    visual = rng.standard_normal((1, case.visual, width), dtype=np.float32) * np.float32(width**-0.5)
    pixels = rng.standard_normal((1, 3, side, side), dtype=np.float32) if case.encoded else None
    return Prompt(ids[:BEFORE], ids[BEFORE:], visual.astype(np.float16 if dtype == "fp16" else np.float32), pixels)


class Variant(Protocol):
    """One way to run a prompt."""

    @property
    def engine(self) -> Engine:
        """What runs it."""

    @property
    def budget(self) -> Budget:
        """How many visual rows it keeps."""

    @property
    def from_pixels(self) -> Callable[[], None] | None:
        """Run the prompt from its pixels to its first token; None where it cannot."""

    def prefill(self) -> None:
        """Run the prompt from its projected visual rows on, until the first token is known on the host."""

    def step(self) -> None:
        """Feed the last token and find the next, until it is known on the host."""

    def logits(self) -> NDArray[np.float32]:
        """[vocab] of the last prefill."""

    def kept(self) -> tuple[NDArray[np.int64], ...]:
        """Per cut the rows that the last prefill kept, as indices of the rows given; empty without pruning."""

    def parts_ms(self) -> dict[str, float]:
        """Milliseconds inside graphs of the last prefill, per stage; empty where it has no graphs."""


def label(variant: Variant) -> str:
    """For tables: "chain keep=64"."""
    return f"{variant.engine} keep={variant.budget.label}"
