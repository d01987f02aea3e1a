"""A recipe of ``export/``: which checkpoint, of which family, in which dtype. ``export/README.md`` has the keys.

Reads and checks the file alone: whether the model is of the family is known once its config.json is read.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgeprune.bundle.codec import decode
from edgeprune.bundle.manifest import Dtype
from edgeprune.bundle.prompt import Medium
from edgeprune.bundle.sizes import Decoder, Vision
from edgeprune.errors import BundleError, RecipeError
from edgeprune.recipes import find

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

DEMO = "demo"
"""The value of ``model`` that means the small model that comes with edgeprune."""
FAMILIES = ("internvl", "llava", "llava_next", "llava_onevision", "qwen2_5_vl", "video_llava")
PIXELS = ("fixed", "tiles", "frames", "native")
"""Kinds of pixels: one run of the encoder per picture, tiles of a picture, frames of a video, any resolution."""
DTYPES: tuple[Dtype, ...] = ("fp32", "fp16")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class Input:
    """What a prompt is taken to be about where nothing else is known: one large picture, or one video.

    Attributes:
        kind: of pixels, one of ``PIXELS``.
        runs: of the encoder.
        tokens: visual rows that enter the decoder without pruning, newline rows among them.

    Raises:
        BundleError: a value of another kind or out of range.
    """

    kind: str
    runs: int
    tokens: int

    def __post_init__(self) -> None:
        if self.kind not in PIXELS:
            raise BundleError(f"[input]: kind = {self.kind!r}; expected {_one_of(PIXELS)}")
        if min(self.runs, self.tokens) < 1:
            raise BundleError(f"[input]: runs = {self.runs}, tokens = {self.tokens}; expected 1 or more of each")

    @property
    def medium(self) -> Medium:
        """What the frames are of."""
        return "video" if self.kind == "frames" else "image"


def check_input(vision: Vision, given: Input | None) -> None:
    """Raises RecipeError where an encoder without a grid has no input of its own size, or another has one."""
    native = given is not None and given.kind == "native"
    if native != (vision.grid is None):
        raise RecipeError(f"[input] is {given}; expected kind 'native' where [vision] has no grid, and only there")


@dataclass(frozen=True)
class ModelRecipe:
    """What to export.

    Attributes:
        name: the recipe's own name: its file name without ``.toml``.
        model: a hub id ``org/name``, an absolute directory, or ``"demo"``.
        revision: branch, tag or commit of a hub id; None for its main branch.
        family: one of ``FAMILIES``.
        dtype: one of ``DTYPES``; None leaves it to the caller, which takes fp32.
        notes: for people.
        vision, decoder: how large the model is, for what must know before anything is downloaded; None leaves that to
            its config.json.
        input: what its pictures become; None where each is one run of the encoder.

    Raises:
        RecipeError: a value of the wrong type or out of range.
    """

    name: str
    model: str
    revision: str | None = None
    family: str = "llava"
    dtype: Dtype | None = None
    notes: str = ""
    vision: Vision | None = None
    decoder: Decoder | None = None
    input: Input | None = None

    def __post_init__(self) -> None:
        for key in ("name", "model", "family", "notes"):
            self._require(key, isinstance(getattr(self, key), str), "a text")
        for key in ("name", "model"):
            self._require(key, bool(getattr(self, key)), "a text that is not empty")
        self._require("family", self.family in FAMILIES, _one_of(FAMILIES))
        self._require("dtype", self.dtype is None or self.dtype in DTYPES, _one_of(DTYPES))
        both = (self.vision is None) == (self.decoder is None)
        self._require("vision" if self.decoder else "decoder", both, "[vision] and [decoder] together, or neither")
        self._require("input", self.input is None or self.vision is not None, "[vision] and [decoder] beside it")
        if self.vision is not None:
            check_input(self.vision, self.input)
        self._require("revision", self.revision is None or _is_text(self.revision), "a text that is not empty")
        if self.revision is not None and (self.model == DEMO or not _HUB_ID.fullmatch(self.model)):
            raise RecipeError(f"recipe {self.name}: revision applies to hub ids only, and model is {self.model!r}")

    def _require(self, key: str, holds: bool, expected: str) -> None:
        if not holds:
            raise RecipeError(f"recipe {self.name}: {key} = {getattr(self, key)!r}; expected {expected}")


KEYS = tuple(field.name for field in fields(ModelRecipe) if field.name != "name")
"""What a file may say."""


def names() -> tuple[str, ...]:
    """The model recipes that come with edgeprune, sorted."""
    return find.names("export")


def load(name_or_path: str) -> ModelRecipe:
    """Reads a recipe by its name (``"llava-1.5-7b"``) or by the path of its file.

    Raises:
        RecipeError: no such recipe, not TOML, an unknown or missing key, or a value out of range; the message
            names the file.
    """
    path = find.find("export", name_or_path)
    table = _read(path)
    for key in table:
        if key not in KEYS:
            allowed = ", ".join(KEYS)
            raise RecipeError(f"{path}: unknown key {key!r}; allowed: {allowed}{find.suggestion(key, KEYS)}")
    if "model" not in table:
        raise RecipeError(f"{path}: the key 'model' is missing; expected a hub id, a directory or {DEMO!r}")
    try:
        recipe = ModelRecipe(name=path.stem, **{**table, **_sizes(table)})
        return replace(recipe, model=_located(path, recipe.model))
    except (RecipeError, BundleError) as error:
        raise RecipeError(f"{path}: {error}") from error


def _sizes(table: Mapping[str, Any]) -> dict[str, Any]:
    """The tables [vision], [decoder] and [input], as far as they are there."""
    kinds: dict[str, type[Any]] = {"vision": Vision, "decoder": Decoder, "input": Input}
    return {key: decode(kind, table[key], f"[{key}]") for key, kind in kinds.items() if key in table}


def _read(path: Path) -> Mapping[str, Any]:
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise RecipeError(f"{path} is not TOML: {error}") from error
    return table


def _located(path: Path, model: str) -> str:
    """A directory is relative to the recipe; a hub id stays as it is, unless a directory has its name."""
    if model == DEMO:
        return model
    beside = path.parent / Path(model).expanduser()
    if beside.is_dir() or not _HUB_ID.fullmatch(model):
        return str(beside.resolve())
    return model


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _one_of(known: tuple[str, ...]) -> str:
    return f"one of {', '.join(known)}"
