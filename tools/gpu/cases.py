"""What is measured: a model's shape, how many visual rows it is given, the budgets, and the goal.

A case is a checkpoint's shape and a prompt; two cases may share a checkpoint and its engines. Budgets are spelled out
here, before anything is written or loaded, so that a word that is wrong costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.budget.keep import parse_keep
from edgeprune.budget.schedule import Schedule, Site, make_schedule
from edgeprune.errors import UsageError
from tools.random_checkpoint import SHAPES

METHOD = "visiondrop"
BEFORE, AFTER = 5, 55
"""Text tokens around the picture: LLaVA-1.5's template with a question of ordinary length."""


@dataclass(frozen=True)
class Goal:
    """How many times faster than PyTorch eager with all tokens the prefill at a budget is to be."""

    keep: int
    speedup: float


@dataclass(frozen=True)
class Case:
    """A model and a prompt.

    Attributes:
        name: what users type.
        checkpoint: a shape of ``tools/random_checkpoint.py``.
        visual: visual rows without pruning, all in one span.
        keeps: budgets, as ``--keep`` takes them.
        goal: what is to be reached on a datacenter GPU.
    """

    name: str
    checkpoint: str
    visual: int
    keeps: tuple[str, ...]
    goal: Goal | None = None

    @property
    def encoded(self) -> bool:
        """Whether the rows are those of one picture of the model, so that it can be run from its pixels."""
        tower = SHAPES[self.checkpoint].tower
        return self.visual == (tower.image_size // tower.patch_size) ** 2


CASES = {
    case.name: case
    for case in (
        Case("tiny", "tiny", 64, ("all", "32", "21")),
        Case("tiny-next", "tiny", 320, ("all", "64", "32")),
        Case("llava-1.5-7b", "llava-1.5-7b", 576, ("all", "192", "128", "64"), Goal(64, 2.5)),
        # LLaVA-NeXT's tiles and newlines are 2,880 rows at most; to the decoder they are one span like any other.
        Case("llava-next-7b", "llava-1.5-7b", 2880, ("all", "640", "320", "160"), Goal(320, 4.0)),
    )
}


@dataclass(frozen=True)
class Budget:
    """How many visual rows reach which decoder layers.

    Attributes:
        label: "all", or the average that was asked for.
        rows: visual rows of every stage.
        layers: decoder layers of every stage.
        schedule: None without pruning.
    """

    label: str
    rows: tuple[int, ...]
    layers: tuple[int, ...]
    schedule: Schedule | None

    @property
    def average(self) -> float:
        """Visual rows averaged over the decoder layers."""
        return sum(r * n for r, n in zip(self.rows, self.layers, strict=True)) / sum(self.layers)


def budgets(case: Case, keeps: Sequence[str] | None, layers: int) -> tuple[Budget, ...]:
    """The budgets of a case, all tokens first: everything is held against that.

    Args:
        case: with its own budgets.
        keeps: others instead; None takes the case's.
        layers: depth of the decoder.

    Raises:
        UsageError: the depth is too small to be cut.
        BudgetError: a budget is malformed or out of the method's reach.
    """
    site = Site(case.visual, ("vision", *cut_layers(layers)), layers)
    found = {"all": Budget("all", (case.visual,), (layers,), None)}
    for keep in keeps or case.keeps:
        average = parse_keep(keep, case.visual)
        if average is not None:
            schedule = make_schedule(METHOD, average, site)
            rows, depths = zip(*((stage.keep, stage.layers) for stage in schedule.stages), strict=True)
            found[str(average)] = Budget(str(average), rows, depths, schedule)
    return tuple(found.values())


def cut_layers(layers: int) -> tuple[int, ...]:
    """The decoder layers before which VisionDrop cuts.

    Raises:
        UsageError: the depth is too small to be cut.
    """
    from edgeprune.methods import method

    cuts = method.load(METHOD).cuts(layers)
    if layers < 4:
        raise UsageError(f"--layers is {layers}, expected 4 or more: {METHOD} cuts the decoder in four")
    return cuts
