"""``edgeprune build``: a bundle's graphs to TensorRT plans for one device."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeprune.cli.bars import BuildBars
from edgeprune.cli.options import BUNDLE, QUIET, SKIP_HASHES, json_option

if TYPE_CHECKING:
    from edgeprune.bundle.build import Bounds, Build
    from edgeprune.bundle.store import Bundle
    from edgeprune.engines.examine import Examination, Request
    from edgeprune.recipes.target import Shapes, Target


FC = TypeVar("FC", bound=Callable[..., Any])


def _numbers(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """N, or LEAST,USUAL,MOST."""
    words = (text or "").split(",")
    if text is not None and not (
        len(words) in (1, 3) and all(re.fullmatch(r"\s*0*[1-9]\d{0,8}\s*", word, re.ASCII) for word in words)
    ):
        raise click.BadParameter(f"{text!r} is no range; expected N or LEAST,USUAL,MOST, whole numbers from 1 on")
    return tuple(map(int, words)) if text is not None else None


def _range(name: str, what: str) -> Callable[[FC], FC]:
    """An option for a range of the engines."""
    return click.option(name, metavar="N", callback=_numbers, help=what)


@click.command(name="build")
@BUNDLE
@click.option(
    "--target", "target_name", required=True, metavar="NAME[@STACK]", help="Device; see `edgeprune list targets`."
)
@click.option("--precision", type=click.Choice(["fp16", "fp32"]), help="Default: the target's.")
@_range("--batch", "Prompts at once.")
@_range("--runs", "Runs of the encoder for a prompt: tiles of its pictures.")
@_range("--text", "Text tokens of a prompt.")
@_range("--kept", "Visual tokens of a prompt, before and after pruning.")
@click.option("--context", type=click.IntRange(min=3), help="Rows that a cache may hold.")
@click.option("--dry-run", is_flag=True, help="Show profiles, lint and memory; build nothing.")
@click.option("--print-trtexec", is_flag=True, help="Print the trtexec line of every graph; build nothing.")
@SKIP_HASHES
@QUIET
@json_option("what was built")
def command(
    bundle: Path,
    target_name: str,
    precision: str | None,
    batch: tuple[int, ...] | None,
    runs: tuple[int, ...] | None,
    text: tuple[int, ...] | None,
    kept: tuple[int, ...] | None,
    context: int | None,
    dry_run: bool,
    print_trtexec: bool,
    skip_hashes: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Build the graphs of BUNDLE into TensorRT plans for a device.

    Plans lie in BUNDLE/engines/NAME@STACK. A plan that is there and still right is not built again. TensorRT builds
    on the device itself; TensorRT-RTX builds on any machine.

    --batch, --runs, --text, --kept and --context widen or narrow the target's ranges, which `edgeprune list targets
    NAME` shows: N is the most there may be, LEAST,USUAL,MOST all three.
    """
    from edgeprune.bundle.store import open_bundle
    from edgeprune.engines.examine import Request
    from edgeprune.engines.profile import fit_shapes, widen_shapes
    from edgeprune.recipes import target as targets

    # Unwinds like an exception, so that no half-written file stays.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    name, stack_name = targets.split(target_name)
    target = targets.load(name)
    if stack_name is not None:
        target.stack(stack_name)  # a typing error is told before gigabytes are hashed
    opened = open_bundle(bundle, not skip_hashes)
    asked = precision or target.precision
    ranges = {"batch": batch, "runs": runs, "text": text, "kept": kept, "context": context and (context,)}
    fitted = fit_shapes(target.shapes, opened.manifest)
    shapes = widen_shapes(fitted, opened.manifest, {name: asked for name, asked in ranges.items() if asked})
    if opened.manifest.image.kind == "tiles" and shapes.runs.most < opened.manifest.image.most_runs:
        most = opened.manifest.image.most_runs
        click.echo(
            f"edgeprune: plans for {shapes.runs.most} encoder runs refuse pictures that take more; the largest take "
            f"{most}: --runs {most}",
            err=True,
        )
    if dry_run or print_trtexec:
        from edgeprune.engines.choose import stack_here

        request = Request(target, stack_here(target, stack_name), asked, shapes)
        _show(opened, request, dry_run, print_trtexec, as_json, quiet)
        return
    _build(opened, target, stack_name, asked, shapes, quiet, as_json)


def _build(
    bundle: Bundle,
    target: Target,
    stack_name: str | None,
    precision: str,
    shapes: Shapes,
    quiet: bool,
    as_json: bool,
) -> None:
    from edgeprune.engines.build import build_bundle
    from edgeprune.engines.choose import available_bytes, choose
    from edgeprune.engines.examine import Request

    start = perf_counter()
    choice = choose(target, stack_name)
    request = Request(target, choice.stack, precision, shapes)
    bars = BuildBars(quiet)
    try:
        built = build_bundle(bundle, request, choice, available_bytes(), bars, bars.tell)
    finally:
        bars.close()
    seconds = perf_counter() - start
    size = sum(plan.file.bytes for plan in built.plans)
    if as_json:
        click.echo(json.dumps(_summary(bundle, built, bars.outcomes, seconds)))
    elif not quiet:
        new = sum(outcome == "built" for outcome in bars.outcomes.values())
        click.echo(
            f"{bundle.root}/engines/{built.key}: {len(built.plans)} plans ({new} built, {len(built.plans) - new} as "
            f"they were), {size / 1e6:,.1f} MB, {choice.library.name}, {seconds:.0f} s"
        )
        click.echo(
            f'next, on {target.device}: edgeprune run {bundle.root} IMAGE "QUESTION" --keep 64 --backend tensorrt'
        )


def _summary(bundle: Bundle, built: Build, outcomes: dict[str, str], seconds: float) -> dict[str, object]:
    return {
        "bundle": str(bundle.root),
        "key": built.key,
        "library": f"{built.flavour} {built.version}",
        "capabilities": list(built.capabilities),
        "device": built.device,
        "seconds": round(seconds, 3),
        "plans": [
            {
                "graph": plan.graph,
                "outcome": outcomes[plan.graph],
                "bytes": plan.file.bytes,
                "seconds": plan.seconds,
                "precisions": plan.precisions,
            }
            for plan in built.plans
        ],
    }


def _show(bundle: Bundle, request: Request, dry_run: bool, print_trtexec: bool, as_json: bool, quiet: bool) -> None:
    """What would be built, and how; exits with 3 if the lint refuses a graph."""
    from edgeprune.engines.examine import examine
    from edgeprune.errors import CheckFailed

    tell = None if quiet else lambda name: click.echo(f"examining {name}", err=True)
    examination = examine(bundle, request, tell=tell)
    lines = _trtexec_lines(bundle, request, examination)
    if as_json:
        click.echo(json.dumps(_described(request, examination, lines)))
    else:
        if dry_run:
            _print_examination(request, examination)
        if print_trtexec:
            click.echo("\n".join(lines))
    if examination.findings:
        graph, finding = examination.findings[0]
        raise CheckFailed(
            f"{request.stack.versions} refuses {len(examination.findings)} things, first graph {graph.name}: "
            f"{finding.message}"
        )


def _trtexec_lines(bundle: Bundle, request: Request, examination: Examination) -> list[str]:
    from edgeprune.bundle.plans import plan_folder
    from edgeprune.engines.trtexec import trtexec_line

    folder = plan_folder(bundle.root, request.key)
    return [
        trtexec_line(found.graph, found.path, folder / f"{found.graph.name}.plan", found.profile, request)
        for found in examination.graphs
    ]


def _print_examination(request: Request, examination: Examination) -> None:
    need = examination.need
    click.echo(f"{request.key}: {request.target.device}, {request.stack.versions}")
    for found in examination.graphs:
        state = "ok" if not found.findings else f"{len(found.findings)} findings"
        click.echo(f"{found.graph.name}: lint {state}, scratch up to {found.scratch / 1e6:.1f} MB")
        for finding in found.findings:
            click.echo(f"  REFUSED {finding.rule}: {finding.message}")
        for bounds in found.profile:
            click.echo(f"  {bounds.name:<18} {bounds.dtype:<6} {_span(bounds)}")
    click.echo(
        f"running takes {need.total / 1e9:.2f} GB: weights {need.weights / 1e9:.2f}, cache {need.cache / 1e9:.2f} "
        f"({examination.shapes.batch.usual} x {examination.shapes.context} rows), scratch {need.scratch / 1e9:.2f}"
        + (f"; the device has {request.target.memory / 1e9:.1f}" if request.target.memory else "")
    )
    click.echo(f"building takes {_build_need(examination) / 1e9:.2f} GB at its peak")


def _build_need(examination: Examination) -> int:
    from edgeprune.engines.memory import host_need

    return max(host_need(found.graph) for found in examination.graphs)


def _span(bounds: Bounds) -> str:
    def written(sizes: tuple[int, ...]) -> str:
        return "x".join(map(str, sizes))

    if bounds.kind == "shape" and bounds.least == bounds.most:
        return written(bounds.most)
    what = "value " if bounds.kind == "values" else ""
    return f"{what}{written(bounds.least)} .. {written(bounds.usual)} .. {written(bounds.most)}"


def _described(request: Request, examination: Examination, lines: list[str]) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "key": request.key,
        "stack": request.stack.versions,
        "need_bytes": asdict(examination.need) | {"total": examination.need.total},
        "build_bytes": _build_need(examination),
        "graphs": [
            {
                "name": found.graph.name,
                "scratch_bytes": found.scratch,
                "profile": [asdict(bounds) for bounds in found.profile],
                "findings": [asdict(finding) for finding in found.findings],
                "trtexec": line,
            }
            for found, line in zip(examination.graphs, lines, strict=True)
        ],
    }
