"""``edgeprune bench --sweep``: many methods at many budgets in one report, which an interruption does not lose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeprune.cli.options import DEMO_ID

if TYPE_CHECKING:
    from edgeprune.bench.run import Settings
    from edgeprune.sweep.plan import Asked
    from edgeprune.sweep.report import SweepReport


@dataclass(frozen=True)
class Outputs:
    """Where the report goes beside the terminal; None is nowhere."""

    page: Path | None
    markdown: Path | None
    as_json: bool


def sweep(
    bundle: Path,
    words: tuple[str, ...],
    settings: Settings,
    questions: tuple[int | None, Path | None],
    image: Path | None,
    check_hashes: bool,
    fresh: bool,
    outputs: Outputs,
    command: str,
) -> None:
    """Run a sweep and write its report.

    Args:
        bundle: its folder.
        words: the axes as typed.
        settings: how to time.
        questions: scenes, or lines of the file, to ask; and the file. Both None leave accuracy out.
        image: picture of the timing.
        check_hashes: as for every command.
        fresh: forget what an interrupted sweep has finished.
        outputs: where the report goes.
        command: the command line that makes it again.

    Raises:
        BackendError: every cell failed; the report is written nevertheless.
    """
    from edgeprune.bundle.store import open_bundle
    from edgeprune.errors import BackendError
    from edgeprune.sweep.axes import Axes
    from edgeprune.sweep.plan import Plan
    from edgeprune.sweep.run import run_sweep

    axes = Axes.parse(words)
    _check(outputs, bundle, [path for path in (image, questions[1]) if path is not None])
    model = open_bundle(bundle, check_hashes=False).manifest.model.id
    asked = _asked(*questions, model)
    draw = outputs.page is not None
    plan = Plan(bundle, axes, settings, asked, image, check_hashes, draw, command)
    try:
        with run_sweep(plan, fresh, _tell) as report:
            _write(report, outputs)
    except KeyboardInterrupt:
        _tell("what is finished is kept: the same command goes on from there")
        raise
    if not report.worked:
        first = next(failure for row in report.rows for failure in row.failures)
        raise BackendError(f"every cell of the sweep failed; the first: {first.reason}")


def _check(outputs: Outputs, bundle: Path, inputs: list[Path]) -> None:
    """Refuse a place that cannot be written, hours before it is.

    Raises:
        UsageError: both reports would go to the same file.
    """
    from edgeprune.errors import UsageError
    from edgeprune.sweep.output import check_output

    for option, path in (("--report", outputs.page), ("--markdown", outputs.markdown)):
        if path is not None:
            check_output(option, path, bundle, inputs)
    if outputs.page and outputs.markdown and outputs.page.resolve() == outputs.markdown.resolve():
        raise UsageError(f"--report and --markdown both name {outputs.page}; give two files")


def _asked(count: int | None, data: Path | None, model: str) -> Asked | None:
    """The questions; a hint where they were not made for this model."""
    from edgeprune.eval.data import demo_samples, read_samples
    from edgeprune.sweep.plan import Asked

    if data is not None:
        return Asked(data.name, read_samples(data)[:count], suited=True)
    if count is None:
        return None
    if model != DEMO_ID:
        _tell(f"the questions were made for the demo model, not for {model}: see --data")
    return Asked("demo", demo_samples(count), suited=model == DEMO_ID)


def _write(report: SweepReport, outputs: Outputs) -> None:
    """Files first: a terminal that is gone must not cost them."""
    from edgeprune.sweep.export import to_json
    from edgeprune.sweep.output import write_output
    from edgeprune.sweep.page import render_page
    from edgeprune.sweep.table import render_markdown, render_text

    written = []
    if outputs.page is not None:
        write_output(outputs.page, render_page(report))
        written.append(str(outputs.page))
    if outputs.markdown is not None:
        write_output(outputs.markdown, render_markdown(report))
        written.append(str(outputs.markdown))
    click.echo(to_json(report) if outputs.as_json else render_text(report))
    if written:
        _tell(f"written: {', '.join(written)}")


def _tell(line: str) -> None:
    click.echo(line, err=True)
