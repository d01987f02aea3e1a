"""Which budgets no other one beats, and which one the figures speak for, with the reason in words.

Works on points, not on reports: hand-made ones test it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.eval.score import Share

TIE = 0.03
"""Times to first token closer than this share are one time: repeats of the same cell lie as far apart."""
LITTLE = 0.1
"""A time shorter by no more than this share is not worth fewer tokens."""
NOISY = 0.15
"""Above this share of noise, differences between cells may be the machine's and not theirs."""
WIDE = 5.0
"""Half an interval of more percentage points than this is too wide to trust a recommendation that rests on it."""


@dataclass(frozen=True)
class Point:
    """A cell that was measured.

    Attributes:
        name: of the cell.
        average: visual tokens averaged over the decoder layers.
        ttft_ms: median time to first token.
        early_ms: of it, what passes before pruned tokens are fewer: reading the picture, the encoder, the projector.
        accuracy: right answers; None where none was asked, or asking failed.
        unpruned: whether it is the model with all tokens.
        floor: whether its method chooses without looking, to be compared with.
        noise: share by which the 90th percentile of its times lies above the median.
    """

    name: str
    average: float
    ttft_ms: float
    early_ms: float
    accuracy: Share | None
    unpruned: bool = False
    floor: bool = False
    noise: float = 0.0

    @property
    def share(self) -> float:
        """Right answers, 0..1; only of points with an accuracy."""
        assert self.accuracy is not None  # whoever asks has looked
        return self.accuracy.right / self.accuracy.asked


@dataclass(frozen=True)
class Advice:
    """What the figures say.

    Attributes:
        recommended: name of a cell; None where nothing can be recommended.
        reason: why, in sentences.
    """

    recommended: str | None
    reason: str


def front(points: Sequence[Point]) -> tuple[str, ...]:
    """Names of the points that no other one beats, the fastest first.

    A point beats another if it is no worse in both figures and better in one. The figures are the time to first token
    and the share of right answers; where no point has an accuracy, the visual tokens kept on average stand in for it.
    Points that are alike do not beat each other. A point without an accuracy is not compared with those that have one.
    """
    asked = [point for point in points if point.accuracy is not None]
    compared = asked or list(points)
    worth = [point.share if asked else point.average for point in compared]
    found = [
        (point.ttft_ms, point.name)
        for point, value in zip(compared, worth, strict=True)
        if not any(
            other.ttft_ms <= point.ttft_ms and theirs >= value and (other.ttft_ms < point.ttft_ms or theirs > value)
            for other, theirs in zip(compared, worth, strict=True)
        )
    ]
    return tuple(name for _, name in sorted(found))


def advise(points: Sequence[Point]) -> Advice:
    """The recommended cell.

    With accuracies: of the cells whose share of right answers is not below the lower end of the unpruned model's 95%
    interval, the fastest to the first token. Cells within 3% of that time are as fast; among them the one with more
    right answers is taken, then the one with fewer tokens, then the one named first. The unpruned model is one of the
    cells: where nothing that is good enough is faster than it by more than 3%, it is recommended. Cells that failed
    are no points. Where the interval is wider than 5 percentage points to each side, or the cell's
    method chooses without looking at the picture, or the times are noisy, the reason says so.

    Without accuracies nothing is recommended, since accuracy decides; the reason names the knee of the times, and
    what passes before the decoder. Nor is anything where the unpruned model has no answer right: its interval then
    begins at 0%, and every cell would be good enough.
    """
    unpruned = next((point for point in points if point.unpruned), None)
    if unpruned is None:
        return Advice(None, "Nothing is recommended: the unpruned model could not be measured.")
    if unpruned.accuracy is None:
        if any(point.accuracy is not None for point in points):
            return Advice(None, "Nothing is recommended: the unpruned model's accuracy could not be measured.")
        return Advice(None, _without_accuracy(points, unpruned))
    base = unpruned.accuracy
    if not base.right:
        reason = f"the unpruned model answers no question right ({base.asked} asked), so nothing can be lost by pruning"
        return Advice(None, f"Nothing is recommended: {reason}; give questions that it can answer with --data.")
    good = [point for point in points if point.accuracy is not None and point.share >= base.low]
    fastest = min(point.ttft_ms for point in good)
    as_fast = [point for point in good if point.ttft_ms <= fastest * (1 + TIE)]
    best = unpruned if unpruned in as_fast else min(as_fast, key=lambda p: (-p.share, p.average))
    doubt = ""
    if best.floor:
        doubt = (
            " It chooses without looking at the picture: these questions do not tell methods apart at this budget, and"
            " others may."
        )
    if base.half_percent > WIDE:
        doubt += (
            f" With {base.asked} questions the interval is wide (± {base.half_percent:.1f} points): ask more of them"
            " before you rely on this."
        )
    if max(best.noise, unpruned.noise) > NOISY:
        doubt += (
            f" The times are noisy (90th percentile up to {max(best.noise, unpruned.noise):.0%} above the median): a "
            "quiet machine or more --repeats may change the order of cells that lie close together."
        )
    return Advice(best.name, _reason(best, unpruned, base, len(as_fast)) + doubt)


def knee(points: Sequence[Point]) -> Point:
    """Where fewer tokens stop paying: of the points within 10% of the shortest time, the one with the most tokens.

    Of several with as many, the fastest; ``points`` holds at least one.
    """
    shortest = min(point.ttft_ms for point in points)
    near = [point for point in points if point.ttft_ms <= shortest * (1 + LITTLE)]
    return max(near, key=lambda point: (point.average, -point.ttft_ms))


def _reason(best: Point, unpruned: Point, base: Share, ties: int) -> str:
    floor = f"the lower end of the unpruned model's 95% interval ({100 * base.low:.1f}%)"
    if best.unpruned:
        return (
            f"Keep all tokens: no cell whose accuracy reaches {floor} is more than {TIE:.0%} faster to the first token."
        )
    which = (
        f"the most accurate of the {ties} fastest cells (within {TIE:.0%}) whose"
        if ties > 1
        else "the fastest cell whose"
    )
    return (
        f"{best.name} is {which} accuracy is not below {floor}: {100 * best.share:.1f}% right "
        f"against {100 * unpruned.share:.1f}% unpruned, first token in {best.ttft_ms:,.1f} ms against "
        f"{unpruned.ttft_ms:,.1f} ms ({unpruned.ttft_ms / best.ttft_ms:.2f}x)."
    )


def _without_accuracy(points: Sequence[Point], unpruned: Point) -> str:
    fastest = min(points, key=lambda point: point.ttft_ms)
    sentences = [
        "Nothing is recommended: accuracy decides, and none was measured: give --eval N, or --data with known answers."
    ]
    bend = knee(points)
    if bend.unpruned:
        sentences.append(f"No budget is more than {LITTLE:.0%} faster to the first token than all tokens.")
    else:
        sentences.append(
            f"Fewer tokens than {bend.name} has ({bend.average:.0f} on average, first token in {bend.ttft_ms:,.1f} ms) "
            f"save at most {LITTLE:.0%} of the time: the fastest cell is {fastest.name} with {fastest.ttft_ms:,.1f} ms."
        )
    share = fastest.early_ms / fastest.ttft_ms
    sentences.append(
        f"Picture, encoder and projector take {fastest.early_ms:,.1f} ms of the fastest cell's time ({share:.0%}), "
        f"{unpruned.early_ms:,.1f} ms of the unpruned model's ({unpruned.early_ms / unpruned.ttft_ms:.0%}): fewer "
        "tokens behind them do not shorten that."
    )
    return " ".join(sentences)
