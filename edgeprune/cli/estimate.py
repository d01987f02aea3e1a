"""``edgeprune estimate``: what a request will take on a device, before either is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli.options import QUIET, json_option

if TYPE_CHECKING:
    from edgeprune.estimate.find import Found
    from edgeprune.estimate.grid import Grid
    from edgeprune.estimate.machine import Machine
    from edgeprune.estimate.precision import Precision
    from edgeprune.estimate.request import Request
    from edgeprune.estimate.table import Row

HERE = "here"
BUDGETS = ("all", "33.3%", "22.2%", "11.1%")
"""Of one device where none are named: 192, 128 and 64 of 576 tokens, the budgets that papers report."""
BUDGET = ("33.3%",)
"""Of every device."""


@click.command(name="estimate")
@click.argument("model", required=False)
@click.option("--method", help="Pruning methods, separated by commas, or all; a bundle's only one need not be named.")
@click.option(
    "--keep", help="Budgets, separated by commas: 64, 11.1%, paper:128, all; default: the papers' usual ones."
)
@click.option("--target", help="A device of `edgeprune list targets`, a file of one, or here; default: every device.")
@click.option("--dtype", help="fp32, fp16, int8, int4, fp8 or nvfp4; default: the model's own, else fp16.")
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    help="Of the encoder: tiles or frames; their rows alone are counted, newline rows only by --tokens.",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    help="Visual tokens without pruning, newline rows among them; default: the model's usual.",
)
@click.option("--text-tokens", type=click.IntRange(min=1), default=60, show_default=True, help="Of the prompt.")
@click.option("--new-tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Of the answer.")
@click.option(
    "--context", type=click.IntRange(min=1), help="Rows that each cache has room for; default: what is needed."
)
@click.option(
    "--calibrate", is_flag=True, help="Measure this machine first, in a few seconds; what --target here uses."
)
@click.option("--provider", type=click.Choice(["cpu", "cuda"]), help="With --calibrate or here: of ONNX Runtime.")
@click.option("--threads", type=click.IntRange(min=1), help="With --calibrate or here; default: one per core.")
@QUIET
@json_option("the estimate")
def command(
    model: str | None,
    method: str | None,
    keep: str | None,
    target: str | None,
    dtype: str | None,
    runs: int | None,
    tokens: int | None,
    text_tokens: int,
    new_tokens: int,
    context: int | None,
    calibrate: bool,
    provider: str | None,
    threads: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Estimate FLOPs, memory and time of MODEL on a device, with and without pruning; needs no weights.

    MODEL is a recipe, a config.json or its folder, a bundle, or a .toml file with [vision] and [decoder].

    \b
    edgeprune estimate llava-1.5-7b --method visiondrop --keep 64 --target orin-agx-64gb
    edgeprune estimate llava-1.5-7b --method visiondrop --keep all,192,64 --target orin-nano-8gb --dtype int4
    edgeprune estimate llava-1.5-7b --method visiondrop --keep 64        every device
    edgeprune estimate llava-v1.6-vicuna-7b --method visiondrop --keep 320 --tokens 2880    without newline rows
    edgeprune estimate --calibrate                                      measure this machine
    edgeprune estimate demo --method visiondrop --target here           and use that
    """
    from edgeprune.errors import UsageError
    from edgeprune.estimate.find import find_model
    from edgeprune.estimate.precision import precision

    here = target == HERE or (calibrate and target is None)
    _check_options({"--provider": provider, "--threads": threads}, here or calibrate, f"--calibrate or --target {HERE}")
    backend, threads = f"onnxruntime-{provider or 'cpu'}", threads or _cores()
    if model is None:
        given = {"--method": method, "--keep": keep, "--target": target, "--context": context}
        given |= {"--runs": runs, "--tokens": tokens}
        typed = {"--text-tokens": _typed("text_tokens"), "--new-tokens": _typed("new_tokens")}
        _check_options(given | typed, False, "a MODEL, such as llava-1.5-7b")
        if not calibrate:
            raise UsageError("MODEL is missing, such as llava-1.5-7b: edgeprune list models")
        _calibrate(backend, threads, dtype or "fp32", quiet, as_json)
        return
    if calibrate and not here:
        raise UsageError(f"--calibrate measures this machine, and --target {target} is another: --target {HERE}")
    found = find_model(model).with_input(runs, tokens)
    held = precision(dtype or _usual_dtype(found, here and provider != "cuda"))
    if calibrate:
        _calibrate(backend, threads, held.name, quiet, as_json=None)
    one = here or target is not None
    grid = _grid(found, held, text_tokens, method, keep, one, _chunk() if here and provider != "cuda" else None)
    left_out = [*grid.left_out]
    machines = _machines(held, left_out) if not one else [_machine(None if here else target, backend, threads, held)]
    rows = [_row(request, machine, new_tokens, context) for machine in machines for request in grid.requests]
    if as_json:
        _print_json(rows, left_out)
        return
    from edgeprune.estimate import table

    if not one:
        text = table.render_machines(rows)
    elif sum(request.method is not None for request in grid.requests) > 1:
        text = table.render_budgets(rows)
    else:
        whole = _row(grid.whole, machines[0], new_tokens, context)
        text = table.render_one([whole, rows[-1]] if rows[-1][0].method else rows)
    click.echo("\n".join([text, *(f"left out: {line}" for line in left_out)]))


def _check_options(given: Mapping[str, object], allowed: bool, needed: str) -> None:
    from edgeprune.errors import UsageError

    for option, value in given.items():
        if value is not None and not allowed:
            raise UsageError(f"{option} {value} has no effect without {needed}")


def _typed(name: str) -> object:
    """The value of an option that has a default, None where that stands."""
    from click.core import ParameterSource

    context = click.get_current_context()
    return context.params[name] if context.get_parameter_source(name) is ParameterSource.COMMANDLINE else None


def _chunk() -> int:
    """Rows of a prompt that the CPU runs at once, about."""
    from edgeprune.runtime.ort import CHUNK

    return CHUNK


def _grid(
    found: Found, held: Precision, text: int, method: str | None, keep: str | None, one: bool, chunk: int | None
) -> Grid:
    """What is asked of every machine; of ``one`` more budgets than of many."""
    from edgeprune.estimate.grid import make_grid, obstacle

    methods, left_out = _methods(found, method), []
    if method == "all":
        reasons = {name: obstacle(found, name) for name in methods}
        methods = tuple(name for name, reason in reasons.items() if reason is None)
        left_out = [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]
    usual = (BUDGETS if one else BUDGET) if methods else ("all",)
    keeps = [word.strip() for word in keep.split(",")] if keep is not None else usual
    grid = make_grid(found, held, text, methods, keeps, chunk)
    return replace(grid, left_out=(*left_out, *grid.left_out))


def _methods(found: Found, words: str | None) -> tuple[str, ...]:
    """The methods named; of a bundle that has a single one, that."""
    from edgeprune import catalog

    entries = found.manifest.methods if found.manifest else ()
    if words is None:
        return (entries[0].name,) if len(entries) == 1 else ()
    if words == "all":
        return tuple(entry.name for entry in entries) or catalog.names(variants=False)
    return tuple(word.strip() for word in words.split(","))


def _usual_dtype(found: Found, on_cpu: bool) -> str:
    """A bundle's own; of anything else what a device is fast in."""
    if found.manifest is not None:
        return found.manifest.dtype
    return "fp32" if on_cpu else found.dtype or "fp16"


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0))


def _row(request: Request, machine: Machine, new_tokens: int, context: int | None) -> Row:
    from edgeprune.estimate.forecast import forecast
    from edgeprune.estimate.verdict import judge

    found = forecast(request, machine, new_tokens, context)
    return found, judge(request, found)


def _machine(target: str | None, backend: str, threads: int, held: Precision) -> Machine:
    """The one that is asked for; None is this one."""
    from edgeprune.errors import UsageError
    from edgeprune.estimate.machine import machine_of_target
    from edgeprune.recipes import target as targets

    if target is None:
        return _this(backend, threads, held)
    plain, stack = targets.split(target)
    if stack is not None:
        raise UsageError(f"--target {target}: an estimate is of a device, whatever its TensorRT: --target {plain}")
    return machine_of_target(targets.load(plain), held)


def _machines(held: Precision, left_out: list[str]) -> list[Machine]:
    """Every target that has rates; which others there are is added to ``left_out``."""
    from edgeprune.errors import UsageError
    from edgeprune.estimate.machine import machine_of_target
    from edgeprune.recipes import target as targets

    machines: list[Machine] = []
    without: list[str] = []
    portable: list[str] = []
    for target in map(targets.load, targets.names()):
        try:
            machines.append(machine_of_target(target, held))
        except UsageError:
            (portable if target.kind == "portable" else without).append(target.name)
    if not machines:
        raise UsageError(f"no target has a rate for {held.name}; it has one for --dtype fp16")
    if without:
        left_out.append(f"{', '.join(without)}: no rate for {held.name}")
    if portable:
        left_out.append(f"{', '.join(portable)}: several GPUs")
    return machines


def _this(backend: str, threads: int, held: Precision) -> Machine:
    from edgeprune.errors import UsageError
    from edgeprune.estimate.calibration import read_calibration
    from edgeprune.estimate.device import CPU
    from edgeprune.estimate.machine import machine_of_calibration

    if held.name not in ("fp32", "fp16"):
        raise UsageError(f"--dtype {held.name}: this machine is measured in fp32 and fp16 alone")
    calibration = read_calibration(backend, threads, held.name)
    if calibration is None:
        words = [] if backend == CPU else ["--provider", backend.removeprefix("onnxruntime-")]
        words += [] if threads == _cores() else ["--threads", str(threads)]
        words += [] if held.name == "fp32" else ["--dtype", held.name]
        raise UsageError(
            f"this machine is not calibrated for {backend} with {threads} threads in {held.name}: "
            f"{' '.join(['edgeprune estimate --calibrate', *words])}"
        )
    return machine_of_calibration(calibration)


def _calibrate(backend: str, threads: int, dtype: str, quiet: bool, as_json: bool | None) -> None:
    """Measure and keep; what was found is printed, but where ``as_json`` is None only for people, on stderr."""
    from edgeprune.bench.calibrate import calibrate
    from edgeprune.estimate.calibration import write_calibration

    found = calibrate(threads, not quiet, backend.removeprefix("onnxruntime-"), dtype)
    path = write_calibration(found)
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps(asdict(found)))
    elif not (as_json is None and quiet):
        line = (
            f"{found.device}, {backend}, {threads} threads, {dtype}: {found.flops / 1e9:,.0f} GFLOP/s, "
            f"{found.bandwidth / 1e9:.1f} GB/s; kept in {path} for --target {HERE}"
        )
        click.echo(line, err=as_json is None)


def _print_json(rows: Sequence[Row], left_out: Sequence[str]) -> None:
    """One forecast as it is, several in a list; either way what was left out, and why."""
    import json
    from dataclasses import asdict

    from edgeprune.estimate.forecast import CONVENTIONS

    facts: list[dict[str, Any]] = [
        asdict(found) | {"speedup": found.speedup, "fits": found.fits, "verdict": asdict(verdict)}
        for found, verdict in rows
    ]
    whole = facts[0] if len(facts) == 1 else {"forecasts": facts}
    click.echo(json.dumps(whole | {"left_out": [*left_out], "conventions": CONVENTIONS}, ensure_ascii=False))
