"""The curriculum: what each stage shows, how long, how fast, and how many visual rows the decoder gets.

Small windows first, because shapes are learned there in minutes and on the whole picture not at all; then the
decoder on small windows; then the whole picture. Shares are of the time asked for, so a slower machine takes fewer
steps rather than longer.
"""

from __future__ import annotations

from dataclasses import dataclass

from tools.demo_training.pictures import View


@dataclass(frozen=True)
class Stage:
    """One stage. ``keep`` bounds the visual rows in dropped batches; ``whole`` is the part of batches with all.

    ``cuts`` also drops rows between decoder layers in some batches, ``hard_no`` is as in ``questions.ask``.
    """

    name: str
    share: float
    view: View
    batch: int  # pictures per step, over all processes
    peak: float  # learning rate
    last: float  # learning rate at the end, as a part of the peak
    probes: float  # weight of the encoder's own losses
    answers: bool = True
    per_kind: int = 2
    hard_no: float = 0.6
    keep: tuple[int, int] = (1, 1)
    whole: float = 1.0
    cuts: bool = False


STAGES: tuple[Stage, ...] = (
    Stage("outlines", 5.0, View(6, 1, 2, 36, 60, False), 64, 2.0e-3, 0.3, 1.0, answers=False),
    Stage(
        "words", 9.5, View(8, 2, 3, 36, 60, True), 20, 1.2e-3, 0.6, 0.4,
        per_kind=3, hard_no=0.4, keep=(44, 63), whole=0.5,
    ),
    Stage(
        "window", 5.0, View(12, 3, 5, 36, 72, False), 16, 0.9e-3, 0.7, 0.4,
        per_kind=3, keep=(64, 140), whole=0.3,
    ),
    Stage(
        "picture", 16.5, View(24, 4, 7, 36, 92, False), 12, 0.8e-3, 0.8, 0.4,
        per_kind=4, keep=(72, 256), whole=0.05, cuts=True,
    ),
    Stage(
        "whole", 27.5, View(24, 4, 7, 36, 92, False), 12, 0.6e-3, 0.0, 0.3,
        per_kind=5, keep=(32, 256), whole=0.5, cuts=True,
    ),
)  # fmt: skip
