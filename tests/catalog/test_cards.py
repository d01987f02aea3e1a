"""The cards: whole, in legal form, and in accord with themselves and with the rules they name."""

from __future__ import annotations

import importlib
from dataclasses import fields

import pytest

from edgeprune import catalog
from edgeprune.budget.schedule import Site, make_schedule, reach
from edgeprune.bundle.manifest import PLACES
from edgeprune.errors import UsageError
from edgeprune.methods.method import load

NAMES = catalog.names()


def test_names_and_variants() -> None:
    own = catalog.names(variants=False)
    assert set(own) <= set(NAMES) and list(NAMES) == sorted(NAMES)
    for name in set(NAMES) - set(own):
        assert catalog.card(name).variant_of in own


def test_an_unknown_name_gets_a_near_one() -> None:
    with pytest.raises(UsageError, match=r"unknown method 'fastvv'; methods: .*; did you mean 'fastv'"):
        catalog.card("fastvv")


@pytest.mark.parametrize("name", NAMES)
def test_every_card_is_whole(name: str) -> None:
    card = catalog.card(name)
    assert card.name == name
    for key in ("title", "summary", "paper", "rule", "file"):
        assert getattr(card, key).strip(), key
    for field in fields(card):
        value = getattr(card, field.name)
        if field.name not in ("budgets", "places") and isinstance(value, tuple):
            assert all(isinstance(line, str) and line.strip() for line in value), field.name
    assert card.stages and card.positions in ("repack", "keep")
    assert card.published or card.ours


@pytest.mark.parametrize("name", NAMES)
def test_places(name: str) -> None:
    card = catalog.card(name)
    assert set(card.rule_of) <= set(card.places_of) <= {"tiles", "frames", "native"}
    for places in (card.places, *card.places_of.values(), *card.places_at.values()):
        check_places(places)
    assert card.rule_at(card.places) == card.rule
    for kind, places in card.places_of.items():
        assert card.rule_at(places) == card.rule_of.get(kind, card.rule)


def check_places(places: tuple[str | int, ...]) -> None:
    before = [place for place in places if isinstance(place, str)]
    layers = [place for place in places if isinstance(place, int)]
    assert places and list(places) == [*before, *layers]
    assert before == [place for place in PLACES if place in before]
    assert layers == sorted({*layers}) and all(1 <= layer < 32 for layer in layers)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_and_the_method_agree(name: str) -> None:
    card, method = catalog.card(name), load(name)
    early = {"encoder": method.encoder, "vision": method.vision, "projected": method.projected}
    for kind in ("fixed", *card.places_of):
        assert card.at(32, kind) == (*(place for place in PLACES if early[place]), *method.cuts(32, kind))
    assert (method.decoder_cut is not None) == any(method.cuts(32, kind) for kind in ("fixed", *card.places_of))
    assert card.positions == method.positions


@pytest.mark.parametrize("name", NAMES)
def test_the_rule_is_there_and_reaches_something(name: str) -> None:
    card = catalog.card(name)
    for places in (card.places, *card.places_of.values()):
        rule = importlib.import_module(f"edgeprune.budget.{card.rule_at(places)}")
        assert callable(rule.reach) and callable(rule.stages)
        site = Site(576, places, 32)
        low, high = reach(name, site)
        assert 1 <= low <= high < 576
        for keep in {low, (low + high) // 2, high}:
            schedule = make_schedule(name, keep, site)
            assert tuple(stage.cut for stage in schedule.stages) == places
            assert schedule.average == pytest.approx(keep, abs=1)


@pytest.mark.parametrize("name", NAMES)
def test_budgets(name: str) -> None:
    card = catalog.card(name)
    labels = [(budget.tokens, budget.label) for budget in card.budgets]
    assert len(set(labels)) == len(labels)
    for budget in card.budgets:
        places = card.at(32, budget.kind)
        assert len(budget.counts) == len(places)
        assert budget.merged == () or len(budget.merged) == len(budget.counts)
        assert all(0 <= merged < count for merged, count in zip(budget.merged, budget.counts, strict=False))
        assert list(budget.counts) == sorted(budget.counts, reverse=True)
        assert budget.counts[-1] >= 1 and budget.counts[0] < budget.tokens
        assert budget.label and budget.source
        site = Site(budget.tokens, places, 32, budget.runs, medium=budget.medium)
        schedule = make_schedule(name, f"paper:{budget.label}", site)
        assert tuple(stage.rows for stage in schedule.stages) == budget.counts


@pytest.mark.parametrize(
    ("name", "layers", "places"),
    [
        ("visiondrop", 22, ("vision", 5, 11, 16)),  # rounded down
        ("sparsevlm", 22, (2, 5, 11)),  # the nearest layer
        ("sparsevlm", 4, (1, 2, 3)),  # cuts rise
        ("fastv", 8, (1,)),  # at least 1
        ("coast", 28, (14,)),  # a depth with a place of its own
        ("coast", 32, (2,)),
        ("sts", 9, ("vision", 4)),
        ("visionzip", 22, ("vision",)),
    ],
)
def test_places_at_other_depths(name: str, layers: int, places: tuple[str | int, ...]) -> None:
    card = catalog.card(name)
    assert card.at(layers) == places
    assert card.cuts(layers) == tuple(place for place in places if isinstance(place, int))


def test_places_of_tiles() -> None:
    """FlowCut's second cut is of pictures in tiles alone."""
    card = catalog.card("flowcut")
    for kind in ("fixed", "frames", "native"):
        assert card.at(32, kind) == card.at(8, kind) == ("encoder",) and card.cuts(32, kind) == ()
    depths = {4: 1, 8: 1, 22: 1, 24: 2, 28: 2, 32: 2, 40: 3}
    assert {layers: card.cuts(layers, "tiles") for layers in depths} == {key: (cut,) for key, cut in depths.items()}
    assert (card.rule_at(("encoder",)), card.rule_at(("encoder", 3))) == ("encoder", "flowcut")
    assert {card.at(28, kind) for card in [catalog.card("coast")] for kind in ("fixed", "tiles")} == {(14,)}
