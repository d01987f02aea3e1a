"""Questions with known answers, asked at several budgets; exact match per kind of question, and TTFT.

Whoever answers is a function from a picture and a question to a text and milliseconds, so that a bundle and
PyTorch eager are counted by the same code.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from edgeprune.demo.scenes import Scene

Answerer = Callable[[Image.Image, str], tuple[str, float]]
"""Picture and question to (answer, time to first token in ms)."""


@dataclass(frozen=True)
class Accuracy:
    """One row of the table.

    Attributes:
        label: who answered, at which budget.
        right, asked: questions per kind.
        ttft_ms: median over all questions.
    """

    label: str
    right: dict[str, int]
    asked: dict[str, int]
    ttft_ms: float

    def percent(self, kind: str) -> float:
        """Share of right answers of a kind, in percent."""
        return 100 * self.right[kind] / self.asked[kind]


def measure(label: str, answer: Answerer, scenes: Sequence[Scene], advance: Callable[[], Any]) -> Accuracy:
    """Ask every question of every scene.

    Args:
        label: names the row.
        answer: who is asked.
        scenes: pictures with questions.
        advance: called after each question.
    """
    kinds = sorted({question.kind for scene in scenes for question in scene.questions})
    right, asked = dict.fromkeys(kinds, 0), dict.fromkeys(kinds, 0)
    times = []
    for scene in scenes:
        for question in scene.questions:
            text, ttft_ms = answer(scene.image, question.text)
            asked[question.kind] += 1
            right[question.kind] += text.strip().lower() == question.answer
            times.append(ttft_ms)
            advance()
    return Accuracy(label, right, asked, statistics.median(times))


def table(rows: Sequence[Accuracy]) -> str:
    """The rows as text: percent right per kind with the number of questions on top, TTFT in ms."""
    kinds = list(rows[0].asked)
    head = ["", *(f"{kind} ({rows[0].asked[kind]})" for kind in kinds), "TTFT ms"]
    lines = [head]
    for row in rows:
        lines.append([row.label, *(f"{row.percent(kind):.1f}%" for kind in kinds), f"{row.ttft_ms:.1f}"])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)
