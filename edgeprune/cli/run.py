"""``edgeprune run``: a question about pictures."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeprune.cli.options import (
    BACKEND,
    BUNDLE,
    PLANS,
    PROVIDER,
    SKIP_HASHES,
    THREADS,
    TRUST_PLANS,
    json_option,
)
from edgeprune.cli.overlay import overlay_paths, write_overlay

if TYPE_CHECKING:
    from edgeprune.bundle.manifest import Manifest
    from edgeprune.runtime.answer import Answer
    from edgeprune.runtime.backends import BackendName
    from edgeprune.runtime.ort import Provider
    from edgeprune.runtime.vlm import Stream


@click.command(name="run")
@BUNDLE
@click.argument("words", nargs=-1, required=True, metavar="IMAGE_OR_CLIP... QUESTION")
@click.option("--together", is_flag=True, help="Put all pictures into one prompt; default: ask about each by itself.")
@click.option(
    "--keep",
    default="all",
    show_default=True,
    help="Visual tokens on average: 64, 11.1%, paper:128, all, or auto, which fits --ttft-budget.",
)
@click.option(
    "--ttft-budget",
    metavar="TIME",
    help="With --keep auto: 150ms or 0.15s from the picture to the first token, met by nine of ten requests.",
)
@click.option("--method", help="Pruning method; needed only where the bundle has several.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-p", type=float, default=1.0, show_default=True)
@click.option("--top-k", type=int, default=0, show_default=True, help="0 is off.")
@click.option("--seed", type=click.IntRange(min=0), help="Of sampling, and of the method random.")
@click.option("--overlay", type=click.Path(path_type=Path), help="Write a picture of what each stage kept.")
@BACKEND
@PROVIDER
@PLANS
@TRUST_PLANS
@THREADS
@SKIP_HASHES
@json_option("the answer")
def command(
    bundle: Path,
    words: tuple[str, ...],
    together: bool,
    keep: str,
    ttft_budget: str | None,
    method: str | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int | None,
    overlay: Path | None,
    backend: BackendName,
    provider: Provider | None,
    target: str | None,
    trust_plans: Path | None,
    threads: int | None,
    skip_hashes: bool,
    as_json: bool,
) -> None:
    """Ask QUESTION about one IMAGE, or about each of several in one batch.

    With --together, or where QUESTION says <image> more than once, all pictures are in one prompt, in the places it
    names or else before it. A bundle for video takes a clip instead, or a folder of frames.
    """
    from edgeprune.bundle.store import open_bundle
    from edgeprune.errors import UsageError
    from edgeprune.runtime.auto import check_words, is_auto
    from edgeprune.runtime.backends import BackendChoice
    from edgeprune.runtime.sampling import Sampling
    from edgeprune.runtime.vlm import open_vlm

    *paths, question = words
    if not paths:
        raise UsageError(f"got {question!r} alone, expected IMAGE... QUESTION")
    if "" in paths:
        raise UsageError("got an empty image path, expected IMAGE... QUESTION")
    budget_ms = None if ttft_budget is None else milliseconds(ttft_budget)
    check_words(keep, budget_ms)
    sampling = Sampling(temperature, top_p, top_k, seed)
    choice = BackendChoice(backend, provider, target, trust_plans, threads)
    together = together or question.count("<image>") > 1
    prompts = [paths] if together else [[path] for path in paths]
    places = overlay_paths(overlay, paths, bundle, together=together) if overlay else []
    # What cannot be used is told before gigabytes are loaded.
    batches = _batches(prompts, open_bundle(bundle, check_hashes=False).manifest)
    with open_vlm(bundle, None, not skip_hashes, choice) as vlm:
        plans = [vlm.plan(keep, method, batch.tokens, batch.runs)[1] for batch in batches if not is_auto(keep)]
        unpruned = None in plans
        if overlay is not None and unpruned:
            raise UsageError("--overlay shows what pruning kept: give --keep below all")
        if method is not None and unpruned:
            raise UsageError(f"--method {method} has no effect at --keep all: give --keep below all")
        asked = (keep, method, max_new_tokens, sampling, seed or 0, budget_ms)
        if len(prompts) == 1:
            answers = [_read(vlm.stream(question, paths, *asked), as_json)]
        else:
            answers = [answer for batch in batches for answer in vlm.generate_batch(question, batch.paths, *asked)]
        for place, own, answer in zip(places, prompts, answers, strict=False):
            if answer.stages:
                write_overlay(vlm, place, own, answer)
            else:  # "auto" found room for all
                click.echo(f"edgeprune: no {place}: all tokens fit {ttft_budget}, nothing was pruned", err=True)
        _print(answers, paths, as_json)


@dataclass(frozen=True)
class _Batch:
    """Pictures, or videos, that run together: of one prompt, or one of each of several prompts."""

    paths: list[str]
    tokens: int
    runs: int


def _batches(prompts: list[list[str]], facts: Manifest) -> list[_Batch]:
    """All prompts at once where their pictures have the same geometry, else one after the other.

    Raises:
        ImageError: a picture cannot be used.
    """
    from edgeprune.errors import ImageError
    from edgeprune.runtime.request import Pictures

    def batch(own: list[list[str]]) -> _Batch:
        pictures = Pictures(own, facts)
        return _Batch([path for paths in own for path in paths], pictures.tokens, pictures.pixels.runs)

    try:
        return [batch(prompts)]
    except ImageError:
        return [batch([own]) for own in prompts]


def _read(stream: Stream, as_json: bool) -> Answer:
    """Read an answer to its end, aloud where it is not wanted as JSON."""
    for piece in stream:
        if not as_json:
            click.echo(piece, nl=False)
    if not as_json:
        click.echo()
    return stream.answer


def _print(answers: list[Answer], paths: list[str], as_json: bool) -> None:
    if as_json:
        objects = [json.loads(answer.to_json()) for answer in answers]
        click.echo(json.dumps(objects[0] if len(objects) == 1 else {"answers": objects}, ensure_ascii=False))
        return
    if len(answers) > 1:
        for path, answer in zip(paths, answers, strict=True):
            click.echo(f"{path}: {answer.text}")
    click.echo(summary(answers[0]))


def milliseconds(text: str) -> float:
    """A time with its unit: "150ms", "0.15s".

    Raises:
        UsageError: it has another form; a number alone could be either.
    """
    from edgeprune.errors import UsageError

    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(ms|s)\s*", text)
    if found is None:
        raise UsageError(f"--ttft-budget {text!r} is no time with a unit; expected for example 150ms or 0.15s")
    return float(found[1]) * (1e3 if found[2] == "s" else 1)


def summary(answer: Answer) -> str:
    """One line: what was chosen, tokens per stage, TTFT, ITL, tokens/s."""
    if answer.stages:
        counts = [str(answer.stages[0].visual_tokens_in), *(str(s.visual_tokens_out) for s in answer.stages)]
        label = f", {answer.method}'s paper calls it {answer.paper_label}" if answer.paper_label else ""
        tokens = f"visual tokens {' > '.join(counts)} (average {answer.visual_tokens_average:.1f}{label})"
    else:
        tokens = f"visual tokens {answer.visual_tokens_average:.0f}, unpruned"
    if answer.itl_ms is None:
        speed = "one token"
    else:
        speed = f"ITL {answer.itl_ms:.1f} ms | {1e3 / answer.itl_ms:.1f} tokens/s"
    if answer.ttft_predicted_ms is not None:
        chosen = "all tokens" if answer.method is None else f"{answer.keep} tokens"
        tried = answer.timings_ms.get("trial")
        after = f" after {tried:.0f} ms of trials" if tried is not None else ""
        tokens = f"auto: {chosen}, predicted {answer.ttft_predicted_ms:.0f} ms{after} | {tokens}"
    return f"[{tokens} | TTFT {answer.ttft_ms:.0f} ms | {speed} | ended by {answer.finish_reason}]"
