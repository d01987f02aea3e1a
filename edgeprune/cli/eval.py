"""``edgeprune eval``: what pruning costs in right answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli.options import BUNDLE, DEMO_ID, QUIET, SKIP_HASHES, THREADS, json_option

if TYPE_CHECKING:
    from edgeprune.eval.accuracy import Accuracy

_SCENES = 50
_DEMO = "demo"  # what the report calls the held-out scenes


@click.command(name="eval")
@BUNDLE
@click.option("--method", help="Pruning methods, separated by commas; default: all of the bundle's.")
@click.option("--keep", help="Budgets, separated by commas; default: all,192,128,64,32.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help="Questions: one object per line with image, question and, where known, answer, choices, kind, id; "
    "default: held-out scenes of the demo model.",
)
@click.option(
    "-n", "count", type=click.IntRange(min=1), help=f"Scenes, or lines of --data; default: {_SCENES}, or every line."
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=16, show_default=True)
@click.option(
    "--seed",
    type=click.IntRange(0, 1000),
    default=0,
    show_default=True,
    help="Of the method that draws at random; the scenes are always the same.",
)
@THREADS
@SKIP_HASHES
@QUIET
@json_option("the report")
def command(
    bundle: Path,
    method: str | None,
    keep: str | None,
    data: Path | None,
    count: int | None,
    max_new_tokens: int,
    seed: int,
    threads: int | None,
    skip_hashes: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Ask BUNDLE questions with known answers, unpruned and at several budgets, and count the right ones.

    The table has the share of right answers per kind of question, overall with half its 95% interval (Wilson), the
    share of answers that are the unpruned model's, and the median time to first token.
    """
    from edgeprune.errors import EdgePruneError
    from edgeprune.eval import data as questions
    from edgeprune.eval import run as evaluation
    from edgeprune.eval.accuracy import Report, table
    from edgeprune.runtime.vlm import open_vlm

    samples = questions.demo_samples(count or _SCENES) if data is None else questions.read_samples(data)[:count]
    with open_vlm(bundle, threads, not skip_hashes) as vlm:
        facts = vlm.manifest
        sizes = evaluation.sizes_of(vlm, samples)
        runs, left_out = evaluation.plan_runs(vlm, _words(method), _words(keep), samples, sizes)
        evaluation.check_questions(vlm, samples)
        if data is None and facts.model.id != DEMO_ID:
            click.echo(f"the questions were made for the demo model, not for {facts.model.id}: see --data", err=True)
        for line in left_out:
            click.echo(line, err=True)
        rows: list[Accuracy] = []
        try:
            with _Bar(len(samples) * len(runs), quiet) as bar:
                told = bar.begin, bar.advance
                for row in evaluation.evaluate(vlm, samples, runs, max_new_tokens, seed, sizes, *told):
                    rows.append(row)
        except (KeyboardInterrupt, EdgePruneError):
            if rows:  # what is finished stays true
                click.echo(table(rows))
            raise
        backend = vlm.backend.name
    report = Report(
        model=facts.model.id,
        revision=facts.model.revision,
        dtype=facts.dtype,
        backend=backend,
        data=_DEMO if data is None else data.name,
        n=len(samples),
        images=len({sample.index for sample in samples}),
        seed=seed,
        max_new_tokens=max_new_tokens,
        tokens=facts.most_tokens,
        keeps=tuple(_words(keep) or evaluation.KEEPS),
        rows=tuple(rows),
        left_out=left_out,
        versions=evaluation.versions(),
    )
    click.echo(table(rows))
    if as_json:
        click.echo(report.to_json())


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",")]


class _Bar:
    """Progress on stderr with the time left; none where tqdm is not installed, which no question needs."""

    def __init__(self, total: int, quiet: bool) -> None:
        try:
            from tqdm import tqdm
        except ImportError:
            self._bar: Any = None
        else:
            self._bar = tqdm(total=total, unit=" answers", disable=quiet, file=sys.stderr)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def begin(self, label: str) -> None:
        """Name the row that is asked now."""
        if self._bar is not None:
            self._bar.set_description(label)

    def advance(self) -> None:
        """One answer more."""
        if self._bar is not None:
            self._bar.update()
