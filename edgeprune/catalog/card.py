"""One card: ``<name>.toml`` beside this file, read and checked."""

from __future__ import annotations

import difflib
import functools
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from edgeprune.errors import EdgePruneError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

Place = Literal["encoder", "vision", "projected"]
ProbeKind = Literal["cls_feature", "cls_attention", "key"]

_FOLDER = Path(__file__).parent
_DEPTH = 32  # layers that the places of cards are for
_SELECTED = 22  # the encoder's layer whose output is selected, that the probes of cards are for


@dataclass(frozen=True)
class Probe:
    """An output of the encoder's scoring head.

    Attributes:
        kind: "cls_feature", "cls_attention" or "key" (``towers.clip``).
        layer: 0-based layer of the encoder it is read in.
    """

    kind: ProbeKind
    layer: int


@dataclass(frozen=True)
class Published:
    """A budget under the label of the method's paper: counts of the visual rows out of every stage.

    Attributes:
        label: what ``--keep paper:<label>`` names.
        tokens: visual rows of the unpruned model that the counts are published for, as the encoder gives them.
        runs: of the encoder that they come from, such as the crops of a picture.
        medium: "image" or "video".
        counts: per stage, in order of execution, merged rows included; of all runs of the encoder together.
        merged: per stage, how many of them are merged rows; empty where the method merges none.
        shares: the counts inside the decoder are shares of the rows that enter it, which newline rows and unpadding
            make more or fewer than ``tokens``.
        source: where the counts come from; starts with "ours" where the paper does not give them.
    """

    label: str
    counts: tuple[int, ...]
    source: str
    tokens: int = 576
    runs: int = 1
    medium: Literal["image", "video"] = "image"
    merged: tuple[int, ...] = ()
    shares: bool = False

    @property
    def kind(self) -> str:
        """Of the pictures that it is for."""
        return "frames" if self.medium == "video" else "tiles" if self.runs > 1 else "fixed"


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
        rounding: at another depth cuts lie at the same fractions of it: at the nearest layer, or rounded "down".
        places_at: depths, as text, at which the method has places of its own.
        places_of: kinds of pictures ("tiles", "frames", "native") of which it has places of its own, as ``places``.
        rule_of: rules that go with those places.
        probes: which outputs of the encoder's scoring head it reads, by argument name: "cls_attention_5" in layer 5
            where 22 is the selected one, at another depth at the same fraction of it.
        order: how the rows that a cut before the decoder leaves of several tiles follow each other: "runs", tile by
            tile, or "mosaic", in the raster order of the whole picture, as VisionZip has them.
        needs: what a checkpoint must have; empty where any will do.
        clip: what of CLIP it needs: "" nothing, "vision" that the encoder is CLIP's, "both" a text tower, too.
        grid: whether every run of the encoder must have the same grid.
        elsewhere: how it prunes where a picture is more than one run of an encoder with a class row: "tiles" of a
            picture, "frames" of a video, pictures of "native" size, rows that the model would have "blended" (pooled
            frames, a large mosaic of tiles shrunk), a "bare" encoder, which has no class row, and "merged" patches,
            several of which make one visual token. Each line begins with "published" or "ours"; no
            line where nothing changes, or where ``carry.obstacle`` says why there is no such form.
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
    rounding: Literal["nearest", "down"] = "nearest"
    places_at: Mapping[str, tuple[Place | int, ...]] = field(default_factory=dict)
    places_of: Mapping[str, tuple[Place | int, ...]] = field(default_factory=dict)
    rule_of: Mapping[str, str] = field(default_factory=dict)
    probes: Mapping[str, str] = field(default_factory=dict)
    order: Literal["runs", "mosaic"] = "runs"
    clip: Literal["", "vision", "both"] = ""
    grid: bool = False
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    code: str = ""
    file: str = ""
    variant_of: str | None = None
    needs: tuple[str, ...] = ()
    published: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()
    budgets: tuple[Published, ...] = ()
    sure: float = 1.0

    def at(self, layers: int, kind: str = "fixed") -> tuple[Place | int, ...]:
        """Where it prunes pictures of a kind with a decoder of so many layers, cuts rising and at least 1."""
        usual = self.places_of.get(kind, self.places)
        places = usual if kind in self.places_of else self.places_at.get(str(layers), usual)
        early = tuple(place for place in places if not isinstance(place, int))
        of, up = (layers, 0.0) if places is not usual else (_DEPTH, 0.5 if self.rounding == "nearest" else 0.0)
        cuts: list[int] = []
        for place in places[len(early) :]:
            cuts.append(max(cuts[-1] + 1 if cuts else 1, int(int(place) * layers / of + up)))
        return (*early, *cuts)

    def cuts(self, layers: int, kind: str = "fixed") -> tuple[int, ...]:
        """The decoder layers among ``at``."""
        return tuple(place for place in self.at(layers, kind) if isinstance(place, int))

    def rule_at(self, places: tuple[Place | int, ...]) -> str:
        """The rule for these places, of any depth: a bundle names them and not the kind that they are for."""
        kinds = (kind for kind, own in self.places_of.items() if len(own) == len(places))
        return next((self.rule_of[kind] for kind in kinds if kind in self.rule_of), self.rule)

    def probes_at(self, selected: int) -> Mapping[str, Probe]:
        """What it reads of an encoder whose selected layer, 0-based, is this one, by argument name."""
        found = {}
        for argument, name in self.probes.items():
            probe = parse_probe(name)
            found[argument] = Probe(probe.kind, int(probe.layer * selected / _SELECTED + 0.5))
        return found


def parse_probe(name: str) -> Probe:
    """A probe by the name of its tensor: "key_22".

    Raises:
        EdgePruneError: it is none.
    """
    for kind in get_args(ProbeKind):
        if match := re.fullmatch(rf"{kind}_(\d{{1,4}})", name, re.ASCII):
            return Probe(kind, int(match[1]))
    raise EdgePruneError(f"{name!r} is no output of the scoring head; expected a kind and a layer, as in 'key_22'")


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
    allowed = {known.name for known in fields(Card)} - {"name"}
    if unknown := sorted(set(table) - allowed):
        raise EdgePruneError(f"card {name}.toml: unknown key {unknown[0]!r}; allowed: {', '.join(sorted(allowed))}")
    values = _frozen(table)
    values["budgets"] = tuple(_published(entry) for entry in table.get("budgets", ()))
    values |= {name: _frozen(table.get(name, {})) for name in ("places_at", "places_of")}
    values.setdefault("file", name.replace("-", "_"))
    return Card(name=name, **values)


def _published(entry: dict[str, Any]) -> Published:
    return Published(**_frozen(entry))


def _frozen(table: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
