"""Answers counted: right ones per kind of question, agreement with the unpruned model, and TTFT.

Whoever answers is a function, so that a bundle and PyTorch eager are counted by the same code.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from PIL import Image

from edgeprune.bundle.codec import MAY_LACK, decode
from edgeprune.demo.scenes import Scene
from edgeprune.eval.data import Sample, scene_samples
from edgeprune.eval.score import Share, is_right, normalise

Answerer = Callable[[Image.Image, str], tuple[str, float]]
"""Picture and question to (answer, time to first token in ms)."""


@dataclass(frozen=True)
class Reply:
    """What was answered, the time to first token, the visual tokens averaged over the decoder layers.

    Also whether nothing was pruned for it.
    """

    text: str
    ttft_ms: float
    visual_tokens: float | None = None
    unpruned: bool = False


@dataclass(frozen=True)
class Accuracy:
    """One row of the table.

    Attributes:
        label: who answered, at which budget.
        method, keep: what a bundle was asked for; method is None without pruning, both are None for others.
        average: visual tokens averaged over the decoder layers and the questions; None where unknown.
        kinds: right answers per kind of question, of the questions whose answer is known.
        overall: of all these together; None where no answer is known.
        agreement: share of all questions answered as without pruning, 0..1; None where that was not asked.
        ttft_ms_median: over all questions.
        spared: questions, of a pruned row, about pictures that have no more visual tokens than it keeps.
    """

    label: str
    method: str | None
    keep: str | None
    average: float | None
    kinds: dict[str, Share]
    overall: Share | None
    agreement: float | None
    ttft_ms_median: float
    spared: int = field(default=0, metadata=MAY_LACK)

    @property
    def asked(self) -> dict[str, int]:
        """Questions with a known answer, per kind."""
        return {kind: share.asked for kind, share in self.kinds.items()}

    def percent(self, kind: str) -> float:
        """Share of right answers of a kind, in percent."""
        return self.kinds[kind].percent


@dataclass(frozen=True)
class Report:
    """A whole evaluation; the field names of its JSON are stable.

    Attributes:
        model, revision, dtype, backend: of the bundle, and what ran it.
        data: "demo" for held-out scenes, else the name of the file of questions.
        n: questions per row.
        images: pictures they are about.
        seed: of the method that draws at random.
        max_new_tokens: the longest answer.
        tokens: visual tokens of the unpruned model, for the largest picture that it takes.
        keeps: budgets that were asked for, in their order.
        rows: the first is unpruned.
        left_out: per method with budgets out of its reach, which and why.
        versions: of Python, edgeprune and its packages.
    """

    model: str
    revision: str | None
    dtype: str
    backend: str
    data: str
    n: int
    images: int
    seed: int
    max_new_tokens: int
    tokens: int
    keeps: tuple[str, ...]
    rows: tuple[Accuracy, ...]
    left_out: tuple[str, ...]
    versions: dict[str, str]

    def to_json(self) -> str:
        """One line of JSON with exactly these fields."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read ``to_json`` again.

        Raises:
            BundleError: a key is unknown or missing, or a value has another type.
            json.JSONDecodeError: it is no JSON.
        """
        value: Any = json.loads(text)
        return decode(cls, value, "eval")


def tally(
    label: str,
    samples: Sequence[Sample],
    replies: Sequence[Reply],
    unpruned: Sequence[Reply] | None = None,
    method: str | None = None,
    keep: str | None = None,
) -> Accuracy:
    """Count replies, one per sample and at least one.

    Args:
        label, method, keep: name the row.
        samples: what was asked.
        replies: what was answered.
        unpruned: what was answered without pruning; None where nobody was asked that.
    """
    right: dict[str, list[bool]] = {}
    for sample, reply in zip(samples, replies, strict=True):
        if sample.accepted:
            verdict = is_right(reply.text, sample.accepted, sample.choices)
            right.setdefault(sample.kind, []).append(verdict)
    verdicts = [verdict for kind in right.values() for verdict in kind]
    tokens = [reply.visual_tokens for reply in replies if reply.visual_tokens is not None]
    agreement = None
    if unpruned is not None:
        same = [normalise(a.text) == normalise(b.text) for a, b in zip(replies, unpruned, strict=True)]
        agreement = sum(same) / len(same)
    return Accuracy(
        label=label,
        method=method,
        keep=keep,
        average=statistics.fmean(tokens) if tokens else None,
        kinds={kind: Share.of(sum(right[kind]), len(right[kind])) for kind in sorted(right)},
        overall=Share.of(sum(verdicts), len(verdicts)) if verdicts else None,
        agreement=agreement,
        ttft_ms_median=statistics.median(reply.ttft_ms for reply in replies),
        spared=sum(reply.unpruned for reply in replies) if method is not None else 0,
    )


def measure(label: str, answer: Answerer, scenes: Sequence[Scene], advance: Callable[[], Any]) -> Accuracy:
    """Ask every question of every scene.

    Args:
        label: names the row.
        answer: who is asked.
        scenes: pictures with questions.
        advance: called after each question.
    """
    samples = scene_samples(scenes)
    replies = []
    for sample in samples:
        image = sample.picture()
        assert isinstance(image, Image.Image)  # scenes are drawn, not read
        replies.append(Reply(*answer(image, sample.question)))
        advance()
    return tally(label, samples, replies)


def table(rows: Sequence[Accuracy]) -> str:
    """The rows as text: percent right per kind with the number of questions on top, TTFT in ms.

    Overall comes with half its 95% interval. What no row knows has no column. Below is where a row pruned not every
    picture.
    """
    first = rows[0]
    columns = [["", *(row.label for row in rows)]]
    for kind, share in first.kinds.items():
        columns.append([f"{kind} ({share.asked})", *(f"{row.percent(kind):.1f}%" for row in rows)])
    if first.overall is not None:
        columns.append([f"overall ({first.overall.asked})", *(_overall(row) for row in rows)])
    if any(row.agreement is not None for row in rows):
        shares = ("-" if row.agreement is None else f"{100 * row.agreement:.1f}%" for row in rows)
        columns.append(["as unpruned", *shares])
    if any(row.average is not None for row in rows):
        columns.append(["visual tokens", *("-" if row.average is None else f"{row.average:.1f}" for row in rows)])
    columns.append(["TTFT ms", *(f"{row.ttft_ms_median:.1f}" for row in rows)])
    widths = [max(map(len, column)) for column in columns]
    lines = zip(*columns, strict=True)
    found = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
    spared = [
        f"{row.label}: not pruned for {row.spared} of the questions, whose pictures have no more than {row.keep} "
        "visual tokens"
        for row in rows
        if row.spared
    ]
    return "\n".join([*found, *spared])


def _overall(row: Accuracy) -> str:
    return "-" if row.overall is None else f"{row.overall.percent:.1f}% ± {row.overall.half_percent:.1f}"
