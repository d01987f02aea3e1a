"""The axes of a sweep, as they are typed: ``method=visiondrop,sts keep=all,128,64``, and the cells they span.

It knows words and a bundle's methods; what a cell costs or answers is not its business.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.bench.picture import Visual
from edgeprune.budget.keep import parse_keep
from edgeprune.budget.schedule import Schedule
from edgeprune.bundle.manifest import MethodEntry
from edgeprune.errors import BudgetError, UsageError
from edgeprune.runtime.vlm import VLM

KEEPS = ("all", "192", "128", "64")
ALL = "all"
_AXES = ("method", "keep")
_EXAMPLE = "expected axes such as method=visiondrop,sts keep=all,192,128,64"


@dataclass(frozen=True)
class Axes:
    """What was typed.

    Attributes:
        methods: names; None are all that the bundle has.
        keeps: budgets; None are ``KEEPS``, as far as the model has so many tokens.
    """

    methods: tuple[str, ...] | None = None
    keeps: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, words: Sequence[str]) -> Axes:
        """Read the words behind the bundle; without any, every method at the usual budgets.

        Raises:
            UsageError: a word is no axis, or an axis is unknown, empty, or given twice, or names a value twice.
        """
        found: dict[str, tuple[str, ...]] = {}
        for word in words:
            name, equals, text = word.partition("=")
            if not equals:
                raise UsageError(f"--sweep: {word!r} is no axis; {_EXAMPLE}")
            if name not in _AXES:
                near = difflib.get_close_matches(name, _AXES, n=1)
                hint = f"did you mean {near[0]}=?" if near else f"known axes: {', '.join(_AXES)}"
                raise UsageError(f"--sweep: unknown axis {name!r}; {hint}")
            if name in found:
                raise UsageError(f"--sweep: axis {name!r} is given twice; write its values in one word: {name}=a,b")
            found[name] = _values(name, text)
        methods = found.get("method")
        if methods is not None and ALL in methods:
            if len(methods) > 1:
                raise UsageError(f"--sweep: method={','.join(methods)} names methods beside all; give one or the other")
            methods = None
        return cls(methods, found.get("keep"))


@dataclass(frozen=True)
class Cell:
    """One row of the report: a method at a budget, or all tokens, whose method is None.

    Attributes:
        method: None without pruning.
        keep: as it was typed; "all" without pruning.
        entry, schedule: what the bundle makes of it; None without pruning, and where the budget is out of reach.
        unreachable: why the budget is out of the method's reach; None where it is not.
    """

    method: str | None
    keep: str
    entry: MethodEntry | None = None
    schedule: Schedule | None = None
    unreachable: str | None = None

    @property
    def name(self) -> str:
        """What reports and journals call it."""
        return ALL if self.method is None else f"{self.method} {self.keep}"


def make_cells(vlm: VLM, axes: Axes, visual: Visual) -> tuple[Cell, ...]:
    """Every method at every budget in the order typed, behind the unpruned model, which is always there.

    Budgets are for the picture of the timing, ``visual``. One that a method cannot reach is a cell that says so.

    Raises:
        UsageError: the bundle lacks a method, or methods were named and nothing is to be pruned.
        BudgetError: a budget is malformed, or no method reaches any.
    """
    tokens = visual.tokens
    keeps = tuple(keep for keep in KEEPS if keep == ALL or int(keep) < tokens) if axes.keeps is None else axes.keeps
    pruned = [keep for keep in keeps if parse_keep(keep, tokens) is not None]
    methods = axes.methods or tuple(entry.name for entry in vlm.manifest.methods)
    cells = [Cell(None, ALL)]
    for method in methods:
        vlm.plan(ALL, method)  # a method that the bundle lacks is no failed cell, but a word to mend
        for keep in pruned:
            try:
                entry, schedule = vlm.plan(keep, method, tokens, visual.runs)
            except BudgetError as error:
                cells.append(Cell(method, keep, unreachable=str(error)))
            else:
                cells.append(Cell(method, keep, entry, schedule))
    if axes.methods is not None and not pruned:
        raise UsageError(f"--sweep: method={','.join(methods)} has no effect at keep={','.join(keeps)}: give less")
    refused = [cell.unreachable for cell in cells if cell.unreachable is not None]
    if refused and len(refused) == len(cells) - 1:
        raise BudgetError(f"--sweep: no cell is within reach; the first: {refused[0]}")
    return tuple(cells)


def _values(axis: str, text: str) -> tuple[str, ...]:
    values = tuple(value.strip() for value in text.split(","))
    if not all(values):
        raise UsageError(f"--sweep: {axis}={text} has an empty value; {_EXAMPLE}")
    for value in values:
        if values.count(value) > 1:
            raise UsageError(f"--sweep: {axis}={text} names {value!r} twice")
    return values
