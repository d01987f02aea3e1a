"""Draw the demo model's scenes and questions, each from one integer seed.

Seeds from ``HELD_OUT_SEED`` on are held out: the training tool draws below it only and refuses to pass it.
Knows nothing of models. The same seed gives the same scene under the same numpy and Pillow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from edgeprune.demo.canvas import Shape, paint
from edgeprune.demo.questions import Question, ask

HELD_OUT_SEED: int = 100_000_000
SIDE = 336  # px
FEWEST, MOST = 4, 7  # shapes
SMALLEST, LARGEST = 36, 92  # px, the side of a shape's box
PER_KIND = 2  # questions of each kind, where the scene allows them

__all__ = ["HELD_OUT_SEED", "Question", "Scene", "Shape", "draw_scene"]


@dataclass(frozen=True)
class Scene:
    """A picture (336 x 336 RGB), what is in it, and questions about it."""

    image: Image.Image
    shapes: tuple[Shape, ...]
    questions: tuple[Question, ...]


def draw_scene(seed: int) -> Scene:
    """Draw the scene of ``seed``."""
    rng = np.random.default_rng(seed)
    canvas = paint(rng, SIDE, int(rng.integers(FEWEST, MOST + 1)), SMALLEST, LARGEST)
    questions = ask(rng, canvas.shapes, SIDE, (SIDE / 2, SIDE / 2), PER_KIND)
    return Scene(Image.fromarray(canvas.pixels), canvas.shapes, questions)
