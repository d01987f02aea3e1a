"""A bundle asked every question at every budget: what can be asked, and the rows as they are finished."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import edgeprune
from edgeprune.budget.keep import parse_keep
from edgeprune.errors import BudgetError, ImageError, QuestionError, UsageError
from edgeprune.eval.accuracy import Accuracy, Reply, tally
from edgeprune.eval.data import Sample
from edgeprune.runtime.request import Pictures
from edgeprune.runtime.vlm import VLM

KEEPS = ("all", "192", "128", "64", "32")
_SEEDS = 1_000_000  # per --seed, one for each picture
_PACKAGES = ("numpy", "pillow", "tokenizers", "onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class Run:
    """One row to come: a method, None without pruning, and a budget."""

    method: str | None
    keep: str

    @property
    def label(self) -> str:
        """Names the row."""
        return "all" if self.method is None else f"{self.method} {self.keep}"


UNPRUNED = Run(None, "all")


@dataclass(frozen=True)
class Size:
    """What a picture becomes: visual tokens that enter the decoder without pruning, and runs of the encoder."""

    tokens: int
    runs: int

    def spared(self, keep: str) -> bool:
        """Whether a budget, which is well formed, leaves all that there is."""
        return keep.isdecimal() and int(keep) >= self.tokens


def sizes_of(vlm: VLM, samples: Sequence[Sample]) -> dict[int, Size]:
    """Open every picture, and say what each becomes, by its number, before anything is asked about one.

    Raises:
        ImageError: a picture cannot be used; the message says which.
    """
    found: dict[int, Size] = {}
    for sample in samples:
        if sample.index not in found:
            try:
                pictures = Pictures([[sample.picture()]], vlm.manifest)
            except ImageError as error:
                raise ImageError(f"{sample.where}: {error}") from error
            found[sample.index] = Size(pictures.tokens, pictures.pixels.runs)
    return found


def plan_runs(
    vlm: VLM,
    methods: Sequence[str] | None,
    keeps: Sequence[str] | None,
    samples: Sequence[Sample],
    sizes: Mapping[int, Size],
) -> tuple[tuple[Run, ...], tuple[str, ...]]:
    """The rows to run, unpruned first, and one line per method on the budgets that are out of its reach.

    Args:
        vlm: an opened bundle.
        methods: None are all the bundle has.
        keeps: None are the usual ones. A picture that has no more visual tokens than a number is not pruned there.
        samples: the questions, at least one.
        sizes: of their pictures.

    Raises:
        UsageError: the bundle lacks a method, or a word is given twice or can have no effect.
        BudgetError: a budget is malformed; or out of reach, for one of the pictures, where nothing else was asked for
            in its place: method and budget were both named, or no method reaches the budget, or the method reaches no
            budget.
    """
    _refuse_twice("--method", methods)
    _refuse_twice("--keep", keeps)
    tokens = vlm.manifest.most_tokens
    for keep in keeps or ():
        parse_keep(keep, tokens)  # what no method could read is told once, not left out
    runs: list[Run] = []
    refused: dict[Run, BudgetError] = {}
    for method in [entry.name for entry in vlm.manifest.methods] if methods is None else methods:
        for keep in keeps or KEEPS:
            try:
                if _prunes(vlm, Run(method, keep), samples, sizes):
                    runs.append(Run(method, keep))
            except BudgetError as error:
                if methods is not None and keeps is not None:
                    raise
                refused[Run(method, keep)] = error
    _refuse_idle(methods, keeps, runs, refused)
    return (UNPRUNED, *runs), _left_out(refused)


def _prunes(vlm: VLM, run: Run, samples: Sequence[Sample], sizes: Mapping[int, Size]) -> bool:
    """Whether a run prunes any picture; a BudgetError names the first that it cannot."""
    first: dict[Size, Sample] = {}
    for sample in samples:
        first.setdefault(sizes[sample.index], sample)
    most, pruned = max(size.tokens for size in first), False
    if Size(most, 1).spared(run.keep) and int(run.keep) != vlm.manifest.most_tokens:
        raise BudgetError(f"--keep {run.keep} prunes nothing: no picture has more than {most} visual tokens")
    for size, sample in first.items():
        if size.spared(run.keep):
            continue
        try:
            pruned |= vlm.plan(run.keep, run.method, size.tokens, size.runs)[1] is not None
        except BudgetError as error:
            raise BudgetError(f"{sample.where}: {error}" if len(first) > 1 else str(error)) from error
    return pruned


def check_questions(vlm: VLM, samples: Sequence[Sample]) -> None:
    """Ask nothing yet: refuse what the model cannot be asked.

    Raises:
        QuestionError: a question holds special tokens, or is too long; the message says which.
    """
    for sample in samples:
        try:
            text_tokens = vlm.prompt.encode(sample.question).text_tokens
            vlm.prompt.check_length(text_tokens, vlm.manifest.most_tokens, 1)
        except QuestionError as error:
            raise QuestionError(f"{sample.where}: {error}") from error


def evaluate(
    vlm: VLM,
    samples: Sequence[Sample],
    runs: Sequence[Run],
    max_new_tokens: int,
    seed: int,
    sizes: Mapping[int, Size],
    begin: Callable[[str], Any] = lambda label: None,
    advance: Callable[[], Any] = lambda: None,
) -> Iterator[Accuracy]:
    """Ask every question in every run, and give each row as it is finished.

    Args:
        vlm: an opened bundle.
        samples: the questions, at least one.
        runs: the first is unpruned: the others are held against it.
        max_new_tokens: the longest answer.
        seed: of the method that draws at random; every picture has another draw.
        sizes: of the pictures; one that has no more visual tokens than a run keeps is asked about unpruned.
        begin: called before each row with its label.
        advance: called after each answer.

    Raises:
        UsageError: a question or budget cannot be asked.
        ImageError: a picture cannot be used; the message says which.
        BackendError: a graph failed.
    """
    unpruned: list[Reply] | None = None
    for run in runs:
        begin(run.label)
        replies = []
        for sample in samples:
            spared = sizes[sample.index].spared(run.keep)
            replies.append(ask(vlm, sample, UNPRUNED if spared else run, max_new_tokens, seed))
            advance()
        unpruned = unpruned or replies
        yield tally(run.label, samples, replies, unpruned, run.method, run.keep)


def ask(vlm: VLM, sample: Sample, run: Run, max_new_tokens: int, seed: int) -> Reply:
    """Ask one question; arguments and errors as for ``evaluate``."""
    try:
        answer = vlm.generate(
            sample.question,
            [sample.picture()],
            run.keep,
            run.method,
            max_new_tokens=max_new_tokens,
            seed=seed * _SEEDS + sample.index,
        )
    except ImageError as error:
        raise ImageError(f"{sample.where}: {error}") from error
    return Reply(answer.text, answer.ttft_ms, answer.visual_tokens_average, run.method is None)


def versions() -> dict[str, str]:
    """Python, edgeprune, and the packages that are installed; none of them is imported for it."""
    found = {"python": platform.python_version(), "edgeprune": edgeprune.__version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _refuse_twice(option: str, words: Sequence[str] | None) -> None:
    for word in words or ():
        if words is not None and words.count(word) > 1:
            raise UsageError(f"{option} names {word!r} twice")


def _refuse_idle(
    methods: Sequence[str] | None, keeps: Sequence[str] | None, runs: Sequence[Run], refused: dict[Run, BudgetError]
) -> None:
    """A word that was typed and would change nothing is an error."""
    for run, error in refused.items():
        same_keep = any(other.keep == run.keep for other in runs)
        same_method = any(other.method == run.method for other in runs)
        if (keeps is not None and not same_keep) or (methods is not None and not same_method):
            raise error
    if methods is not None and not runs:
        raise UsageError(f"--method {','.join(methods)} has no effect at --keep all: give --keep below all")


def _left_out(refused: dict[Run, BudgetError]) -> tuple[str, ...]:
    """One line per method."""
    by_method: dict[str | None, list[Run]] = {}
    for run in refused:
        by_method.setdefault(run.method, []).append(run)
    lines = []
    for method, runs in by_method.items():
        keeps = ", ".join(run.keep for run in runs)
        lines.append(f"{method}: left out --keep {keeps}: {refused[runs[-1]]}")
    return tuple(lines)
