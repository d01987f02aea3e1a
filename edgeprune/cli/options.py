"""Options that several commands share, worded once, and how they find the model they are given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgeprune.bundle.manifest import Model, TextFacts
    from edgeprune.checkpoint.source import Source
    from edgeprune.recipes.model import ModelRecipe

DEMO_ID = "edgeprune/demo"  # what a bundle of the demo model says it was made from

F = TypeVar("F", bound=Callable[..., Any])

BUNDLE = click.argument("bundle", type=click.Path(path_type=Path))
THREADS = click.option("--threads", type=click.IntRange(min=1), help="Threads per operator; default: one per core.")
BACKEND = click.option(
    "--backend",
    type=click.Choice(["onnxruntime", "tensorrt"]),
    default="onnxruntime",
    show_default=True,
    help="tensorrt runs the plans that `edgeprune build` made.",
)
PROVIDER = click.option(
    "--provider", type=click.Choice(["cpu", "cuda", "tensorrt"]), help="Of ONNX Runtime; default: cpu."
)
PLANS = click.option("--target", metavar="NAME[@STACK]", help="Which plans, where the bundle has several.")
TRUST_PLANS = click.option(
    "--trust-plans",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Run the plans in FOLDER though they were built on another machine; they are native code.",
)
QUIET = click.option("-q", "--quiet", is_flag=True, help="No progress.")
SKIP_HASHES = click.option(
    "--skip-hashes", is_flag=True, help="Open large bundles faster: check sizes, not the content of files."
)


def json_option(what: str) -> Callable[[F], F]:
    """``--json``, saying what it prints."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what} as one JSON object on the last line.")


def find_model(model: str, revision: str | None, quiet: bool) -> tuple[Source, ModelRecipe | None]:
    """A recipe's name or file, a checkpoint's folder, or a hub id, in this order.

    Raises:
        CheckpointError: there is no such model, or it is no checkpoint.
        RecipeError: the recipe is malformed.
    """
    from edgeprune import demo
    from edgeprune.checkpoint.source import Source, resolve
    from edgeprune.errors import CheckpointError, UsageError
    from edgeprune.recipes import find
    from edgeprune.recipes import model as recipes

    known = recipes.names()
    if model in known or model.endswith(".toml"):
        recipe = recipes.load(model)
        if revision is not None and recipe.revision is not None:
            raise UsageError(f"--revision {revision}: recipe {recipe.name!r} fixes revision {recipe.revision}")
        if recipe.model == recipes.DEMO:
            return Source(demo.CHECKPOINT, DEMO_ID, None), recipe
        return resolve(recipe.model, revision or recipe.revision, quiet=quiet), recipe
    if not Path(model).exists() and "/" not in model:
        hint = find.suggestion(model, known)
        raise CheckpointError(
            f"{model!r} is no recipe ({', '.join(known)}), no folder here and no hub id org/name{hint}"
        )
    return resolve(model, revision, quiet=quiet), None


def find_clip(model: str, quiet: bool) -> Source:
    """The CLIP checkpoint of ``--clip``: a folder or a hub id, which may name a revision behind an ``@``.

    Raises:
        CheckpointError: there is no such model, or it is no checkpoint.
    """
    from edgeprune.checkpoint.source import resolve

    name, _, revision = (model, "", "") if Path(model).exists() else model.partition("@")
    return resolve(name, revision or None, quiet=quiet, kind="CLIPModel")


def find_text_origin(facts: TextFacts | None, clip: str | None, quiet: bool) -> Source | None:
    """The CLIP checkpoint that a bundle's text tower was made from, or the one named instead; None without one.

    Raises:
        UsageError: the tower was made from a folder, whose place the bundle does not record.
    """
    from edgeprune.errors import UsageError

    if clip is not None:
        return find_clip(clip, quiet)
    if facts is None:
        return None
    if facts.revision is None:
        raise UsageError(f"the bundle's text tower was made from a folder named {facts.id!r}; give --clip FOLDER")
    return find_clip(f"{facts.id}@{facts.revision}", quiet)


def find_origin(facts: Model, model: str | None, quiet: bool) -> Source:
    """The checkpoint a bundle was made from, or the one named instead.

    Raises:
        UsageError: the bundle was made from a folder, whose place it does not record.
    """
    from edgeprune.errors import UsageError

    if model is not None:
        return find_model(model, None, quiet)[0]
    if facts.id == DEMO_ID:
        return find_model("demo", None, quiet)[0]
    if facts.revision is None:
        raise UsageError(f"the bundle was made from a folder named {facts.id!r}; give --model FOLDER")
    return find_model(facts.id, facts.revision, quiet)[0]
