"""A vision-language model opened from a bundle: ask it about pictures, with a token budget per question."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeprune import catalog
from edgeprune.budget.keep import parse_keep
from edgeprune.budget.schedule import Schedule, make_schedule, site_of
from edgeprune.bundle.manifest import Manifest, MethodEntry
from edgeprune.bundle.store import Bundle, open_bundle
from edgeprune.errors import BackendError, QuestionError, UsageError
from edgeprune.runtime.answer import Answer, StageReport
from edgeprune.runtime.auto import Asked, Choice, Keep, check_words, is_auto
from edgeprune.runtime.backend import Backend
from edgeprune.runtime.backends import BackendChoice, open_backend
from edgeprune.runtime.chain import Chain, Clock, Prefill, StageResult, Text
from edgeprune.runtime.clip_ids import open_clip_ids
from edgeprune.runtime.generation import Generation
from edgeprune.runtime.ort import OrtBackend
from edgeprune.runtime.preprocess import batch, load_image
from edgeprune.runtime.prompt import EncodedPrompt, Prompt, TextStream
from edgeprune.runtime.room import check_request
from edgeprune.runtime.sampling import Sampler, Sampling
from edgeprune.runtime.tuner import Trial, Tuner

ImageSource = str | Path | Image.Image
SEEDS = 2**31
"""Seeds there are."""


class VLM:
    """A loaded bundle.

    Args:
        bundle: opened with ``open_bundle``.
        backend: what runs its graphs.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle, self.backend = bundle, backend
        self.prompt = Prompt(bundle.manifest.prompt, bundle.path(bundle.manifest.tokenizer), open_clip_ids(bundle))
        self.chain = Chain(bundle, backend)
        self._tuners: dict[str, Tuner] = {}

    @property
    def manifest(self) -> Manifest:
        """What the bundle says about itself."""
        return self.bundle.manifest

    def __enter__(self) -> VLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the graphs and their memory."""
        self.chain.close()
        self.backend.close()

    def generate(
        self,
        question: str,
        images: Sequence[ImageSource],
        keep: int | str = "all",
        method: str | None = None,
        max_new_tokens: int = 128,
        sampling: Sampling | None = None,
        seed: int = 0,
        ttft_budget_ms: float | None = None,
    ) -> Answer:
        """Ask about one picture.

        Args:
            question: what to ask.
            images: one picture, as a path or opened.
            keep: average visual tokens over the decoder layers (64), a percentage ("11.1%"), the paper's own label
                ("paper:128"), "all", or "auto": the largest budget that fits ``ttft_budget_ms``, for this request.
            method: pruning method; None takes the bundle's only one.
            max_new_tokens: the most tokens of the answer.
            sampling: None is greedy.
            seed: of the method `random`, which keeps another set of patches for every seed.
            ttft_budget_ms: time to first token that "auto" is to fit in nine of ten requests. The first request of a
                process runs in advance, and more than once if nothing is remembered of the bundle on this machine.

        Raises:
            UsageError: an argument is malformed or out of range; a BudgetError if "auto" finds no budget that fits.
            ImageError: a picture cannot be used.
            BackendError: a graph failed.
        """
        stream = self.stream(question, images, keep, method, max_new_tokens, sampling, seed, ttft_budget_ms)
        for _ in stream:
            pass
        return stream.answer

    def stream(
        self,
        question: str,
        images: Sequence[ImageSource],
        keep: int | str = "all",
        method: str | None = None,
        max_new_tokens: int = 128,
        sampling: Sampling | None = None,
        seed: int = 0,
        ttft_budget_ms: float | None = None,
    ) -> Stream:
        """Ask about one picture and get the answer piece by piece; arguments as for ``generate``."""
        if isinstance(images, str):
            images = [images]
        if len(images) != 1:
            raise UsageError(f"got {len(images)} images, expected 1; generate_batch asks one question of several")
        return Stream(self._request(question, images, keep, method, max_new_tokens, sampling, seed, ttft_budget_ms))

    def generate_batch(
        self,
        question: str,
        images: Sequence[ImageSource],
        keep: int | str = "all",
        method: str | None = None,
        max_new_tokens: int = 128,
        sampling: Sampling | None = None,
        seed: int = 0,
        ttft_budget_ms: float | None = None,
    ) -> list[Answer]:
        """Ask the same question about several pictures at once; one answer per picture, in their order.

        A ``ttft_budget_ms`` is for the batch: its first tokens come together.
        """
        if not images or isinstance(images, str):
            raise UsageError(f"got images={images!r}, expected a list of at least 1")
        request = self._request(question, images, keep, method, max_new_tokens, sampling, seed, ttft_budget_ms)
        for _ in request.generation:
            pass
        request.when_done()
        return [request.answer(row) for row in range(len(images))]

    def encode(self, image: ImageSource) -> dict[str, NDArray[Any]]:
        """What the encoder makes of one picture: ``features`` [1, N, Dv] and the probes of the bundle's methods.

        Raises:
            ImageError: the picture cannot be used.
            BackendError: the graph failed.
        """
        return self.chain.encode(batch([load_image(image)], self.manifest.image))

    def plan(self, keep: int | str, method: str | None = None) -> tuple[MethodEntry | None, Schedule | None]:
        """What a budget means for this bundle: the method and its schedule, or two None for "all".

        Raises:
            UsageError: the bundle lacks the method, or the budget is malformed or out of reach.
        """
        if method is not None:
            self._entry(method, keep)
        average = parse_keep(keep, self.manifest.vision.tokens)
        if average is None:
            return None, None
        entry = self._entry(method, keep)
        return entry, make_schedule(entry.name, average, site_of(self.manifest, entry))

    def _entry(self, method: str | None, keep: int | str) -> MethodEntry:
        """The method of that name, or the only one."""
        known = ", ".join(entry.name for entry in self.manifest.methods)
        if method is None:
            if len(self.manifest.methods) != 1:
                raise UsageError(f"--method is needed with --keep {keep}: the bundle has {known}")
            return self.manifest.methods[0]
        entry = self.manifest.method(method)
        if entry is None:
            card = catalog.card(method)  # raises for a method that nobody knows
            raise UsageError(
                f"the bundle has no method {method!r}; it has {known}; "
                f"edgeprune export {self.bundle.root} --add-method {card.name} adds it"
            )
        return entry

    def _request(
        self,
        question: str,
        images: Sequence[ImageSource],
        keep: int | str,
        method: str | None,
        max_new_tokens: int,
        sampling: Sampling | None,
        seed: int,
        ttft_budget_ms: float | None,
    ) -> _Request:
        if max_new_tokens < 1:
            raise UsageError(f"--max-new-tokens is {max_new_tokens}, expected 1 or more")
        check_words(keep, ttft_budget_ms)
        auto = is_auto(keep)
        entry, schedule = (self._entry(method, keep), None) if auto else self.plan(keep, method)
        encoded = self.prompt.encode(question)
        if not 0 <= seed < SEEDS:
            raise UsageError(f"seed is {seed}, expected 0..{SEEDS - 1}")
        words = _Words(encoded, max_new_tokens, sampling or Sampling(), seed)
        if ttft_budget_ms is not None:
            assert entry is not None  # the words were checked
            return self._fitting(words, images, entry, ttft_budget_ms / 1e3)
        self._check(words, entry, schedule, len(images))
        if entry is not None:
            self.chain.open_method(entry)
        return _Request(self, words, _Pictures(images, self.manifest), entry, schedule)

    def _fitting(self, words: _Words, images: Sequence[ImageSource], entry: MethodEntry, budget: float) -> _Request:
        """A request at the largest budget that fits some seconds."""
        tuner = self._tuner(entry)
        self._check(words, entry, tuner.smallest, len(images))
        self.chain.open_method(entry)
        encoded = words.encoded
        asked = Asked(len(encoded.before), len(encoded.after), len(images))

        def possible(keep: Keep) -> bool:
            try:
                self._check(words, None if keep is None else entry, tuner.schedule(keep), len(images))
            except (QuestionError, BackendError):  # too long for the context, or for the memory
                return False
            return True

        pictures = _Pictures(images, self.manifest)
        if not tuner.warm:
            pictures = _Pictures(images, self.manifest)  # the first of a process takes longer

        def run(keep: Keep) -> Trial:
            method = None if keep is None else entry
            trial = _Request(self, words, _Pictures(images, self.manifest), method, tuner.schedule(keep))
            return trial.measured

        start = perf_counter()
        choice, tried = tuner.choose(asked, budget, pictures.seconds, possible, run)
        trial = perf_counter() - start
        if tried:
            pictures = _Pictures(images, self.manifest)  # the time that counts begins now
        method = None if choice.keep is None else entry
        request = _Request(self, words, pictures, method, tuner.schedule(choice.keep), choice, trial if tried else None)
        tuner.learn(choice.keep, asked, request.measured)
        request.when_done = tuner.keep
        return request

    def _tuner(self, entry: MethodEntry) -> Tuner:
        if entry.name not in self._tuners:
            threads = self.backend.threads if isinstance(self.backend, OrtBackend) else 0
            self._tuners[entry.name] = Tuner(self.bundle, entry, self.backend.name, threads)
        return self._tuners[entry.name]

    def _check(self, words: _Words, entry: MethodEntry | None, schedule: Schedule | None, pictures: int) -> None:
        """Raise if a budget exceeds the context or the device's memory."""
        rows = schedule.first if schedule else self.manifest.vision.tokens
        text = words.encoded.text_tokens
        self.prompt.check_length(text, rows, 1)
        longest = min(text + words.max_new_tokens, self.manifest.decoder.context)
        check_request(self.manifest, entry, schedule, longest, pictures, self.backend.free_bytes)


class Stream:
    """The answer about one picture, piece by piece; iterate once, then read ``answer``."""

    def __init__(self, request: _Request) -> None:
        self._request = request
        self._text = TextStream(request.vlm.prompt.tokenizer)
        self._answer: Answer | None = None

    def __iter__(self) -> Iterator[str]:
        for (token,) in self._request.generation:
            if token is not None and (piece := self._text.push(token)):
                yield piece
        if piece := self._text.finish():
            yield piece
        self._answer = self._request.answer(0)
        self._request.when_done()

    @property
    def answer(self) -> Answer:
        """The whole answer.

        Raises:
            UsageError: the stream was not read to its end.
        """
        if self._answer is None:
            raise UsageError("the stream has not ended; read it to its end before asking for its answer")
        return self._answer


@dataclass(frozen=True)
class _Words:
    """What is asked for, but for the pictures and their budget."""

    encoded: EncodedPrompt
    max_new_tokens: int
    sampling: Sampling
    seed: int


class _Pictures:
    """Pictures prepared for the encoder; ``start`` is when that began, which is when a request begins."""

    def __init__(self, images: Sequence[ImageSource], facts: Manifest) -> None:
        self.start = perf_counter()
        self.values = batch([load_image(image) for image in images], facts.image)
        self.seconds = perf_counter() - self.start


class _Request:
    """One prompt from its pictures to its answers; prefilled when it is made.

    Attributes:
        measured: what its prompt took.
        when_done: called when it was answered.
    """

    def __init__(
        self,
        vlm: VLM,
        words: _Words,
        pictures: _Pictures,
        method: MethodEntry | None,
        schedule: Schedule | None,
        choice: Choice | None = None,
        trial: float | None = None,
    ) -> None:
        self.vlm, self._encoded, self._method, self._schedule = vlm, words.encoded, method, schedule
        self._choice = choice
        self.when_done: Callable[[], None] = lambda: None
        self._clock = Clock()
        facts = vlm.manifest
        self._clock.seconds["preprocess"] = pictures.seconds
        encoded = words.encoded
        text = Text(encoded.before, encoded.after, encoded.question, encoded.clip_ids)
        self._prefill: Prefill = vlm.chain.prefill(pictures.values, text, method, schedule, self._clock, words.seed)
        self._ttft = perf_counter() - pictures.start
        self.measured = Trial(self._ttft - pictures.seconds, self._clock.seconds["vision"])
        if trial is not None:
            self._clock.seconds["trial"] = trial
        self.generation = Generation(
            vlm.chain,
            self._prefill,
            Sampler(words.sampling, len(pictures.values)),
            facts.prompt.eos_token_ids,
            words.max_new_tokens,
            facts.decoder.context,
            self._clock,
        )

    def answer(self, row: int) -> Answer:
        """The finished answer of one picture."""
        facts, schedule = self.vlm.manifest, self._schedule
        ids = tuple(self.generation.tokens[row])
        reason = self.generation.reasons[row]
        assert reason is not None  # only read after the generation ended
        average = schedule.average if schedule else float(facts.vision.tokens)
        steps = self.generation.step_seconds[: len(ids) - 1]
        return Answer(
            text=self.vlm.prompt.tokenizer.decode(list(ids), skip_special_tokens=True),
            finish_reason=reason,
            method=self._method.name if self._method else None,
            keep=schedule.asked if schedule else "all",
            paper_label=schedule.label if schedule else None,
            visual_tokens_average=average,
            stages=tuple(_report(stage, row) for stage in self._prefill.stages),
            prompt_tokens=self._encoded.text_tokens + facts.vision.tokens,
            generated_tokens=len(ids),
            token_ids=ids,
            ttft_ms=self._ttft * 1e3,
            ttft_predicted_ms=self._choice.seconds * 1e3 if self._choice else None,
            itl_ms=float(np.mean(steps)) * 1e3 if steps else None,
            timings_ms={stage: seconds * 1e3 for stage, seconds in self._clock.seconds.items()},
            backend=self.vlm.backend.name,
            dtype=facts.dtype,
        )


def _report(stage: StageResult, row: int) -> StageReport:
    kept = stage.kept[row].tolist()
    return StageReport(
        cut=stage.cut,
        visual_tokens_in=stage.tokens_in,
        visual_tokens_out=stage.tokens_out,
        kept=tuple(sorted(kept)),
        merged=tuple(sorted(kept[len(kept) - stage.merged :])),
    )


def open_vlm(
    bundle: str | Path,
    threads: int | None = None,
    check_hashes: bool = True,
    backend: BackendChoice | Backend | None = None,
) -> VLM:
    """Open a bundle.

    Args:
        bundle: its folder.
        threads: threads per operator of ONNX Runtime on the CPU; None means one per core.
        check_hashes: compare every file with its recorded hash first.
        backend: what runs the graphs, chosen or already open; None is ONNX Runtime on the CPU.

    Raises:
        BundleError: it is no bundle, or a damaged one.
        UsageError: ``threads`` beside an open backend.
        BackendError: the backend cannot run here.
        MissingExtra: the backend is not installed.
    """
    if backend is None or isinstance(backend, BackendChoice):
        choice = backend or BackendChoice()
        if threads is not None:
            choice = replace(choice, threads=threads)
        opened = open_bundle(bundle, check_hashes)
        fresh = open_backend(opened, choice)
        try:
            return VLM(opened, fresh)
        except BaseException:
            fresh.close()  # whoever failed to open has nothing to close
            raise
    if threads is not None:
        raise UsageError(f"threads={threads} has no effect on a backend that is open already")
    return VLM(open_bundle(bundle, check_hashes), backend)
