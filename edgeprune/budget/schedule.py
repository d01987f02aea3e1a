"""A budget spelled out: how many visual rows leave each stage, and what that averages to."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType

from edgeprune.errors import BudgetError

RULES = ("visiondrop",)
"""The files of this folder that are a method's rule. A name comes from a bundle, and no other may reach an import."""


@dataclass(frozen=True)
class Stage:
    """One pruning event and the decoder layers that run on what it leaves.

    Attributes:
        cut: "vision" after the encoder, or the decoder layer before which the cut lies.
        keep: visual rows out, merged rows included.
        merge: how many of them are merged rows.
        layers: decoder layers until the next stage.
    """

    cut: str | int
    keep: int
    merge: int
    layers: int


@dataclass(frozen=True)
class Schedule:
    """The stages of one request, in order of execution, and the average that was asked for.

    Rounding every stage to whole rows moves ``average`` by at most half a token from ``asked``.
    """

    stages: tuple[Stage, ...]
    asked: int

    @property
    def average(self) -> float:
        """Visual tokens averaged over the decoder layers: the papers' "number of tokens"."""
        return sum(s.keep * s.layers for s in self.stages) / sum(s.layers for s in self.stages)


def stage_layers(cuts: tuple[int, ...], layers: int) -> tuple[int, ...]:
    """Decoder layers of each stage: (8, 16, 24) of 32 gives (8, 8, 8, 8)."""
    return tuple(last - first for first, last in pairwise((0, *cuts, layers)))


def make_schedule(method: str, keep: int, tokens: int, cuts: tuple[int, ...], layers: int) -> Schedule:
    """Spell out a budget by a method's rule.

    Args:
        method: name of the method, which is the name of its rule's file.
        keep: average visual tokens over the decoder layers.
        tokens: visual tokens without pruning.
        cuts: decoder layers before which the method prunes.
        layers: depth of the decoder.

    Raises:
        BudgetError: the method has no rule, or the budget is out of its reach; the message names the range.
    """
    low, high = reach(method, tokens, cuts, layers)
    if not low <= keep <= high:
        raise BudgetError(
            f"{method} cannot keep {keep} visual tokens on average; it reaches {low}..{high} of {tokens}, or all"
        )
    schedule: Schedule = _rule(method).schedule(keep, cuts, layers)
    return schedule


def reach(method: str, tokens: int, cuts: tuple[int, ...], layers: int) -> tuple[int, int]:
    """Smallest and largest average a method can keep.

    Raises:
        BudgetError: the method has no rule, or there is none with these cuts.
    """
    span: tuple[int, int] = _rule(method).reach(tokens, cuts, layers)
    return span


def _rule(method: str) -> ModuleType:
    if method not in RULES:
        raise BudgetError(f"method {method!r} has no budget rule here; known: {', '.join(RULES)}")
    return importlib.import_module(f"edgeprune.budget.{method}")
