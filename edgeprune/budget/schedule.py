"""A budget spelled out: how many visual rows leave each stage, and what that averages to."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType

from edgeprune import catalog
from edgeprune.bundle.manifest import Manifest, MethodEntry, Place
from edgeprune.bundle.prompt import Medium
from edgeprune.bundle.sizes import Vision
from edgeprune.errors import BudgetError


@dataclass(frozen=True)
class Site:
    """Where a method prunes in one bundle, and in what.

    Attributes:
        tokens: visual rows of the prompt that enter the decoder without pruning, newline rows among them.
        places: the cuts in order of execution, as in the manifest.
        layers: depth of the decoder.
        runs: of the encoder: the tiles of all pictures of the prompt, the frames of a video.
        per_run: rows that a run gives; None where they share ``tokens`` alike.
        medium: what the prompt is about.
        class_rows: of those of a run, those that are no patch; only methods that rank by them keep them.
        native: pictures have grids of their own, so that a number of tokens tells nothing of what was published.

    Raises:
        BudgetError: there is no row for every run.
    """

    tokens: int
    places: tuple[Place | int, ...]
    layers: int
    runs: int = 1
    per_run: int | None = None
    medium: Medium = "image"
    class_rows: int = 0
    native: bool = False

    def __post_init__(self) -> None:
        if min(self.tokens, self.runs, self.of_run) < 1:
            raise BudgetError(f"{self.tokens} visual tokens of {self.runs} encoder runs; expected 1 or more of each")

    @classmethod
    def of(
        cls, vision: Vision, layers: int, medium: Medium, places: tuple[Place | int, ...], tokens: int, runs: int
    ) -> Site:
        """Where a model is pruned.

        Args:
            vision: its encoder.
            layers: depth of its decoder.
            medium, places, tokens, runs: as the attributes.
        """
        per_run = vision.tokens if vision.grid else tokens // runs
        class_rows = int(vision.class_row == "inside")
        return cls(tokens, places, layers, runs, per_run, medium, class_rows, vision.grid is None)

    @property
    def of_run(self) -> int:
        """Rows that a run gives."""
        return self.tokens // self.runs if self.per_run is None else self.per_run

    @property
    def patches(self) -> int:
        """Rows of a run that stand for a place in it."""
        return self.of_run - self.class_rows

    @property
    def given(self) -> int:
        """Rows that all runs give, before they are packed for the decoder."""
        return self.runs * self.of_run

    @property
    def most(self) -> int:
        """The most rows that a cut before the decoder may leave: those there are, but no more than enter unpruned."""
        return min(self.tokens, self.given)

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

    def shared(self, rows: float) -> int:
        """Rows of each run where all runs together should have ``rows``; halves are rounded up."""
        return math.floor(rows / self.runs + 0.5)


def site_of(manifest: Manifest, method: MethodEntry, tokens: int | None = None, runs: int | None = None) -> Site:
    """Where a bundle's method prunes.

    Args:
        manifest: of the bundle.
        method: one of its.
        tokens: visual rows of the prompt that enter the decoder without pruning.
        runs: of the encoder; None, as ``tokens``, for the most that one picture or video can have.
    """
    runs = manifest.image.most_runs if runs is None else runs
    tokens = manifest.most_tokens if tokens is None else tokens
    return Site.of(manifest.vision, manifest.decoder.layers, manifest.prompt.medium, method.places, tokens, runs)


@dataclass(frozen=True)
class Stage:
    """One pruning event and the decoder layers that run on what it leaves.

    Attributes:
        cut: where in the chain, as in the manifest.
        keep: visual rows out, merged rows included; of each run of the encoder for a cut before the decoder.
        merge: how many of them are merged rows.
        layers: decoder layers until the next stage.
        runs: how many times that many: runs of the encoder, 1 for a cut inside the decoder.
    """

    cut: Place | int
    keep: int
    merge: int
    layers: int
    runs: int = 1

    @property
    def rows(self) -> int:
        """Visual rows out, of all runs."""
        return self.keep * self.runs

    @property
    def merged(self) -> int:
        """How many of all of them are merged rows."""
        return self.merge * self.runs


@dataclass(frozen=True)
class Schedule:
    """The stages of one request, in order of execution.

    Attributes:
        stages: at least one.
        asked: the average that was asked for, or "paper:<label>".
        tokens: visual rows that enter the decoder where no stage lies before it.
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
        rows = self.tokens * self.whole + sum(stage.rows * stage.layers for stage in self.stages)
        return rows / (self.whole + sum(stage.layers for stage in self.stages))

    @property
    def first(self) -> int:
        """Visual rows that enter the decoder."""
        before = [stage.rows for stage in self.stages if not isinstance(stage.cut, int)]
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
    stages = tuple(_rule(method, site).stages(keep, site))
    return Schedule(stages, keep, site.tokens, site.whole, _label(method, stages, site))


def reach(method: str, site: Site) -> tuple[int, int]:
    """Smallest and largest average a method can keep.

    Raises:
        BudgetError: there is none at this site.
        UsageError: there is no such method.
    """
    span: tuple[int, int] = _rule(method, site).reach(site)
    return span


def _rule(method: str, site: Site) -> ModuleType:
    """The rule on a method's card. Cards come with edgeprune: no name from a bundle reaches an import."""
    return importlib.import_module(f"edgeprune.budget.{catalog.card(method).rule_at(site.places)}")


def _published(method: str, keep: str, site: Site) -> Schedule:
    label = keep.removeprefix("paper:")
    budgets = catalog.card(method).budgets
    labels = {budget.label: budget for budget in budgets if _is_of(budget, site)}
    if label not in labels:
        others = sorted({budget.tokens for budget in budgets})
        kind = "pictures of their own size" if site.native else f"{site.given} visual tokens"
        known = ", ".join(f"paper:{name}" for name in labels) or f"none for {kind}"
        known += f" (it has some for {', '.join(map(str, others))})" if others and not labels else ""
        raise BudgetError(f"--keep {keep} is no budget of {method}'s paper; its labels: {known}")
    budget = labels[label]
    if len(budget.counts) != len(site.places):
        raise BudgetError(
            f"--keep {keep} has {len(budget.counts)} counts and this bundle cuts in {len(site.places)} places"
        )
    return Schedule(_spelled(budget, site), keep, site.tokens, site.whole, label)


def _is_of(budget: catalog.Published, site: Site) -> bool:
    """Whether a label is for such prompts; papers count the rows that the encoder gives, however they are packed.

    All labels are of encoders whose runs have one grid.
    """
    return not site.native and (budget.tokens, budget.runs, budget.medium) == (site.given, site.runs, site.medium)


def _spelled(budget: catalog.Published, site: Site) -> tuple[Stage, ...]:
    """The stages of a label: counts before the decoder are shared among the runs.

    Counts that are shares of what there is follow the rows that enter, newline rows among them, rounded down.
    """
    found = []
    merged = budget.merged or (0,) * len(budget.counts)
    for place, rows, merge, weight in zip(site.places, budget.counts, merged, site.weights, strict=True):
        if isinstance(place, int):
            rows = rows * site.tokens // budget.tokens if budget.shares else rows
            found.append(Stage(place, rows, merge, weight))
        else:
            found.append(Stage(place, rows // site.runs, merge // site.runs, weight, site.runs))
    return tuple(found)


def _label(method: str, stages: tuple[Stage, ...], site: Site) -> str | None:
    """The paper's own label of these counts, if it has one."""
    for budget in catalog.card(method).budgets:
        fits = _is_of(budget, site) and len(budget.counts) == len(site.places)
        if fits and [stage.rows for stage in _spelled(budget, site)] == [stage.rows for stage in stages]:
            return budget.label
    return None
