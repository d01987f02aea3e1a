"""A vision-language model opened from a bundle: ask it about pictures, with a token budget per question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from edgeprune import catalog
from edgeprune.budget.keep import parse_keep
from edgeprune.budget.schedule import Schedule, make_schedule, site_of
from edgeprune.bundle.manifest import Manifest, MethodEntry
from edgeprune.bundle.store import Bundle, open_bundle
from edgeprune.errors import BackendError, QuestionError, UsageError
from edgeprune.runtime.answer import Answer
from edgeprune.runtime.auto import Asked, Choice, Keep, check_words, is_auto
from edgeprune.runtime.backend import Backend
from edgeprune.runtime.backends import BackendChoice, open_backend
from edgeprune.runtime.chain import Chain
from edgeprune.runtime.clip_ids import open_clip_ids
from edgeprune.runtime.ort import OrtBackend
from edgeprune.runtime.pixels import prepare
from edgeprune.runtime.preprocess import Source
from edgeprune.runtime.prompt import Prompt, TextStream
from edgeprune.runtime.request import Pictures, Request, Words
from edgeprune.runtime.room import check_request
from edgeprune.runtime.sampling import Sampling
from edgeprune.runtime.tuner import Trial, Tuner

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
        self._tuners: dict[tuple[str, int, int], Tuner] = {}

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
        images: Sequence[Source],
        keep: int | str = "all",
        method: str | None = None,
        max_new_tokens: int = 128,
        sampling: Sampling | None = None,
        seed: int = 0,
        ttft_budget_ms: float | None = None,
    ) -> Answer:
        """Ask about a picture, about several in one prompt, or about a video.

        Args:
            question: what to ask. Where it holds ``<image>`` (``<video>``), the pictures go there, else before it.
            images: the pictures, as paths or opened; where the bundle is for video, one video: the path of a file or
                folder, or a sequence of pictures.
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
        images: Sequence[Source],
        keep: int | str = "all",
        method: str | None = None,
        max_new_tokens: int = 128,
        sampling: Sampling | None = None,
        seed: int = 0,
        ttft_budget_ms: float | None = None,
    ) -> Stream:
        """As ``generate``, and get the answer piece by piece."""
        prompts = [self._several(images)]
        return Stream(self._request(question, prompts, keep, method, max_new_tokens, sampling, seed, ttft_budget_ms))

    def generate_batch(
        self,
        question: str,
        images: Sequence[Source],
        keep: int | str = "all",
        method: str | None = None,
        max_new_tokens: int = 128,
        sampling: Sampling | None = None,
        seed: int = 0,
        ttft_budget_ms: float | None = None,
    ) -> list[Answer]:
        """Ask the same question about several pictures, or videos, at once; one answer each, in their order.

        They must have the same number of visual tokens each.

        A ``ttft_budget_ms`` is for the batch: its first tokens come together.
        """
        prompts = [[image] for image in self._several(images)]
        request = self._request(question, prompts, keep, method, max_new_tokens, sampling, seed, ttft_budget_ms)
        for _ in request.generation:
            pass
        request.when_done()
        return [request.answer(row) for row in range(len(prompts))]

    def encode(self, image: Source) -> dict[str, NDArray[Any]]:
        """What the encoder makes of one picture or video: ``features`` [C, N, Dv] and the probes of the methods.

        Raises:
            ImageError: the picture cannot be used.
            BackendError: the graph failed.
        """
        return self.chain.encode(prepare([image], self.manifest.image))

    def plan(
        self, keep: int | str, method: str | None = None, tokens: int | None = None, runs: int | None = None
    ) -> tuple[MethodEntry | None, Schedule | None]:
        """What a budget means for this bundle: the method and its schedule, or two None for "all".

        Args:
            keep, method: as for ``generate``.
            tokens, runs: visual tokens and encoder runs of the pictures (``Pictures``); None for the most that one
                can have.

        Raises:
            UsageError: the bundle lacks the method, or the budget is malformed or out of reach.
        """
        if method is not None:
            self._entry(method, keep)
        runs = self.manifest.image.most_runs if runs is None else runs
        tokens = self.manifest.most_tokens if tokens is None else tokens
        average = parse_keep(keep, tokens)
        if average is None:
            return None, None
        entry = self._entry(method, keep)
        return entry, make_schedule(entry.name, average, site_of(self.manifest, entry, tokens, runs))

    def _several(self, images: Sequence[Source]) -> Sequence[Source]:
        """The pictures or videos, of which there must be one at least."""
        if isinstance(images, str | Path):
            images = [images]
        if not images:
            raise UsageError(f"got no {self.manifest.prompt.medium}, expected 1 or more")
        return images

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
        prompts: Sequence[Sequence[Source]],
        keep: int | str,
        method: str | None,
        max_new_tokens: int,
        sampling: Sampling | None,
        seed: int,
        ttft_budget_ms: float | None,
    ) -> Request:
        if max_new_tokens < 1:
            raise UsageError(f"--max-new-tokens is {max_new_tokens}, expected 1 or more")
        check_words(keep, ttft_budget_ms)
        if self.manifest.prompt.medium == "video" and len(prompts[0]) != 1:
            raise UsageError(f"got {len(prompts[0])} videos in one prompt, expected 1")
        encoded = self.prompt.encode(question, len(prompts[0]))
        if not 0 <= seed < SEEDS:
            raise UsageError(f"seed is {seed}, expected 0..{SEEDS - 1}")
        entry = self._entry(method, keep) if is_auto(keep) or method is not None else None
        words = Words(encoded, max_new_tokens, sampling or Sampling(), seed)
        pictures = Pictures(prompts, self.manifest)
        if ttft_budget_ms is not None:
            assert entry is not None  # the words were checked
            return self._fitting(words, prompts, pictures, entry, ttft_budget_ms / 1e3)
        entry, schedule = self.plan(keep, method, pictures.tokens, pictures.pixels.runs)
        self._check(words, pictures, entry, schedule)
        if entry is not None:
            self.chain.open_method(entry)
        return self._ask(words, pictures, entry, schedule)

    def _ask(
        self,
        words: Words,
        pictures: Pictures,
        entry: MethodEntry | None,
        schedule: Schedule | None,
        choice: Choice | None = None,
        trial: float | None = None,
    ) -> Request:
        return Request(self.chain, self.prompt, words, pictures, entry, schedule, choice, trial)

    def _fitting(
        self, words: Words, prompts: Sequence[Sequence[Source]], pictures: Pictures, entry: MethodEntry, budget: float
    ) -> Request:
        """A request at the largest budget that fits some seconds."""
        tuner = self._tuner(entry, pictures)
        self._check(words, pictures, entry, tuner.smallest)
        self.chain.open_method(entry)
        encoded = words.encoded
        asked = Asked(len(encoded.before), encoded.text_tokens - len(encoded.before), len(prompts))

        def possible(keep: Keep) -> bool:
            try:
                self._check(words, pictures, None if keep is None else entry, tuner.schedule(keep))
            except (QuestionError, BackendError):  # too long for the context, or for the memory
                return False
            return True

        if not tuner.warm:
            pictures = Pictures(prompts, self.manifest)  # the first of a process takes longer

        def run(keep: Keep) -> Trial:
            method = None if keep is None else entry
            return self._ask(words, Pictures(prompts, self.manifest), method, tuner.schedule(keep)).measured

        start = perf_counter()
        choice, tried = tuner.choose(asked, budget, pictures.seconds, possible, run)
        trial = perf_counter() - start
        if tried:
            pictures = Pictures(prompts, self.manifest)  # the time that counts begins now
        method = None if choice.keep is None else entry
        request = self._ask(words, pictures, method, tuner.schedule(choice.keep), choice, trial if tried else None)
        tuner.learn(choice.keep, asked, request.measured)
        request.when_done = tuner.keep
        return request

    def _tuner(self, entry: MethodEntry, pictures: Pictures) -> Tuner:
        """What is known of requests whose pictures have the same shape."""
        key = entry.name, pictures.tokens, pictures.pixels.runs
        if key not in self._tuners:
            threads = self.backend.threads if isinstance(self.backend, OrtBackend) else 0
            self._tuners[key] = Tuner(self.bundle, entry, self.backend.name, threads, *key[1:], self.backend.chunk)
        return self._tuners[key]

    def _check(self, words: Words, pictures: Pictures, entry: MethodEntry | None, schedule: Schedule | None) -> None:
        """Raise if a budget exceeds the context or the device's memory."""
        rows = schedule.first if schedule else pictures.tokens
        text = words.encoded.text_tokens
        self.prompt.check_length(text, rows, 1, len(pictures.pixels.pictures))
        longest = min(text + words.max_new_tokens, self.manifest.decoder.context)
        prompts, runs, free = pictures.pixels.prompts, pictures.pixels.runs, self.backend.free_bytes
        check_request(self.manifest, entry, schedule, longest, prompts, free, pictures.tokens, runs)


class Stream:
    """One answer, piece by piece; iterate once, then read ``answer``."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._text = TextStream(request.prompt.tokenizer)
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
