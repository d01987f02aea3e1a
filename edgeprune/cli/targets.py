"""``edgeprune targets``: the devices that come along."""

from __future__ import annotations

import json

import click

from edgeprune.cli.options import json_option


@click.command(name="targets")
@json_option("the targets")
def command(as_json: bool) -> None:
    """List the devices that `edgeprune build --target` knows by name.

    A target file of your own is given by its path; engines/README.md has the keys.
    """
    from edgeprune.recipes import target as targets

    known = [targets.load(name) for name in targets.names()]
    if as_json:
        click.echo(
            json.dumps([{"name": t.name, "device": t.device, "stacks": [s.name for s in t.stacks]} for t in known])
        )
        return
    width = max(len(target.name) for target in known)
    for target in known:
        stacks = ", ".join(stack.name for stack in target.stacks)
        click.echo(f"{target.name:<{width}}  {target.device} ({stacks})")
