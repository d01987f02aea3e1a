"""A vision-language model opened from a bundle: ask it about pictures, with a token budget per question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
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
from edgeprune.errors import UsageError
from edgeprune.runtime.answer import Answer, StageReport
from edgeprune.runtime.backend import Backend
from edgeprune.runtime.backends import BackendChoice, open_backend
from edgeprune.runtime.chain import Chain, Clock, Prefill, StageResult, Text
from edgeprune.runtime.clip_ids import open_clip_ids
from edgeprune.runtime.generation import Generation
from edgeprune.runtime.preprocess import batch, load_image
from edgeprune.runtime.prompt import EncodedPrompt, Prompt, TextStream
from edgeprune.runtime.room import check_request
from edgeprune.runtime.sampling import Sampler, Sampling

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
    ) -> Answer:
        """Ask about one picture.

        Args:
            question: what to ask.
            images: one picture, as a path or opened.
            keep: average visual tokens over the decoder layers (64), a percentage ("11.1%"), the paper's own label
                ("paper:128"), or "all".
            method: pruning method; None takes the bundle's only one.
            max_new_tokens: the most tokens of the answer.
            sampling: None is greedy.
            seed: of the method `random`, which keeps another set of patches for every seed.

        Raises:
            UsageError: an argument is malformed or out of range.
            ImageError: a picture cannot be used.
            BackendError: a graph failed.
        """
        stream = self.stream(question, images, keep, method, max_new_tokens, sampling, seed)
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
    ) -> Stream:
        """Ask about one picture and get the answer piece by piece; arguments as for ``generate``."""
        if isinstance(images, str):
            images = [images]
        if len(images) != 1:
            raise UsageError(f"got {len(images)} images, expected 1; generate_batch asks one question of several")
        return Stream(self._request(question, images, keep, method, max_new_tokens, sampling, seed))

    def generate_batch(
        self,
        question: str,
        images: Sequence[ImageSource],
        keep: int | str = "all",
        method: str | None = None,
        max_new_tokens: int = 128,
        sampling: Sampling | None = None,
        seed: int = 0,
    ) -> list[Answer]:
        """Ask the same question about several pictures at once; one answer per picture, in their order."""
        if not images or isinstance(images, str):
            raise UsageError(f"got images={images!r}, expected a list of at least 1")
        request = self._request(question, images, keep, method, max_new_tokens, sampling, seed)
        for _ in request.generation:
            pass
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
        known = ", ".join(entry.name for entry in self.manifest.methods)
        if method is not None and self.manifest.method(method) is None:
            card = catalog.card(method)  # raises for a method that nobody knows
            raise UsageError(
                f"the bundle has no method {method!r}; it has {known}; "
                f"edgeprune export {self.bundle.root} --add-method {card.name} adds it"
            )
        average = parse_keep(keep, self.manifest.vision.tokens)
        if average is None:
            return None, None
        if method is None and len(self.manifest.methods) != 1:
            raise UsageError(f"--method is needed with --keep {keep}: the bundle has {known}")
        entry = self.manifest.methods[0] if method is None else self.manifest.method(method)
        assert entry is not None  # checked above
        return entry, make_schedule(entry.name, average, site_of(self.manifest, entry))

    def _request(
        self,
        question: str,
        images: Sequence[ImageSource],
        keep: int | str,
        method: str | None,
        max_new_tokens: int,
        sampling: Sampling | None,
        seed: int,
    ) -> _Request:
        if max_new_tokens < 1:
            raise UsageError(f"--max-new-tokens is {max_new_tokens}, expected 1 or more")
        entry, schedule = self.plan(keep, method)
        encoded = self.prompt.encode(question)
        if not 0 <= seed < SEEDS:
            raise UsageError(f"seed is {seed}, expected 0..{SEEDS - 1}")
        rows = schedule.first if schedule else self.manifest.vision.tokens
        self.prompt.check_length(encoded.text_tokens, rows, 1)
        if entry is not None:
            self.chain.open_method(entry)
        longest = min(encoded.text_tokens + max_new_tokens, self.manifest.decoder.context)
        check_request(self.manifest, entry, schedule, longest, len(images), self.backend.free_bytes)
        return _Request(self, encoded, images, entry, schedule, max_new_tokens, sampling or Sampling(), seed)


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

    @property
    def answer(self) -> Answer:
        """The whole answer.

        Raises:
            UsageError: the stream was not read to its end.
        """
        if self._answer is None:
            raise UsageError("the stream has not ended; read it to its end before asking for its answer")
        return self._answer


class _Request:
    """One prompt from its pictures to its answers; prefilled when it is made."""

    def __init__(
        self,
        vlm: VLM,
        encoded: EncodedPrompt,
        images: Sequence[ImageSource],
        method: MethodEntry | None,
        schedule: Schedule | None,
        max_new_tokens: int,
        sampling: Sampling,
        seed: int,
    ) -> None:
        self.vlm, self._encoded, self._method, self._schedule = vlm, encoded, method, schedule
        self._clock = Clock()
        facts = vlm.manifest
        start = perf_counter()
        pixel_values = batch([load_image(image) for image in images], facts.image)
        self._clock.seconds["preprocess"] = perf_counter() - start
        text = Text(encoded.before, encoded.after, encoded.question, encoded.clip_ids)
        self._prefill: Prefill = vlm.chain.prefill(pixel_values, text, method, schedule, self._clock, seed)
        self._ttft = perf_counter() - start
        self.generation = Generation(
            vlm.chain,
            self._prefill,
            Sampler(sampling, len(images)),
            facts.prompt.eos_token_ids,
            max_new_tokens,
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
