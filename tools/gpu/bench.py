"""Times of variants that take turns, so that a busy moment of the machine meets all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter

from tools.gpu.machine import DeviceName
from tools.gpu.progress import Progress
from tools.gpu.variant import Variant, label


@dataclass(frozen=True)
class Rounds:
    """How often.

    Attributes:
        warmup: rounds that do not count.
        repeats: rounds that count, at the most.
        decoding: of these the first so many also decode.
        new_tokens: decode steps of such a round.
    """

    warmup: int
    repeats: int
    decoding: int
    new_tokens: int


@dataclass
class Times:
    """Seconds of one variant: prefills, steps, prompts from their pixels; and milliseconds inside graphs."""

    prefill: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    ttft: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)

    def part_ms(self, stage: str) -> float | None:
        """Median milliseconds inside a stage's graphs; None where the variant has no graphs."""
        if not any(self.parts):
            return None
        return median(part.get(stage, 0.0) for part in self.parts)

    @property
    def outside_ms(self) -> float | None:
        """Median milliseconds of a prefill outside of graphs; None where the variant has no graphs."""
        if not any(self.parts):
            return None
        return median(
            seconds * 1e3 - sum(part.values()) for seconds, part in zip(self.prefill, self.parts, strict=True)
        )


def measure(
    variants: Sequence[Variant],
    rounds: Rounds,
    device: DeviceName,
    progress: Progress,
    name: str,
    done: Callable[[list[Times]], None],
) -> None:
    """Measure variants.

    Args:
        variants: in the order in which they take turns.
        rounds: how often.
        device: what they run on.
        progress: no round is begun that would not fit.
        name: of the whole, for people.
        done: told the times so far after every round that counts.
    """
    times = [Times() for _ in variants]
    longest = 0.0
    for turn in range(-rounds.warmup, rounds.repeats):
        left = progress.left
        if left is not None and left < 1.5 * longest:
            what = f"{turn} of {rounds.repeats} repeats were made" if turn > 0 else "nothing was measured"
            progress.skip(name, f"the rest: {what}, a round takes {longest:.1f} s and {left:.0f} s are left")
            return
        start = perf_counter()
        for variant, collected in zip(variants, times, strict=True):
            # The first warm-up decodes, too: shapes that are new cost something once.
            decoding = turn == -rounds.warmup or 0 <= turn < rounds.decoding
            one = _run(variant, rounds.new_tokens if decoding else 0, decoding or turn >= 0, device)
            if turn >= 0:
                _add(collected, one)
        longest = max(longest if turn > -rounds.warmup else 0.0, perf_counter() - start)
        if turn >= 0:
            done(times)
    progress.tell(f"{name}: {', '.join(map(label, variants))}: {rounds.repeats} repeats")


def _run(variant: Variant, steps: int, pixels: bool, device: DeviceName) -> Times:
    one = Times()
    one.prefill.append(_timed(variant.prefill, device))
    one.parts.append(variant.parts_ms())
    one.steps += [_timed(variant.step, device) for _ in range(steps)]
    if pixels and variant.from_pixels is not None:
        one.ttft.append(_timed(variant.from_pixels, device))
    return one


def _timed(work: Callable[[], None], device: DeviceName) -> float:
    """Seconds until what it leaves on the GPU is done, too."""
    _synchronize(device)
    start = perf_counter()
    work()
    _synchronize(device)
    return perf_counter() - start


def _synchronize(device: DeviceName) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def _add(times: Times, one: Times) -> None:
    times.prefill += one.prefill
    times.steps += one.steps
    times.ttft += one.ttft
    times.parts += one.parts
