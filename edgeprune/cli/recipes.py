"""``edgeprune recipes``: the models that can be named without a path."""

from __future__ import annotations

import click

from edgeprune.cli.options import json_option


@click.command(name="recipes")
@json_option("the recipes")
def command(as_json: bool) -> None:
    """List the recipes that `edgeprune export` knows by name."""
    import dataclasses
    import json

    from edgeprune.recipes import model as recipes

    found = [recipes.load(name) for name in recipes.names()]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(recipe) for recipe in found]))
        return
    width = max(len(recipe.name) for recipe in found)
    for recipe in found:
        cuts = ", ".join(map(str, recipe.cuts)) if recipe.cuts else "by the method"
        source = "ships with edgeprune" if recipe.model == recipes.DEMO else recipe.model
        click.echo(f"{recipe.name:<{width}}  {source}  (dtype {recipe.dtype}, cuts {cuts})")
        if recipe.notes:
            click.echo(f"{'':<{width}}  {recipe.notes}")
