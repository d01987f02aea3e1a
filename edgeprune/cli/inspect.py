"""``edgeprune inspect``: what a bundle holds, as a picture of the chain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeprune.cli.options import BUNDLE, SKIP_HASHES, json_option

if TYPE_CHECKING:
    from edgeprune.bundle.manifest import Manifest


@click.command(name="inspect")
@BUNDLE
@SKIP_HASHES
@json_option("the manifest")
def command(bundle: Path, skip_hashes: bool, as_json: bool) -> None:
    """Show the graphs of BUNDLE in order of execution, with shapes, sizes, cuts, methods and the budgets they reach."""
    import json

    from edgeprune.bundle.codec import encode
    from edgeprune.bundle.picture import draw_chain
    from edgeprune.bundle.store import open_bundle

    opened = open_bundle(bundle, check_hashes=not skip_hashes)
    if as_json:
        click.echo(json.dumps(encode(opened.manifest), ensure_ascii=False))
    else:
        click.echo(draw_chain(opened.manifest))
        click.echo(_budgets(opened.manifest))


def _budgets(manifest: Manifest) -> str:
    """What ``--keep`` may be, per method."""
    from edgeprune.budget.schedule import reach, site_of

    tokens, runs = manifest.most_tokens, manifest.image.most_runs
    sites = {method.name: site_of(manifest, method, tokens, runs) for method in manifest.methods}
    spans = (f"{name} {'..'.join(map(str, reach(name, site)))}" for name, site in sites.items())
    up_to = "up to " if manifest.image.kind in ("tiles", "native") else ""
    return f"--keep, of {up_to}{tokens}: {', '.join(spans)}, or all"
