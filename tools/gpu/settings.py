"""What a run is asked for, spelled out: cases that share a checkpoint come together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgeprune.bundle.manifest import Dtype
from tools.gpu.bench import Rounds, Times
from tools.gpu.cases import AFTER, BEFORE, CASES, Budget, Case, budgets
from tools.gpu.checkpoint import shape_of
from tools.gpu.compare import Outcome
from tools.gpu.machine import DeviceName
from tools.gpu.variant import Prompt, make_prompt
from tools.random_checkpoint import SHAPES, Shape


@dataclass(frozen=True)
class Settings:
    """What to run.

    Attributes:
        shapes: names of cases.
        device: "cuda" or "cpu".
        backend: "auto", "eager" for none, or a backend.
        dialect: "fused", "base", "both", or None for the first that the backend takes.
        dtype: of weights and graphs.
        layers: most decoder layers; None takes the shape's.
        keeps: budgets instead of the cases' own.
        rounds: how often.
        work: where checkpoints, bundles and plans go; what is there already is used.
        out: where the report goes.
        time_limit: seconds.
    """

    shapes: tuple[str, ...]
    device: DeviceName
    backend: str
    dialect: str | None
    dtype: Dtype
    layers: int | None
    keeps: tuple[str, ...] | None
    rounds: Rounds
    work: Path
    out: Path
    time_limit: float | None


@dataclass
class Group:
    """Cases that share a checkpoint.

    Attributes:
        name: of files.
        shape: of the model.
        cases: with their budgets.
        expected: what eager gave, by case and budget.
        whole: eager with all tokens, by case; its latest times.
    """

    name: str
    shape: Shape
    cases: list[tuple[Case, tuple[Budget, ...]]]
    expected: dict[tuple[str, str], Outcome] = field(default_factory=dict)
    whole: dict[str, Times] = field(default_factory=dict)

    def prompt(self, case: Case, dtype: str) -> Prompt:
        """The prompt of a case."""
        return make_prompt(case, self.shape, dtype)


def make_groups(settings: Settings) -> list[Group]:
    """The cases that were asked for, with their budgets, by checkpoint.

    Raises:
        UsageError: a budget or the depth is out of reach.
    """
    groups: dict[str, Group] = {}
    for name in settings.shapes:
        case = CASES[name]
        shape = shape_of(case.checkpoint, settings.layers)
        depth = shape.decoder.num_hidden_layers
        group = groups.setdefault(case.checkpoint, Group(f"{case.checkpoint}-{depth}", shape, []))
        group.cases.append((case, budgets(case, settings.keeps, depth)))
    return list(groups.values())


def described(settings: Settings, groups: Sequence[Group]) -> dict[str, Any]:
    """The settings, for the report."""
    fields: dict[str, Any] = asdict(settings)
    rounds = fields.pop("rounds")
    depths = []
    for case, shape in ((case, group.shape) for group in groups for case, _ in group.cases):
        whole = SHAPES[case.checkpoint].decoder.num_hidden_layers
        depths.append(f"{case.name} {shape.decoder.num_hidden_layers} of {whole}")
    fields |= {name: str(fields[name]) for name in ("work", "out")}
    return {**fields, **rounds, "text_tokens": BEFORE + AFTER, "depths": ", ".join(depths)}
