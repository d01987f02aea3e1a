"""The values of a benchmark: what was measured, under which conditions, and how it compares.

Times are milliseconds, medians with the 90th percentile. It measures nothing and draws nothing: ``table`` does
the drawing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from edgeprune.bench.host import Host
from edgeprune.bundle.codec import MAY_LACK, decode
from edgeprune.bundle.prompt import Medium
from edgeprune.power.state import DeviceState

Engine = Literal["chain", "eager"]
Stage = Literal["vision", "prefill", "TTFT", "decode"]


@dataclass(frozen=True)
class Spread:
    """Median and 90th percentile of repeated times, in milliseconds.

    ``times_ms`` are the times themselves, in the order they were taken; empty in reports of an older version.
    """

    median_ms: float
    p90_ms: float
    times_ms: tuple[float, ...] = field(default=(), metadata=MAY_LACK)

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Of times in seconds, at least one."""
        ordered = sorted(seconds)
        median, p90 = (round(_quantile(ordered, share) * 1e3, 4) for share in (0.5, 0.9))
        return cls(median, p90, tuple(round(value * 1e3, 4) for value in seconds))


@dataclass(frozen=True)
class Ceiling:
    """One stage of one variant against what this machine could do.

    Attributes:
        stage: "vision", "prefill" (all that follows the projector; the cuts between layers are measured, and the
            ceiling is of the segments alone), "TTFT" (the whole prompt, a method's own graphs included) or "decode"
            (one step).
        flops, bytes: counted, see ``estimate.cost``.
        bound: what the ceiling comes from: "FLOPs" or "bytes", whichever takes longer in most of the time.
        ceiling_ms: the shortest time at this machine's peak.
        measured_ms: the median.
        ratio: ceiling over measured; 1 is as fast as the machine.
    """

    stage: Stage
    flops: int
    bytes: int
    bound: Literal["FLOPs", "bytes"]
    ceiling_ms: float
    measured_ms: float
    ratio: float


@dataclass(frozen=True)
class Prediction:
    """What the counts and this machine's calibrated rates say, in milliseconds; see ``estimate.roofline``.

    Attributes:
        vision_ms: the encoder.
        prefill_ms: all graphs behind the projector, cuts between layers included.
        ttft_ms: all graphs of the prompt; reading the picture and the tokenizer are not in it.
        decode_ms: a step, on average.
    """

    vision_ms: float
    prefill_ms: float
    ttft_ms: float
    decode_ms: float


@dataclass(frozen=True)
class Energy:
    """Of a whole answer, what the device draws at rest included.

    Attributes:
        joules: the median request's.
        watts: joules of all requests over their time.
        tokens_per_joule: of the answer, over all requests.
        samples: joules of every request, in order.
    """

    joules: float
    watts: float
    tokens_per_joule: float
    samples: tuple[float, ...]

    @classmethod
    def of(cls, joules: Sequence[float], seconds: Sequence[float], tokens: Sequence[int]) -> Energy | None:
        """Of requests with their times and the tokens of their answers; None without any, or without any energy."""
        spent = sum(joules)
        if not spent > 0:
            return None
        median = round(_quantile(sorted(joules), 0.5), 4)
        rounded = tuple(round(value, 4) for value in joules)
        return cls(median, round(spent / sum(seconds), 4), round(sum(tokens) / spent, 4), rounded)


@dataclass(frozen=True)
class Variant:
    """One way to answer.

    Attributes:
        name: "keep=64", "keep=all", "eager fp32".
        engine: the chain of graphs, or Hugging Face's model run eagerly.
        dtype: element type of its weights.
        tokens: visual tokens per stage, of all runs of the encoder: before the decoder, then after every cut.
        average: visual tokens averaged over the decoder layers.
        stages: preprocess, vision, prune (what runs before the projector), project, text (a text tower that a method
            brings along), prefill; only what the variant runs.
        pruning: all graphs of the method together, cuts inside the decoder included; None without a method.
        ttft: from the picture as a file to the first token.
        itl: from one token to the next, over all steps.
        prefill_overhead, decode_overhead: time of a prompt, and of a step, outside the graphs; None for eager.
        decoder_flops: of the decoder's prefill, that is of its segments; a method's graphs between them are not in it.
        prompt_flops: of all graphs of the prompt, a method's own included.
        step_bytes: of an average decode step.
        ceilings: per stage; empty where no peak of the dtype was measured. Eager is held against the unpruned
            chain's counts: the least work that gives the same answer.
        predicted: None where this machine's rates are not known for the dtype, and for eager.
        energy: None where no sensor measures the device.
        kv_bytes: keys and values of the prompt in all layers, counted; None for eager, and in reports of an older
            version.
    """

    name: str
    engine: Engine
    dtype: str
    tokens: tuple[int, ...]
    average: float
    stages: dict[str, Spread]
    pruning: Spread | None
    ttft: Spread
    itl: Spread
    prefill_overhead: Spread | None
    decode_overhead: Spread | None
    decoder_flops: int
    prompt_flops: int
    step_bytes: int
    ceilings: tuple[Ceiling, ...]
    predicted: Prediction | None = field(default=None, metadata=MAY_LACK)
    energy: Energy | None = field(default=None, metadata=MAY_LACK)
    kv_bytes: int | None = field(default=None, metadata=MAY_LACK)

    def stage_ms(self, stage: Stage) -> float:
        """Median of a stage; "decode" is one step."""
        if stage == "TTFT":
            return self.ttft.median_ms
        return self.itl.median_ms if stage == "decode" else self.stages[stage].median_ms

    @property
    def vision_share(self) -> float:
        """The encoder's part of TTFT."""
        return self.stages["vision"].median_ms / self.ttft.median_ms

    @property
    def graphs_ms(self) -> float:
        """TTFT without what comes before the first graph: what a prediction speaks of."""
        return self.ttft.median_ms - self.stages["preprocess"].median_ms


@dataclass(frozen=True)
class Comparison:
    """A variant's stage against another variant's.

    Attributes:
        stage: as in ``Ceiling``.
        variant, against: names.
        allowed: how many times faster FLOPs (prefill, TTFT) or bytes (decode) allow; None between engines. Prefill
            counts the decoder's segments alone, as its name says; TTFT also what a method itself computes.
        allowed_by: which of the two.
        measured: how many times faster it is; below 1 it is slower.
        ratio: measured over allowed.
    """

    stage: Stage
    variant: str
    against: str
    allowed: float | None
    allowed_by: Literal["FLOPs", "bytes"] | None
    measured: float
    ratio: float | None

    @classmethod
    def between(cls, stage: Stage, variant: Variant, other: Variant) -> Comparison:
        """Compare two variants; within an engine also with what the counts allow."""
        measured = other.stage_ms(stage) / variant.stage_ms(stage)
        allowed: float | None = None
        allowed_by: Literal["FLOPs", "bytes"] | None = None
        if variant.engine == other.engine and stage != "vision":
            allowed_by = "bytes" if stage == "decode" else "FLOPs"
            allowed = _count(stage, other) / _count(stage, variant)
        return cls(
            stage=stage,
            variant=variant.name,
            against=other.name,
            allowed=None if allowed is None else round(allowed, 4),
            allowed_by=allowed_by,
            measured=round(measured, 4),
            ratio=None if allowed is None else round(measured / allowed, 4),
        )

    def sentence(self) -> str:
        """In plain words; who is slower is said to be slower."""
        return f"{self.stage}: {self.variant} {self._verdict()}"

    def _verdict(self) -> str:
        if self.allowed is None:
            share = 1 / self.measured
            word = "slower" if share >= 1.005 else "faster" if share < 0.995 else "the same"
            return f"takes {share:.2f}x of {self.against}'s time: {word}"
        allow = f"{self.allowed_by} allow {self.allowed:.2f}x"
        if self.measured < 0.995:
            return f"is {1 / self.measured:.2f}x slower than {self.against} ({allow} faster)"
        if self.measured < 1.005:
            return f"is as fast as {self.against} ({allow})"
        return f"is {self.measured:.2f}x faster than {self.against} ({allow}: {self.ratio:.2f} of it)"


@dataclass(frozen=True)
class Memory:
    """A whole run in a process of its own.

    Attributes:
        variant: name.
        peak_bytes: the most resident memory the process ever had.
        weights_bytes: data files of the graphs it loaded; of eager, its checkpoint's tensors.
        mapped_bytes: the embedding table, which is mapped and read row by row.
        target_bytes: 1.3 times the weights plus 400 MB; None for eager.
    """

    variant: str
    peak_bytes: int
    weights_bytes: int
    mapped_bytes: int
    target_bytes: int | None


@dataclass(frozen=True)
class Target:
    """Something the project holds itself to: ``measured`` is ``bound`` ("at most", "at least") ``limit``, or not."""

    name: str
    bound: Literal["at most", "at least"]
    limit: float
    measured: float
    reached: bool

    def sentence(self) -> str:
        """In plain words."""
        return (
            f"{'reached' if self.reached else 'MISSED'}: {self.name}: {self.measured:.3g} ({self.bound} {self.limit:g})"
        )


@dataclass(frozen=True)
class Conditions:
    """What every number was measured under.

    ``visual_tokens`` are those that really enter the decoder unpruned, ``runs`` those of the encoder that give them;
    ``device`` is its state before it began, None where there is nothing to tell.
    """

    model: str
    revision: str | None
    dtype: str
    dialect: str
    backend: str
    threads: int
    text_tokens: int
    visual_tokens: int
    new_tokens: int
    warmup: int
    repeats: int
    host: Host
    device: DeviceState | None = field(default=None, metadata=MAY_LACK)
    runs: int = field(default=1, metadata=MAY_LACK)
    medium: Medium = field(default="image", metadata=MAY_LACK)


@dataclass(frozen=True)
class BenchReport:
    """A whole benchmark; ``targets`` are those it could judge, ``notes`` say what was not run and why."""

    conditions: Conditions
    variants: tuple[Variant, ...]
    comparisons: tuple[Comparison, ...]
    memory: tuple[Memory, ...]
    targets: tuple[Target, ...]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """One line of JSON with exactly these fields."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> BenchReport:
        """Read ``to_json`` again.

        Raises:
            BundleError: a key is unknown or missing, or a value has another type.
            json.JSONDecodeError: it is no JSON.
        """
        value: Any = json.loads(text)
        return decode(cls, value, "bench")


def _quantile(ordered: Sequence[float], share: float) -> float:
    """With linear interpolation, as numpy's percentile."""
    place = (len(ordered) - 1) * share
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _count(stage: Stage, variant: Variant) -> int:
    if stage == "decode":
        return variant.step_bytes
    return variant.decoder_flops if stage == "prefill" else variant.prompt_flops
