"""``edgeprune export``: a checkpoint to a bundle."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import click

from edgeprune.cli.bars import Bars
from edgeprune.cli.options import QUIET, find_model, json_option

if TYPE_CHECKING:
    from edgeprune.bundle.manifest import Dialect, Dtype


@click.command(name="export")
@click.argument("model")
@click.option("--method", required=True, help="Pruning method, or several separated by commas: visiondrop.")
@click.option("-o", "--output", "output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--dtype", type=click.Choice(["fp32", "fp16"]), help="Default: the recipe's, else fp32.")
@click.option(
    "--dialect",
    type=click.Choice(["base", "fused"]),
    default="base",
    show_default=True,
    help="base: opset 18, runs everywhere; fused: opset 23 with Attention, for ONNX Runtime and TensorRT >= 10.15.",
)
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
@QUIET
@json_option("what was written")
def command(
    model: str,
    method: str,
    output: Path,
    dtype: Dtype | None,
    dialect: Dialect,
    revision: str | None,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Export MODEL to a bundle of ONNX graphs.

    MODEL is a recipe (see `edgeprune recipes`), a recipe file, a Hugging Face checkpoint's folder, or a hub id.
    """
    from edgeprune.cli.extras import require_export

    require_export()
    # Unwinds like an exception, so that the half-written folder is removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    from edgeprune.bundle.store import check_destination
    from edgeprune.export.bundle import Request, export_bundle

    check_destination(output, force)
    start = perf_counter()
    source, recipe = find_model(model, revision, quiet)
    request = Request(
        source=source,
        methods=[name.strip() for name in method.split(",")],
        family=recipe.family if recipe else "llava",
        cuts=recipe.cuts if recipe else None,
        dtype=dtype or (recipe.dtype if recipe else None) or "fp32",
        dialect=dialect,
    )
    bars = Bars(quiet)
    try:
        bundle = export_bundle(request, output, force, bars)
    finally:
        bars.close()
    seconds = perf_counter() - start
    total = sum(file.bytes for file in bundle.manifest.files)
    if as_json:
        summary = {
            "bundle": str(output),
            "model": source.id,
            "revision": source.revision,
            "methods": list(request.methods),
            "dtype": request.dtype,
            "dialect": request.dialect,
            "bytes": total,
            "seconds": round(seconds, 3),
            "peak_rss_bytes": _peak_rss_bytes(),
            "graphs": bars.graphs,
        }
        click.echo(json.dumps(summary))
    elif not quiet:
        click.echo(f"{output}: {len(bars.graphs)} graphs, {total / 1e6:,.1f} MB, {seconds:.0f} s")
        click.echo(f'next: edgeprune run {output} IMAGE "QUESTION" --keep 64')


def _peak_rss_bytes() -> int | None:
    """The largest memory of this process so far; None where the system does not tell.

    Not ``getrusage``: its figure starts with the parent's own peak.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
