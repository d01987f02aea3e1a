"""Questions about painted shapes, with the answers that their geometry gives.

Only questions with one right answer are asked: an attribute names a shape only when a single shape has it, and
two shapes are compared on an axis only when their centres are clearly apart on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.demo.canvas import COLORS, SHAPES, Shape

KINDS: tuple[str, ...] = ("color", "shape", "exist", "relation", "where")
HARD_NO = 0.6  # of the "no" answers: colour and shape both in the picture, on different shapes
_APART = 0.125  # of the side: the least distance of two centres on the axis that is asked about
_OFF_CENTRE = 0.08  # of the side: the least distance of a centre from the middle lines, for "where"


@dataclass(frozen=True)
class Question:
    """A question as typed, its kind (one of ``KINDS``) and the answer in lower case."""

    kind: str
    text: str
    answer: str


def ask(
    rng: np.random.Generator,
    shapes: Sequence[Shape],
    side: float,
    middle: tuple[float, float],
    per_kind: int,
    hard_no: float = HARD_NO,
) -> tuple[Question, ...]:
    """Ask up to ``per_kind`` questions of each kind, "exist" as many yes as no.

    Args:
        rng: draws which questions are asked.
        shapes: what is in the picture.
        side: of the picture in pixels; margins are fractions of it.
        middle: the point (x, y) that "where" splits into left and right, top and bottom.
        per_kind: the most questions of one kind.
        hard_no: the part of the "no" questions that names a colour and a shape both present, not together.
    """
    colors = Counter(shape.color for shape in shapes)
    kinds = Counter(shape.shape for shape in shapes)
    one_color = [shape for shape in shapes if colors[shape.color] == 1]
    one_kind = [shape for shape in shapes if kinds[shape.shape] == 1]
    found: list[Question] = []
    for shape in _some(rng, one_kind, per_kind):
        found.append(Question("color", f"What color is the {shape.shape}?", shape.color))
    for shape in _some(rng, one_color, per_kind):
        found.append(Question("shape", f"What shape is the {shape.color} object?", shape.shape))
    found.extend(_exist(rng, shapes, per_kind, hard_no))
    found.extend(_relation(rng, shapes, colors, side, per_kind))
    margin = _OFF_CENTRE * side
    clear = [s for s in one_color if all(abs(c - m) >= margin for c, m in zip(s.center, middle, strict=True))]
    for shape in _some(rng, clear, per_kind):
        row = "top" if shape.center[1] < middle[1] else "bottom"
        column = "left" if shape.center[0] < middle[0] else "right"
        found.append(Question("where", f"Where is the {shape.color} object?", f"{row} {column}"))
    return tuple(found)


def _some(rng: np.random.Generator, shapes: Sequence[Shape], count: int) -> list[Shape]:
    return [shapes[i] for i in rng.permutation(len(shapes))[:count]]


def _exist(rng: np.random.Generator, shapes: Sequence[Shape], count: int, hard_no: float) -> list[Question]:
    present = {(shape.color, shape.shape) for shape in shapes}
    absent = [(c, s) for c in COLORS for s in SHAPES if (c, s) not in present]
    colors, kinds = {c for c, _ in present}, {s for _, s in present}
    hard = [(c, s) for c, s in absent if c in colors and s in kinds]
    found = []
    first_yes = int(rng.integers(2))
    there = rng.permutation(len(shapes))
    for k in range(count):
        if (k + first_yes) % 2 == 0:
            shape = shapes[there[(k // 2) % len(shapes)]]
            color, name, answer = shape.color, shape.shape, "yes"
        else:
            pool = hard if hard and rng.random() < hard_no else absent
            color, name = pool[int(rng.integers(len(pool)))]
            answer = "no"
        article = "an" if color[0] in "aeiou" else "a"
        found.append(Question("exist", f"Is there {article} {color} {name}?", answer))
    return found


def _relation(
    rng: np.random.Generator, shapes: Sequence[Shape], colors: Counter[str], side: float, count: int
) -> list[Question]:
    found: list[Question] = []
    pairs = [(a, b) for a in range(len(shapes)) for b in range(len(shapes)) if a != b]
    for index in rng.permutation(len(pairs)):
        if len(found) == count:
            break
        first, second = shapes[pairs[index][0]], shapes[pairs[index][1]]
        axes = [k for k in (0, 1) if abs(first.center[k] - second.center[k]) >= _APART * side]
        if not axes:
            continue
        axis = axes[int(rng.integers(len(axes)))]
        before, after, phrase = (("left", "right", "left or right of"), ("above", "below", "above or below"))[axis]
        short = colors[first.color] == 1 and colors[second.color] == 1 and rng.random() < 0.5
        one = f"{first.color} object" if short else f"{first.color} {first.shape}"
        two = f"{second.color} object" if short else f"{second.color} {second.shape}"
        answer = before if first.center[axis] < second.center[axis] else after
        found.append(Question("relation", f"Is the {one} {phrase} the {two}?", answer))
    return found
