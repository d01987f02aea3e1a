"""One card: ``<name>.toml`` beside this file, read and checked."""

from __future__ import annotations

import difflib
import functools
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from edgeprune.errors import EdgePruneError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

Place = Literal["encoder", "vision", "projected"]

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Published:
    """A budget under the label of the method's paper: counts of the visual rows out of every stage.

    Attributes:
        label: what ``--keep paper:<label>`` names.
        tokens: visual rows of the unpruned model that the counts are published for.
        counts: per stage, in order of execution, merged rows included.
        merged: per stage, how many of them are merged rows; empty where the method merges none.
        source: where the counts come from; starts with "ours" where the paper does not give them.
    """

    label: str
    counts: tuple[int, ...]
    source: str
    tokens: int = 576
    merged: tuple[int, ...] = ()


@dataclass(frozen=True)
class Card:
    """What is told about a method.

    Attributes:
        name: what users type.
        title: its name as printed.
        summary: one line.
        paper: authors, title, where it appeared.
        code: the public code that the specification was read from; "" where none is public.
        file: of ``edgeprune/methods``, for a variant that of the method it varies.
        variant_of: that method; None for a method of its own.
        rule: of ``edgeprune/budget``.
        positions: position ids after a cut inside the decoder, "repack" (0..S'-1) or "keep" (original ids).
        stages: one line per stage: where, what is scored, what becomes of the rest.
        places: where it prunes with a decoder of 32 layers, in order of execution: "encoder", "vision" (after the
            encoder), "projected" (after the projector), then the layers before which a cut lies.
        needs: what a checkpoint must have; empty where any will do.
        published: what its paper fixes and this follows, one line each.
        ours: what is our reading or reconstruction, one line each; empty where the paper and code fix everything.
        budgets: the paper's labels.
        sure: the part of a selection that is the same on every runtime; the last bit of a sum decides the rest.
    """

    name: str
    title: str
    summary: str
    paper: str
    rule: str
    positions: Literal["repack", "keep"]
    stages: tuple[str, ...]
    places: tuple[Place | int, ...]
    code: str = ""
    file: str = ""
    variant_of: str | None = None
    needs: tuple[str, ...] = ()
    published: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()
    budgets: tuple[Published, ...] = ()
    sure: float = 1.0


def names(variants: bool = True) -> tuple[str, ...]:
    """Every method there is, sorted; with or without the variants."""
    found = sorted(path.stem for path in _FOLDER.glob("*.toml"))
    return tuple(name for name in found if variants or card(name).variant_of is None)


@functools.cache
def card(name: str) -> Card:
    """The card of a method.

    Raises:
        UsageError: there is no such method; near names are suggested.
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"unknown method {name!r}; methods: {', '.join(known)}{hint}")
    table = tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    allowed = {field.name for field in fields(Card)} - {"name"}
    if unknown := sorted(set(table) - allowed):
        raise EdgePruneError(f"card {name}.toml: unknown key {unknown[0]!r}; allowed: {', '.join(sorted(allowed))}")
    values = _frozen(table)
    values["budgets"] = tuple(_published(entry) for entry in table.get("budgets", ()))
    values.setdefault("file", name.replace("-", "_"))
    return Card(name=name, **values)


def _published(entry: dict[str, Any]) -> Published:
    return Published(**_frozen(entry))


def _frozen(table: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
