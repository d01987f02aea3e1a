"""``edgeprune bench``: what a bundle gained against PyTorch eager."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from edgeprune.cli.options import BUNDLE, QUIET, SKIP_HASHES, THREADS, find_origin, json_option


@click.command(name="bench")
@BUNDLE
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
@click.option("--image", type=click.Path(path_type=Path), help="Picture to use; default: seeded noise.")
@click.option("--text-tokens", type=click.IntRange(min=1), default=60, show_default=True)
@click.option("--new-tokens", type=click.IntRange(min=2), default=16, show_default=True)
@click.option("--warmup", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--memory/--no-memory", default=True, show_default=True, help="Measure peak memory in child processes.")
@THREADS
@SKIP_HASHES
@QUIET
@json_option("the report")
def command(
    bundle: Path,
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
    threads: int | None,
    skip_hashes: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Time BUNDLE at several budgets, stage by stage, beside what this machine could do.

    All variants run in turn on the same picture, prompt and threads. Prefill and decode are reported apart.
    """
    from edgeprune.bench.run import Settings, run_bench
    from edgeprune.bench.table import render_text
    from edgeprune.errors import UsageError

    if model is not None and not against:
        raise UsageError(f"--model {model} is eager's: it has no effect without --against eager")
    checkpoint = _checkpoint(bundle, model, quiet) if against else None
    report = run_bench(
        bundle,
        checkpoint=checkpoint,
        keeps=[word.strip() for word in keep.split(",")],
        against=against,
        methods=_methods(bundle, method),
        image=image,
        settings=Settings(
            threads=threads,
            warmup=warmup,
            repeats=repeats,
            text_tokens=text_tokens,
            new_tokens=new_tokens,
            memory=memory,
            eager_dtypes=dtypes or None,
            progress=not quiet,
        ),
        check_hashes=not skip_hashes,
    )
    if not as_json:
        click.echo(render_text(report))
    click.echo(report.to_json())


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
