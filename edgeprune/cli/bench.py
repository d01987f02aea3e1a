"""``edgeprune bench``: what a bundle gained, against itself unpruned, PyTorch eager, or an earlier report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from edgeprune.cli.options import (
    BACKEND,
    PLANS,
    PROVIDER,
    QUIET,
    SKIP_HASHES,
    THREADS,
    TRUST_PLANS,
    find_origin,
    json_option,
)

if TYPE_CHECKING:
    from edgeprune.bench.run import Settings
    from edgeprune.runtime.backends import BackendChoice, BackendName
    from edgeprune.runtime.ort import Provider

_GPU = {"backend", "provider", "target", "trust_plans"}
_ALONE = {"keep", "method", "against", "model", "dtypes", *_GPU}  # options of a plain benchmark only
_SWEEPS = {"axes", "scenes", "data", "page", "markdown", "fresh"}  # of --sweep only
_COMPARES = {"pair", "fail_above", "as_json", "quiet"}  # all that --compare takes


@click.command(name="bench")
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.argument("axes", nargs=-1)
@click.option("--keep", default="all,192,128,64", show_default=True, help="Budgets, separated by commas.")
@click.option("--method", help="Pruning methods, separated by commas, or all; needed where the bundle has several.")
@click.option("--against", type=click.Choice(["eager"]), help="Also run Hugging Face's model in PyTorch.")
@click.option("--model", help="Checkpoint of the eager model; default: the one the bundle names.")
@click.option(
    "--dtype",
    "dtypes",
    type=click.Choice(["fp32", "bf16"]),
    multiple=True,
    help="What eager runs in, may be repeated; default: fp32, and bf16 where the CPU has it.",
)
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    help="Picture, or video where BUNDLE takes one; default: seeded noise of its largest shape.",
)
@click.option("--text-tokens", type=click.IntRange(min=1), default=60, show_default=True)
@click.option("--new-tokens", type=click.IntRange(min=2), default=16, show_default=True)
@click.option("--warmup", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--memory/--no-memory", default=True, show_default=True, help="Measure peak memory in child processes.")
@click.option(
    "--sweep",
    is_flag=True,
    help="Every method at every budget in one report; the words behind BUNDLE are its axes: method=a,b (default: all "
    "the bundle has) and keep=all,128,64. Interrupted, the same command goes on where it stopped.",
)
@click.option(
    "--eval", "scenes", type=click.IntRange(min=1), metavar="N", help="Sweep: ask about N held-out scenes, too."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help="Sweep: questions in place of the demo model's scenes, as of `edgeprune eval`; with --eval its first N lines.",
)
@click.option(
    "--report", "page", type=click.Path(path_type=Path), metavar="OUT.html", help="Sweep: write a page of its own."
)
@click.option("--markdown", type=click.Path(path_type=Path), metavar="OUT.md", help="Sweep: write it as Markdown.")
@click.option("--fresh", is_flag=True, help="Sweep: forget what an interrupted one has finished.")
@click.option(
    "--compare",
    "pair",
    type=click.Path(path_type=Path),
    nargs=2,
    metavar="A.json B.json",
    help="Compare two reports of `bench --json`, with --sweep or without, figure by figure; takes no BUNDLE.",
)
@click.option("--fail-above", metavar="P%", help="With --compare: exit 3 if a figure of B is surely worse by more.")
@BACKEND
@PROVIDER
@PLANS
@TRUST_PLANS
@THREADS
@SKIP_HASHES
@QUIET
@json_option("the report")
@click.pass_context
def command(
    context: click.Context,
    bundle: Path | None,
    axes: tuple[str, ...],
    keep: str,
    method: str | None,
    against: Literal["eager"] | None,
    model: str | None,
    dtypes: tuple[str, ...],
    image: Path | None,
    text_tokens: int,
    new_tokens: int,
    warmup: int,
    repeats: int,
    memory: bool,
    sweep: bool,
    scenes: int | None,
    data: Path | None,
    page: Path | None,
    markdown: Path | None,
    fresh: bool,
    pair: tuple[Path, Path] | None,
    fail_above: str | None,
    backend: BackendName,
    provider: Provider | None,
    target: str | None,
    trust_plans: Path | None,
    threads: int | None,
    skip_hashes: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Time BUNDLE at several budgets, stage by stage, beside what this machine could do.

    All variants run in turn on the same picture or video, prompt and threads. Prefill and decode are reported apart.

    \b
    edgeprune bench b/ --keep all,64
    edgeprune bench b/ --sweep method=visiondrop,sts keep=all,128,64 --eval 50 --report out.html
    edgeprune bench --compare before.json after.json --fail-above 5%
    """
    from edgeprune.bench.run import Settings
    from edgeprune.runtime.backends import BackendChoice

    _refuse_idle(context, sweep, pair is not None)
    if pair is not None:
        _compare(*pair, fail_above, as_json)
        return
    if bundle is None:
        raise click.MissingParameter(ctx=context, param_hint="'BUNDLE'", param_type="argument")
    settings = Settings(
        threads=threads,
        warmup=warmup,
        repeats=repeats,
        text_tokens=text_tokens,
        new_tokens=new_tokens,
        memory=memory,
        eager_dtypes=dtypes or None,
        progress=not quiet,
    )
    if sweep:
        from edgeprune.cli.sweep import Outputs
        from edgeprune.cli.sweep import sweep as run

        outputs = Outputs(page, markdown, as_json)
        line = shlex.join(["edgeprune", *sys.argv[1:]]).encode(errors="replace").decode()  # names may be any bytes
        run(bundle, axes, settings, (scenes, data), image, not skip_hashes, fresh, outputs, line)
        return
    choice = BackendChoice(backend, provider, target, trust_plans)
    _bench(bundle, keep, method, against, model, image, settings, choice, not skip_hashes, as_json, quiet)


def _bench(
    bundle: Path,
    keep: str,
    method: str | None,
    against: Literal["eager"] | None,
    model: str | None,
    image: Path | None,
    settings: Settings,
    backend: BackendChoice,
    check_hashes: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    from edgeprune.bench.run import run_bench
    from edgeprune.bench.table import render_text
    from edgeprune.errors import UsageError

    if model is not None and not against:
        raise UsageError(f"--model {model} is eager's: it has no effect without --against eager")
    report = run_bench(
        bundle,
        checkpoint=_checkpoint(bundle, model, quiet) if against else None,
        keeps=[word.strip() for word in keep.split(",")],
        against=against,
        methods=_methods(bundle, method),
        image=image,
        settings=settings,
        check_hashes=check_hashes,
        backend=backend,
    )
    if not as_json:
        click.echo(render_text(report))
    click.echo(report.to_json())


def _compare(old: Path, new: Path, fail_above: str | None, as_json: bool) -> None:
    """Print what changed from one report to the other.

    Raises:
        CheckFailed: a figure is surely worse by more than was allowed.
        UsageError: nothing is, since no time has repeats enough to judge it.
    """
    from edgeprune.bench.compare import compare_files, render_text
    from edgeprune.errors import CheckFailed, UsageError

    limit = None if fail_above is None else _percent(fail_above)
    found = compare_files(old, new)
    click.echo(found.to_json() if as_json else render_text(found))
    worse = found.worse(limit) if limit is not None else ()
    if worse:
        raise CheckFailed(f"{new} is worse than {old} by more than {fail_above}: {', '.join(map(str, worse))}")
    if limit is not None and not found.judged:
        raise UsageError(
            f"--fail-above {fail_above} cannot judge any time: {old} and {new} have too few repeats, or kept none; "
            "make them with edgeprune bench --repeats 5 or more"
        )


def _percent(text: str) -> float:
    from edgeprune.errors import UsageError

    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(f"--fail-above {text} is no percentage; expected a number such as 5%")
    return value


def _refuse_idle(context: click.Context, sweep: bool, compare: bool) -> None:
    """An option or word that was typed and would change nothing is an error.

    Raises:
        UsageError: there is one.
    """
    from click.core import ParameterSource

    from edgeprune.errors import UsageError

    typed = {
        parameter.name: parameter.opts[0]
        for parameter in context.command.params
        if context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        and context.params[parameter.name or ""] not in (None, ())
    }
    for name, option in typed.items():
        if compare and name not in _COMPARES:
            what = f"{option.upper()} {context.params[name]}" if name in ("bundle", "axes") else option
            raise UsageError(f"{what} has no effect with --compare, which reads two reports and runs nothing")
        if sweep and name in ("keep", "method"):
            raise UsageError(f"{option} is an axis of --sweep: write {name}={context.params[name]} behind the bundle")
        if sweep and name in _ALONE:
            raise UsageError(f"{option} has no effect with --sweep, which runs the bundle alone, on the CPU")
        if not sweep and not compare and name in _SWEEPS:
            what = repr(context.params["axes"][0]) if name == "axes" else option
            raise UsageError(f"{what} has no effect without --sweep")
        if not compare and name == "fail_above":
            raise UsageError(f"{option} has no effect without --compare A.json B.json")


def _methods(bundle: Path, method: str | None) -> list[str] | None:
    """The methods named; None leaves the choice to the bundle, which must then have only one."""
    from edgeprune.bundle.store import open_bundle

    if method == "all":
        return [entry.name for entry in open_bundle(bundle, check_hashes=False).manifest.methods]
    return [name.strip() for name in method.split(",")] if method else None


def _checkpoint(bundle: Path, model: str | None, quiet: bool) -> Path:
    """The folder of the eager model's checkpoint."""
    from edgeprune.bundle.store import open_bundle
    from edgeprune.cli.extras import require_eager, require_export

    require_export()
    require_eager()
    return find_origin(open_bundle(bundle, check_hashes=False).manifest.model, model, quiet).path
