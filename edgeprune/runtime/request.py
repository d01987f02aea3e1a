"""One prompt from its pictures to its answers, for one row or for several that ask the same of other pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from edgeprune.budget.schedule import Schedule
from edgeprune.bundle.manifest import Manifest, MethodEntry
from edgeprune.runtime.answer import Answer, StageReport
from edgeprune.runtime.auto import Choice
from edgeprune.runtime.chain import Chain, Clock, Prefill, StageResult, Text
from edgeprune.runtime.generation import Generation
from edgeprune.runtime.layout import whole
from edgeprune.runtime.pixels import Pixels, prepare, stack
from edgeprune.runtime.preprocess import Source
from edgeprune.runtime.prompt import EncodedPrompt, Prompt
from edgeprune.runtime.sampling import Sampler, Sampling
from edgeprune.runtime.tuner import Trial


@dataclass(frozen=True)
class Words:
    """What is asked for, but for the pictures and their budget."""

    encoded: EncodedPrompt
    max_new_tokens: int
    sampling: Sampling
    seed: int


class Pictures:
    """Pictures prepared for the encoder.

    Attributes:
        start: when that began, which is when a request begins.
        seconds: what it took.
        pixels: of all prompts.
        tokens: visual rows of one prompt that enter the decoder without pruning.

    Args:
        sources: the pictures of each prompt.
        facts: how they are prepared.

    Raises:
        ImageError: one cannot be used, or the prompts' pictures do not have the same shape.
    """

    def __init__(self, sources: Sequence[Sequence[Source]], facts: Manifest) -> None:
        self.start = perf_counter()
        self.pixels: Pixels = stack([prepare(own, facts.image) for own in sources])
        self.seconds = perf_counter() - self.start
        self.tokens = sum(len(rows.origin) for rows in whole(facts.layout, facts.vision, self.pixels.pictures))


class Request:
    """A prompt that was prefilled when this was made, and its generation.

    Attributes:
        measured: what its prompt took.
        when_done: called when it was answered.
    """

    def __init__(
        self,
        chain: Chain,
        prompt: Prompt,
        words: Words,
        pictures: Pictures,
        method: MethodEntry | None,
        schedule: Schedule | None,
        choice: Choice | None = None,
        trial: float | None = None,
    ) -> None:
        self.prompt = prompt
        self._chain, self._encoded, self._method, self._schedule = chain, words.encoded, method, schedule
        self._choice, self._tokens = choice, pictures.tokens
        self.when_done: Callable[[], None] = lambda: None
        self._clock = Clock()
        self._clock.seconds["preprocess"] = pictures.seconds
        encoded = words.encoded
        text = Text(encoded.parts, encoded.question, encoded.clip_ids)
        self._prefill: Prefill = chain.prefill(pictures.pixels, text, method, schedule, self._clock, words.seed)
        self._ttft = perf_counter() - pictures.start
        self.measured = Trial(self._ttft - pictures.seconds, self._clock.seconds["vision"])
        if trial is not None:
            self._clock.seconds["trial"] = trial
        facts = chain.manifest
        self.generation = Generation(
            chain,
            self._prefill,
            Sampler(words.sampling, pictures.pixels.prompts),
            facts.prompt.eos_token_ids,
            words.max_new_tokens,
            facts.decoder.context,
            self._clock,
        )

    def answer(self, row: int) -> Answer:
        """The finished answer of one prompt."""
        schedule = self._schedule
        ids = tuple(self.generation.tokens[row])
        reason = self.generation.reasons[row]
        assert reason is not None  # only read after the generation ended
        average = schedule.average if schedule else float(self._tokens)
        steps = self.generation.step_seconds[: len(ids) - 1]
        return Answer(
            text=self.prompt.tokenizer.decode(list(ids), skip_special_tokens=True),
            finish_reason=reason,
            method=self._method.name if self._method else None,
            keep=schedule.asked if schedule else "all",
            paper_label=schedule.label if schedule else None,
            visual_tokens_average=average,
            stages=tuple(_report(stage, row) for stage in self._prefill.stages),
            prompt_tokens=self._encoded.text_tokens + self._tokens,
            generated_tokens=len(ids),
            token_ids=ids,
            ttft_ms=self._ttft * 1e3,
            ttft_predicted_ms=self._choice.seconds * 1e3 if self._choice else None,
            itl_ms=float(np.mean(steps)) * 1e3 if steps else None,
            timings_ms={stage: seconds * 1e3 for stage, seconds in self._clock.seconds.items()},
            backend=self._chain.backend.name,
            dtype=self._chain.manifest.dtype,
        )


def _report(stage: StageResult, row: int) -> StageReport:
    kept, merged = stage.kept[row], stage.merged[row]
    return StageReport(
        cut=stage.cut,
        visual_tokens_in=stage.tokens_in,
        visual_tokens_out=stage.tokens_out,
        kept=tuple(sorted(kept.tolist())),
        merged=tuple(sorted(kept[merged].tolist())),
    )
