"""A budget spelled out: how many visual rows leave each stage, and what that averages to."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType

from edgeprune import catalog
from edgeprune.bundle.manifest import Manifest, MethodEntry, Place
from edgeprune.errors import BudgetError


@dataclass(frozen=True)
class Site:
    """Where a method prunes in one bundle, and in what.

    Attributes:
        tokens: visual rows without pruning.
        places: the cuts in order of execution, as in the manifest.
        layers: depth of the decoder.
    """

    tokens: int
    places: tuple[Place | int, ...]
    layers: int

    @property
    def cuts(self) -> tuple[int, ...]:
        """The decoder layers among the places."""
        return tuple(place for place in self.places if isinstance(place, int))

    @property
    def weights(self) -> tuple[int, ...]:
        """Decoder layers that run on what each place leaves; those before the first place are ``whole``."""
        edges = [place if isinstance(place, int) else 0 for place in self.places] + [self.layers]
        return tuple(last - first for first, last in pairwise(edges))

    @property
    def whole(self) -> int:
        """Decoder layers that see every visual row: those before the first place."""
        return self.layers - sum(self.weights)


def site_of(manifest: Manifest, method: MethodEntry) -> Site:
    """Where a bundle's method prunes."""
    return Site(manifest.vision.tokens, method.places, manifest.decoder.layers)


@dataclass(frozen=True)
class Stage:
    """One pruning event and the decoder layers that run on what it leaves.

    Attributes:
        cut: where in the chain, as in the manifest.
        keep: visual rows out, merged rows included.
        merge: how many of them are merged rows.
        layers: decoder layers until the next stage.
    """

    cut: Place | int
    keep: int
    merge: int
    layers: int


@dataclass(frozen=True)
class Schedule:
    """The stages of one request, in order of execution.

    Attributes:
        stages: at least one.
        asked: the average that was asked for, or "paper:<label>".
        tokens: visual rows before the first stage.
        whole: decoder layers before the first stage.
        label: what the method's paper calls this budget; None where its labels have no such row.
    """

    stages: tuple[Stage, ...]
    asked: int | str
    tokens: int
    whole: int
    label: str | None = None

    @property
    def average(self) -> float:
        """Visual tokens averaged over the decoder layers: the papers' "number of tokens"."""
        rows = self.tokens * self.whole + sum(stage.keep * stage.layers for stage in self.stages)
        return rows / (self.whole + sum(stage.layers for stage in self.stages))

    @property
    def first(self) -> int:
        """Visual rows that enter the decoder."""
        before = [stage.keep for stage in self.stages if not isinstance(stage.cut, int)]
        return before[-1] if before else self.tokens


def make_schedule(method: str, keep: int | str, site: Site) -> Schedule:
    """Spell out a budget by a method's rule.

    Args:
        method: name of the method, which has a card.
        keep: average visual tokens over the decoder layers, or "paper:<label>".
        site: where the method prunes, and in what.

    Raises:
        BudgetError: the budget is out of the method's reach, or its paper has no such label; the message names
            the range or the labels.
        UsageError: there is no such method.
    """
    if isinstance(keep, str):
        return _published(method, keep, site)
    low, high = reach(method, site)
    if not low <= keep <= high:
        raise BudgetError(
            f"{method} cannot keep {keep} visual tokens on average; it reaches {low}..{high} of {site.tokens}, or all"
        )
    stages = tuple(_rule(method).stages(keep, site))
    return Schedule(stages, keep, site.tokens, site.whole, _label(method, stages, site))


def reach(method: str, site: Site) -> tuple[int, int]:
    """Smallest and largest average a method can keep.

    Raises:
        BudgetError: there is none at this site.
        UsageError: there is no such method.
    """
    span: tuple[int, int] = _rule(method).reach(site)
    return span


def _rule(method: str) -> ModuleType:
    """The rule on a method's card. Cards come with edgeprune: no name from a bundle reaches an import."""
    return importlib.import_module(f"edgeprune.budget.{catalog.card(method).rule}")


def _published(method: str, keep: str, site: Site) -> Schedule:
    label = keep.removeprefix("paper:")
    labels = {budget.label: budget for budget in catalog.card(method).budgets if budget.tokens == site.tokens}
    if label not in labels:
        known = ", ".join(f"paper:{name}" for name in labels) or f"none for {site.tokens} visual tokens"
        raise BudgetError(f"--keep {keep} is no budget of {method}'s paper; its labels: {known}")
    budget = labels[label]
    if len(budget.counts) != len(site.places):
        raise BudgetError(
            f"--keep {keep} has {len(budget.counts)} counts and this bundle cuts in {len(site.places)} places"
        )
    merged = budget.merged or (0,) * len(budget.counts)
    stages = tuple(Stage(*stage) for stage in zip(site.places, budget.counts, merged, site.weights, strict=True))
    return Schedule(stages, keep, site.tokens, site.whole, label)


def _label(method: str, stages: tuple[Stage, ...], site: Site) -> str | None:
    """The paper's own label of these counts, if it has one."""
    counts = tuple(stage.keep for stage in stages)
    for budget in catalog.card(method).budgets:
        if budget.tokens == site.tokens and budget.counts == counts:
            return budget.label
    return None
