"""``edgeprune verify``: a bundle against its checkpoint in PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgeprune.cli.options import BUNDLE, QUIET, THREADS, find_origin, find_text_origin, json_option


@click.command(name="verify")
@BUNDLE
@click.option("--model", help="Checkpoint to compare with; default: the one the bundle names.")
@click.option("--clip", help="CLIP checkpoint of the bundle's text tower; default: the one the bundle names.")
@click.option("--method", help="Pruning methods, separated by commas; default: all of the bundle's.")
@click.option("--keep", help="Budgets, separated by commas; default: a third, a ninth, an eighteenth of all tokens.")
@THREADS
@QUIET
@json_option("the report")
def command(
    bundle: Path,
    model: str | None,
    clip: str | None,
    method: str | None,
    keep: str | None,
    threads: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Compare every graph of BUNDLE, and the whole chain, with the checkpoint in PyTorch.

    The report is saved in the bundle as verify.json. Exits with 3 if anything differs more than its dtype allows.
    """
    from edgeprune.cli.extras import require_eager, require_export

    require_export()
    require_eager()
    from edgeprune.bundle.store import open_bundle
    from edgeprune.errors import CheckFailed
    from edgeprune.runtime.ort import OrtBackend
    from edgeprune.verify import verify_bundle

    opened = open_bundle(bundle)
    source = find_origin(opened.manifest.model, model, quiet)
    clip_source = find_text_origin(opened.manifest.text, clip, quiet)
    tell = None if quiet else lambda name: click.echo(f"checking {name}", err=True)
    methods, keeps = (None if words is None else words.replace(" ", "").split(",") for words in (method, keep))
    report = verify_bundle(opened, source.path, OrtBackend(threads), keeps, tell, clip_source, methods)
    click.echo(json.dumps(json.loads(report.to_json())) if as_json else report.table())
    if report.first_failure is not None:
        name, saved = report.first_failure.name, bundle / "verify.json"
        raise CheckFailed(f"{name} is the first that differs from the checkpoint; the report is {saved}")
