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
from edgeprune.cli.options import QUIET, find_clip, find_model, find_origin, find_text_origin, json_option

if TYPE_CHECKING:
    from edgeprune.bundle.manifest import Dialect, Dtype
    from edgeprune.bundle.prompt import Medium
    from edgeprune.checkpoint.source import Source


@click.command(name="export")
@click.argument("model")
@click.option("--method", help="Pruning methods, separated by commas, or all; see `edgeprune list methods`.")
@click.option("-o", "--output", "output", type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--add-method", help="Add these methods to the bundle MODEL, in its place.")
@click.option("--model", "origin", help="With --add-method: the checkpoint; default: the one the bundle names.")
@click.option("--clip", help="For cdpruner: the CLIP model the encoder comes from, a folder or a hub id[@revision].")
@click.option("--dtype", type=click.Choice(["fp32", "fp16"]), help="Default: the recipe's, else fp32.")
@click.option(
    "--dialect",
    type=click.Choice(["base", "fused"]),
    help="base (default): opset 18, runs everywhere; fused: opset 23 with Attention, for ONNX Runtime and "
    "TensorRT >= 10.15.",
)
@click.option(
    "--input",
    "medium",
    type=click.Choice(["image", "video"]),
    help="What the bundle is asked about; default: the recipe's, else video for Video-LLaVA and image for the others.",
)
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
@QUIET
@json_option("what was written")
def command(
    model: str,
    method: str | None,
    output: Path | None,
    add_method: str | None,
    origin: str | None,
    clip: str | None,
    dtype: Dtype | None,
    dialect: Dialect | None,
    medium: Medium | None,
    revision: str | None,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Export MODEL to a bundle of ONNX graphs.

    MODEL is a recipe (see `edgeprune list models`), a recipe file, a Hugging Face checkpoint's folder, or a hub id.
    With --add-method it is a bundle, which gets more methods; weights are written again only where a method needs
    another cut or probe.
    """
    from edgeprune.cli.extras import require_export
    from edgeprune.errors import UsageError

    require_export()
    # Unwinds like an exception, so that the half-written folder is removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if add_method is not None:
        given = {"--method": method, "-o": output, "--dtype": dtype, "--dialect": dialect, "--revision": revision}
        given |= {"--input": medium}
        useless = [name for name, value in {**given, "--force": force or None}.items() if value is not None]
        if useless:
            raise UsageError(f"{useless[0]} has no effect with --add-method, which changes the bundle {model} in place")
        _add(Path(model), _names(add_method), origin, clip, quiet, as_json)
        return
    if origin is not None:
        raise UsageError(f"--model {origin} has no effect without --add-method")
    if method is None or output is None:
        missing = "--method" if method is None else "-o"
        raise UsageError(f"{missing} is missing: edgeprune export {model} --method visiondrop -o bundle/")
    _export(model, method, output, clip, dtype, dialect or "base", medium, revision, force, quiet, as_json)


def _export(
    model: str,
    method: str,
    output: Path,
    clip: str | None,
    dtype: Dtype | None,
    dialect: Dialect,
    medium: Medium | None,
    revision: str | None,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    from edgeprune.bundle.store import check_destination
    from edgeprune.checkpoint.architecture import MEDIA
    from edgeprune.export.bundle import Request, export_bundle
    from edgeprune.families.family import family_of

    check_destination(output, force)
    start = perf_counter()
    source, recipe = find_model(model, revision, quiet)
    clip_source = None if clip is None else find_clip(clip, quiet)
    family = recipe.family if recipe else family_of(source.path)
    medium = medium or MEDIA[family][0]
    request = Request(
        source=source,
        methods=_all(family, source, medium, clip_source) if method == "all" else _names(method),
        family=family,
        medium=medium,
        dtype=dtype or (recipe.dtype if recipe else None) or "fp32",
        dialect=dialect,
        clip=clip_source,
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
        chosen = f" --method {request.methods[0]}" if len(request.methods) > 1 else ""
        shown = "CLIP" if medium == "video" else "IMAGE"
        click.echo(f'next: edgeprune run {output} {shown} "QUESTION"{chosen} --keep 64')


def _add(folder: Path, names: list[str], origin: str | None, clip: str | None, quiet: bool, as_json: bool) -> None:
    from edgeprune.bundle.store import open_bundle
    from edgeprune.export.add import add_methods

    bundle = open_bundle(folder)
    source = find_origin(bundle.manifest.model, origin, quiet)
    clip_source = find_text_origin(bundle.manifest.text, clip, quiet)
    bars = Bars(quiet)
    try:
        done = add_methods(bundle, source, names, bars, clip_source)
    finally:
        bars.close()
    if as_json:
        lists = {"added": done.added, "rewritten": done.rewritten, "kept": done.kept, "removed": done.removed}
        click.echo(json.dumps({"bundle": str(folder), "methods": names, **lists, "graphs": bars.graphs}))
    elif not quiet:
        click.echo(f"{folder}: added {', '.join(names)} with {', '.join(done.added)}")
        click.echo(f"written anew: {', '.join(done.rewritten) or 'nothing'}; {len(done.kept)} graphs are as they were")
        if done.removed:
            click.echo(f"replaced by the above: {', '.join(done.removed)}")


def _names(words: str) -> list[str]:
    return [name.strip() for name in words.split(",")]


def _all(family: str, source: Source, medium: Medium, clip_source: Source | None) -> list[str]:
    """Every method that the checkpoint can carry; the others are told, with the reason."""
    from edgeprune import catalog
    from edgeprune.export.bundle import obstacle
    from edgeprune.export.clip import open_clip
    from edgeprune.families.family import open_family
    from edgeprune.methods import method as methods

    model = open_family(family, source, medium)
    clip = None if clip_source is None else open_clip(clip_source)
    found = []
    for name in catalog.names(variants=False):
        reason = obstacle(methods.load(name), model, family, clip)
        if reason is None:
            found.append(name)
        else:
            click.echo(f"left out: {name}, {reason}", err=True)
    return found


def _peak_rss_bytes() -> int | None:
    """The largest memory of this process so far; None where the system does not tell.

    Not ``getrusage``: its figure starts with the parent's own peak.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
