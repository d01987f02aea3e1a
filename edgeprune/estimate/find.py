"""Which model a word means, as sizes: a recipe, a file of sizes, a config.json, or a bundle. Downloads nothing.

A file of sizes is TOML with the tables [vision] and [decoder] of a recipe and nothing else that must be there:
``name``, ``dtype`` (any precision), ``family``, [input] as recipes have it, and ``notes`` may be.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeprune import demo
from edgeprune.bundle.codec import decode
from edgeprune.bundle.manifest import NAME, Manifest
from edgeprune.bundle.sizes import Decoder, Vision
from edgeprune.errors import BundleError, CheckpointError, RecipeError, UsageError
from edgeprune.estimate.config import read_shape
from edgeprune.estimate.precision import precision
from edgeprune.estimate.shape import Shape
from edgeprune.recipes import find, rules
from edgeprune.recipes import model as recipes
from edgeprune.recipes.model import Input, check_input
from edgeprune.recipes.rules import Rule

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

CONFIG = "config.json"
_LIMIT = 16 << 20
"""Bytes of a file that is read whole."""
_RULES = {
    "vision": Rule(rules.is_table, "a table: [vision]"),
    "decoder": Rule(rules.is_table, "a table: [decoder]"),
    "name": Rule(rules.is_text, "a text that is not empty", required=False),
    "dtype": Rule(rules.is_text, "a precision, such as fp16 or int4", required=False),
    "family": Rule(lambda value: value in recipes.FAMILIES, f"one of {', '.join(recipes.FAMILIES)}", required=False),
    "input": Rule(rules.is_table, "a table: [input]", required=False),
    "notes": Rule(lambda value: isinstance(value, str), "a text", required=False),
}


@dataclass(frozen=True)
class Found:
    """A model.

    Attributes:
        shape: its sizes.
        dtype: what it says it is in; None where it says nothing.
        manifest: of a bundle; None for what is not exported yet.
    """

    shape: Shape
    dtype: str | None = None
    manifest: Manifest | None = None

    def with_input(self, runs: int | None, tokens: int | None) -> Found:
        """The same model asked about other pictures, as far as they are given.

        Args:
            runs: of the encoder.
            tokens: visual rows that enter the decoder without pruning; None for all that other runs give.
        """
        if runs is None and tokens is None:
            return self
        shape = self.shape
        runs = shape.runs if runs is None else runs
        rows = runs * shape.per_run if tokens is None else tokens
        return replace(self, shape=replace(shape, runs=runs, rows=rows))


def find_model(word: str) -> Found:
    """A recipe's name, the model of one, its file, a file of sizes, a config.json or its folder, or a bundle.

    Raises:
        CheckpointError: there is no such model here, or it cannot be read.
        UnsupportedModel: a config.json of another kind of model.
        RecipeError: a TOML file that says something unknown or lacks a key.
        BundleError: a bundle whose manifest breaks its specification.
    """
    known = recipes.names()
    by_id = {recipes.load(name).model: name for name in known} if "/" in word else {}
    if word in known or word in by_id:
        return _of_recipe(find.find("export", by_id.get(word, word)))
    path = Path(word).expanduser()
    if path.is_dir():
        return _of_folder(path)
    if path.is_file():
        if path.name == NAME:
            return _of_bundle(path)
        if path.suffix == ".toml":
            return _of_toml(path)
        if path.suffix == ".json":
            return Found(read_shape(path))
        raise CheckpointError(f"{word!r} is no model: expected a .toml file of sizes, a config.json, or a folder")
    if "/" in word and path.suffix not in (".toml", ".json"):
        raise CheckpointError(
            f"there is no {word!r} here, and sizes are not downloaded: give the model's config.json, its folder, or a "
            f"recipe ({', '.join(known)}){find.suggestion(word, tuple(by_id))}"
        )
    raise CheckpointError(
        f"there is no {word!r} here, and no recipe of that name ({', '.join(known)}); a config.json will do, or a "
        f".toml file with [vision] and [decoder]{find.suggestion(word, known)}"
    )


def _of_folder(folder: Path) -> Found:
    if (folder / NAME).is_file():
        return _of_bundle(folder / NAME)
    if (folder / CONFIG).is_file():
        return Found(read_shape(folder / CONFIG))
    raise CheckpointError(f"{folder} holds neither {NAME} nor {CONFIG}; expected a bundle or a checkpoint")


def _of_bundle(path: Path) -> Found:
    """The manifest alone: graphs and weights may be elsewhere."""
    try:
        if (size := path.stat().st_size) > _LIMIT:
            raise BundleError(f"{path} has {size:,} bytes; expected at most {_LIMIT:,}")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    manifest = Manifest.from_json(text)
    return Found(Shape.of(manifest), manifest.dtype, manifest)


def _of_toml(path: Path) -> Found:
    """A recipe where it names a model, else sizes."""
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    if "model" in table:
        return _of_recipe(path)
    try:
        return _of_sizes(path.stem, table)
    except (RecipeError, BundleError, UsageError) as error:
        raise RecipeError(f"{path}: {error}") from error


def _of_sizes(stem: str, table: Mapping[str, Any]) -> Found:
    rules.check(table, _RULES, "")
    vision, decoder = decode(Vision, table["vision"], "[vision]"), decode(Decoder, table["decoder"], "[decoder]")
    dtype = table.get("dtype")
    if dtype is not None:
        precision(dtype)
    given = decode(Input, table["input"], "[input]") if "input" in table else None
    check_input(vision, given)
    return Found(_shape(table.get("name", stem), vision, decoder, table.get("family", "llava"), given), dtype)


def _of_recipe(path: Path) -> Found:
    recipe = recipes.load(str(path))
    if recipe.vision is not None and recipe.decoder is not None:
        return Found(_shape(recipe.name, recipe.vision, recipe.decoder, recipe.family, recipe.input), recipe.dtype)
    folder = demo.CHECKPOINT if recipe.model == recipes.DEMO else Path(recipe.model)
    if not (folder / CONFIG).is_file():
        raise RecipeError(
            f"recipe {recipe.name} has no [vision] and [decoder], and sizes are not downloaded: add both tables, "
            f"or give the config.json of {recipe.model}"
        )
    return Found(replace(read_shape(folder / CONFIG), name=recipe.name), recipe.dtype)


def _shape(name: str, vision: Vision, decoder: Decoder, family: str, given: Input | None) -> Shape:
    """The sizes of a file, and what its pictures become."""
    shape = Shape(name, vision, decoder, family=family)
    if given is None:
        return shape
    newline = given.kind == "tiles" and given.tokens != given.runs * vision.tokens
    return replace(
        shape,
        runs=given.runs,
        rows=given.tokens,
        kind=given.kind,
        medium=given.medium,
        newline=newline,
        blends=family == "llava_onevision",
        shrinks=family == "llava_onevision" and given.kind == "frames",
    )
