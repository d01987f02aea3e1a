"""Where the TOML files of ``export/`` and ``engines/`` lie.

Beside this file in a wheel, two levels up in a checkout. Knows the names of files, not what is in them.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from edgeprune.errors import RecipeError

KINDS = ("export", "engines")
_NOUNS = {"export": "recipe", "engines": "target"}


def folder(kind: str) -> Path:
    """The folder of a kind of recipe, one of ``KINDS``; it may be absent in a broken installation."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}; expected one of {', '.join(KINDS)}")
    here = Path(__file__).parent
    return here / kind if (here / kind).is_dir() else here.parents[1] / kind


def names(kind: str) -> tuple[str, ...]:
    """The recipes of a kind that come with edgeprune, sorted."""
    return tuple(sorted(path.stem for path in folder(kind).glob("*.toml")))


def find(kind: str, name_or_path: str) -> Path:
    """The file of a recipe: one that comes with edgeprune by its name, any other by its path.

    A word that ends in ``.toml`` or holds a slash is a path.

    Raises:
        RecipeError: there is no such recipe or file; the message lists the known names.
    """
    if name_or_path.endswith(".toml") or Path(name_or_path).name != name_or_path:
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            raise RecipeError(f"no {_NOUNS[kind]} file {name_or_path!r}")
        return path
    known = names(kind)
    if name_or_path not in known:
        raise RecipeError(
            f"no {_NOUNS[kind]} {name_or_path!r} in {folder(kind)}; known: {', '.join(known) or 'none'}"
            f"{suggestion(name_or_path, known)}"
        )
    return folder(kind) / f"{name_or_path}.toml"


def suggestion(word: str, known: tuple[str, ...]) -> str:
    """``"; did you mean 'x'?"`` for a near miss, else nothing."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
