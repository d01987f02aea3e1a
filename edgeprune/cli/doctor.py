"""``edgeprune doctor``: what this machine has and lacks for running bundles."""

from __future__ import annotations

import click

from edgeprune.cli.options import json_option


@click.command(name="doctor")
@click.option("--target", "chosen", metavar="NAME[@STACK]", help="Check that engines for this target can run here.")
@json_option("the report")
def command(chosen: str | None, as_json: bool) -> None:
    """Look at this machine: CPU, memory, GPU, driver, TensorRT, ONNX Runtime; and say how to mend what is missing.

    Exits with 3 if engines for the target cannot run here, or, without a target, if no bundle can.
    """
    from edgeprune.doctor.checks import backends, examine
    from edgeprune.doctor.machine import Machine
    from edgeprune.doctor.report import Report
    from edgeprune.doctor.suitability import check_target
    from edgeprune.recipes import target as targets

    target = stack = None
    if chosen is not None:  # before looking: a wrong name is told at once
        name, wanted = targets.split(chosen)
        target = targets.load(name)
        stack = target.stack(wanted) if wanted else None
    machine = Machine.read()
    suitability = check_target(machine, target, stack) if target else ()
    report = Report(machine, examine(machine), backends(machine), chosen, suitability)
    click.echo(report.to_json() if as_json else report.table())
    if report.failure:
        raise report.failure
