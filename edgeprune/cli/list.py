"""``edgeprune list``: methods, models and targets, and a card of each."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli.options import json_option

if TYPE_CHECKING:
    from edgeprune.budget.schedule import Schedule
    from edgeprune.catalog import Card
    from edgeprune.estimate.survey import Size
    from edgeprune.recipes.model import ModelRecipe
    from edgeprune.recipes.target import Target

TOKENS, LAYERS = 576, 32  # of LLaVA-1.5-7B, for which the papers state their budgets
_ELSEWHERE = {
    "tiles": "on tiles",
    "frames": "on video",
    "native": "any size",
    "blended": "pooled",
    "bare": "no class",
    "merged": "merged",
}
"""Labels of what a card says of models that are put together otherwise."""
_Field = tuple[str, Iterable[str]]
_LABEL = 11  # columns of a card's left margin
_POSITIONS = {
    "repack": "numbered anew after every cut (repack)",
    "keep": "the original ones, with gaps where rows were dropped (keep)",
}


@click.command(name="list")
@click.argument("kind", type=click.Choice(["methods", "models", "targets"]), required=False)
@click.argument("name", required=False)
@click.option(
    "--for", "model", metavar="MODEL", help="Which methods a recipe, checkpoint or bundle can carry, and why not."
)
@json_option("what is listed")
def command(kind: str | None, name: str | None, model: str | None, as_json: bool) -> None:
    """List the methods, models or targets that are known by name; with a NAME, all that is known about one.

    \b
    edgeprune list methods                  one line each
    edgeprune list methods fastv            the card of a method: stages, needs, budgets, what is published
    edgeprune list methods --for qwen2.5-vl-3b
    edgeprune list models llava-1.5-7b      a recipe for `edgeprune export`
    edgeprune list targets orin-agx-64gb    a device for `edgeprune build --target`
    """
    if model is not None:
        value, text = _matrix(model, kind, name)
    else:
        shown = {None: _everything, "methods": _methods, "models": _models, "targets": _targets}[kind]
        value, text = shown(name)
    if as_json:
        import json

        click.echo(json.dumps(value, ensure_ascii=False))
    else:
        click.echo(text)


def _everything(_: str | None) -> tuple[object, str]:
    from edgeprune import catalog
    from edgeprune.recipes import model as recipes
    from edgeprune.recipes import target as targets

    found = {"methods": catalog.names(), "models": recipes.names(), "targets": targets.names()}
    fields = [(kind, [", ".join(names)]) for kind, names in found.items()]
    ways = "edgeprune list methods: one line each. edgeprune list methods NAME: all about one. Others likewise."
    return found, _card("", fields) + "\n" + _wrapped(ways, "", "")


def _methods(name: str | None) -> tuple[object, str]:
    from edgeprune import catalog

    if name is not None:
        card = catalog.card(name)
        return _method_facts(card), _method_card(card)
    cards = [catalog.card(known) for known in catalog.names()]
    return [_method_facts(card) for card in cards], _lines((card.name, card.summary) for card in cards)


def _matrix(model: str, kind: str | None, name: str | None) -> tuple[object, str]:
    """Every method, or one, against a model."""
    from dataclasses import asdict

    from edgeprune import catalog
    from edgeprune.errors import UsageError
    from edgeprune.estimate.find import find_model
    from edgeprune.estimate.survey import carried

    if kind != "methods":
        raise UsageError(f"--for {model} has no effect without methods: edgeprune list methods --for {model}")
    found = find_model(model)
    names = catalog.names() if name is None else (catalog.card(name).name,)
    rows = [carried(found, known) for known in names]
    entries = [entry.name for entry in found.manifest.methods] if found.manifest else []
    facts = [asdict(row) | ({"exported": row.method in entries} if found.manifest else {}) for row in rows]
    width = max(len(row.carried) for row in rows)
    lines = []
    for row in rows:
        has = " (in the bundle)" if row.method in entries else ""
        span = f"{row.reach[0]}..{row.reach[1]} of {found.shape.tokens} visual tokens" if row.reach else ""
        told = "; ".join(filter(None, [f"{span}{has}", row.why]))
        lines.append((row.method, f"{row.carried:<{width}}  {told}"))
    return {"model": found.shape.name, "methods": facts}, _lines(lines)


def _method_facts(card: Card) -> dict[str, Any]:
    """The card, with what the budgets average to."""
    from dataclasses import asdict

    facts = asdict(card)
    low, high = _reach(card)
    facts["reach"] = {"low": low, "high": high, "tokens": TOKENS, "layers": LAYERS}
    for budget, schedule in zip(facts["budgets"], _schedules(card), strict=True):
        budget["average"] = schedule.average
    return facts


def _method_card(card: Card) -> str:
    from edgeprune.estimate.papers import visual_share

    low, high = _reach(card)
    places = (card.places, *card.places_of.values())
    cuts = any(isinstance(place, int) for own in places for place in own)
    stages = [f"{number}. {stage}" for number, stage in enumerate(card.stages, 1)] if card.stages[1:] else card.stages
    labels = [f"paper:{budget.label}" for budget in card.budgets]
    width = max(map(len, labels), default=0)
    budgets = [
        f"{label:<{width}}  {' > '.join(map(str, budget.counts))} of {budget.tokens}, "
        f"{schedule.average:.4g} on average ({budget.source}); "
        f"{100 * visual_share(schedule):.3g}% of the multiply-accumulates on visual rows"
        for label, budget, schedule in zip(labels, card.budgets, _schedules(card), strict=True)
    ]
    fields: list[_Field] = [
        ("variant of", [card.variant_of] if card.variant_of else []),
        ("stages", stages),
        ("needs", card.needs or ["nothing beyond what every supported checkpoint has"]),
        ("positions", [_POSITIONS[card.positions] if cuts else "numbered from 0: no cut lies inside the decoder"]),
        ("reach", [f"{low}..{high} of {TOKENS} visual tokens on average over {LAYERS} decoder layers, or all"]),
        ("budgets", budgets or ["any number within reach; no paper has a label for one"]),
        *((label, [card.elsewhere[key]] if key in card.elsewhere else []) for key, label in _ELSEWHERE.items()),
        ("published", card.published),
        ("ours", card.ours),
        ("paper", [card.paper]),
        ("code", [f"github.com/{card.code}" if card.code.count("/") == 1 else card.code or "none"]),
    ]
    return _card(f"{_wrapped(f'{card.title} ({card.name})', '', '')}\n{_wrapped(card.summary, '', '')}\n", fields)


def _reach(card: Card) -> tuple[int, int]:
    from edgeprune.budget.schedule import Site, reach

    return reach(card.name, Site(TOKENS, card.places, LAYERS))


def _schedules(card: Card) -> list[Schedule]:
    """Each of the paper's budgets, spelled out."""
    from edgeprune.budget.schedule import Site, make_schedule

    return [
        make_schedule(
            card.name,
            f"paper:{budget.label}",
            Site(budget.tokens, card.at(LAYERS, budget.kind), LAYERS, budget.runs, medium=budget.medium),
        )
        for budget in card.budgets
    ]


def _models(name: str | None) -> tuple[object, str]:
    from dataclasses import asdict

    from edgeprune.estimate.survey import size_of
    from edgeprune.recipes import model as recipes

    words = recipes.names() if name is None else (name,)
    known = {word: recipes.load(word) for word in words}
    sizes = {word: size_of(word, recipe) for word, recipe in known.items()}
    facts = [asdict(known[word]) | {"size": asdict(size) if size else None} for word, size in sizes.items()]
    if name is not None:
        return facts[0], _model_card(known[name], sizes[name])
    return facts, _lines((word, f"{_source(known[word])}: {'; '.join(_told(size))}") for word, size in sizes.items())


def _told(size: Size | None) -> list[str]:
    if size is None:
        return ["its sizes are in its config.json"]
    weights = ", ".join(f"{need.dtype} {need.weights / 1e9:.3g}" for need in size.needs)
    fits = ", ".join(f"{need.dtype} {need.fits or 'nowhere'}" for need in size.needs)
    return [f"{size.tokens:,} visual tokens", f"weights in GB: {weights}", f"smallest target that it fits: {fits}"]


def _source(recipe: ModelRecipe) -> str:
    from edgeprune.recipes.model import DEMO

    return "ships with edgeprune" if recipe.model == DEMO else recipe.model


def _model_card(recipe: ModelRecipe, size: Size | None) -> str:
    fields: list[_Field] = [
        ("model", [_source(recipe)]),
        ("revision", [recipe.revision] if recipe.revision else []),
        ("size", _told(size)),
        ("family", [recipe.family]),
        ("dtype", [recipe.dtype or "fp32, unless export is told otherwise"]),
        ("notes", [recipe.notes] if recipe.notes else []),
        ("next", [f"edgeprune export {recipe.name} --method visiondrop -o FOLDER"]),
    ]
    return _card(f"{recipe.name}\n", fields)


def _targets(name: str | None) -> tuple[object, str]:
    from dataclasses import asdict

    from edgeprune.recipes import target as targets

    if name is not None:
        target = targets.load(name)
        return asdict(target), _target_card(target)
    found = [targets.load(known) for known in targets.names()]
    facts = [{"name": t.name, "device": t.device, "stacks": [s.name for s in t.stacks]} for t in found]
    return facts, _lines((t.name, f"{t.device} ({', '.join(s.name for s in t.stacks)})") for t in found)


def _target_card(target: Target) -> str:
    from edgeprune.recipes.target import GIB

    kinds = {
        "jetson": "Jetson: CPU and GPU share the memory",
        "gpu": "GPU with memory of its own",
        "portable": "portable: several GPUs",
    }
    shapes = target.shapes
    ranges = [
        ("prompts at once", shapes.batch),
        ("encoder runs of one", shapes.runs),
        ("text tokens", shapes.text),
        ("visual rows", shapes.kept),
    ]
    fields: list[_Field] = [
        ("kind", [kinds[target.kind]]),
        ("compute", [f"capability {', '.join(target.capabilities)}"]),
        ("memory", [f"{target.memory / GIB:g} GB"] if target.memory is not None else []),
        ("bandwidth", [f"{target.bandwidth / 1e9:g} GB/s"] if target.bandwidth is not None else []),
        ("TFLOPS", [", ".join(f"{dtype} {rate / 1e12:g}" for dtype, rate in target.flops.items())]),
        ("precision", [target.precision]),
        ("stacks", [f"{s.name}: {s.versions}; dialects {', '.join(s.dialects)}" for s in target.stacks]),
        (
            "shapes",
            [
                *(f"{what} {size.least}..{size.most}, tuned for {size.usual}" for what, size in ranges),
                f"caches of at most {shapes.context} rows",
            ],
        ),
        ("workspace", [f"{target.workspace / GIB:g} GB of scratch while building"]),
        ("notes", [target.notes] if target.notes else []),
        ("sources", target.sources),
        ("next", [f"edgeprune build BUNDLE --target {target.name} --dry-run"]),
    ]
    return _card(f"{target.name}\n{_wrapped(target.device, '', '')}\n", fields)


def _lines(entries: Iterable[tuple[str, str]]) -> str:
    """One line per entry; where a terminal is narrower, the rest is indented. What is piped stays one line each."""
    entries = [*entries]
    width = max((len(name) for name, _ in entries), default=0)
    lines = [f"{name:<{width}}  {about}" for name, about in entries]
    if sys.stdout.isatty():
        lines = [_wrapped(line, "", " " * (width + 2)) for line in lines]
    return "\n".join(lines)


def _card(head: str, fields: Iterable[_Field]) -> str:
    """Labels in a left margin, the entries of each beside it; fields without an entry are left out."""
    lines = [head] if head else []
    for label, entries in fields:
        margins = [f"{label:<{_LABEL}}"]
        for entry in filter(None, entries):
            lines.append(_wrapped(entry, margins[-1], " " * (_LABEL + 2)))
            margins.append(" " * _LABEL)
    return "\n".join(lines)


def _wrapped(text: str, first: str, rest: str) -> str:
    """As wide as the terminal, addresses and names in one piece."""
    return textwrap.fill(
        text,
        max(40, shutil.get_terminal_size().columns - 1),
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
