"""What ``verify`` found: per check the measured differences and what is beyond the limits, as table and JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from edgeprune.bundle.manifest import Model
from edgeprune.errors import OutputError
from edgeprune.verify.difference import Difference
from edgeprune.verify.thresholds import LIMITS, Kind

NAME = "verify.json"


@dataclass(frozen=True)
class Check:
    """One graph, or the whole chain at one budget.

    Attributes:
        name: of the graph, or "chain keep=64", or "inputs".
        kind: which limits applied.
        differences: every output that was compared.
        kept: fraction of selected rows shared with the reference, None where nothing is selected.
        tokens: fraction of greedy tokens shared with the reference, None where none are generated.
        failures: what is beyond the limits, in words.
        notes: what was not compared, and why.
    """

    name: str
    kind: Kind
    differences: tuple[Difference, ...]
    kept: float | None
    tokens: float | None
    failures: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is beyond the limits."""
        return not self.failures


@dataclass(frozen=True)
class Report:
    """All checks of a bundle, in order of execution.

    Attributes:
        model: what the bundle was made from.
        dtype, dialect: of the bundle.
        backend: what ran it.
        checks: inputs, then graphs, then the chain.
    """

    model: Model
    dtype: str
    dialect: str
    backend: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return self.first_failure is None

    @property
    def first_failure(self) -> Check | None:
        """The first check that did not pass: the graph to look at."""
        return next((check for check in self.checks if not check.ok), None)

    def table(self) -> str:
        """One line per check with its worst numbers, then every failure and note."""
        head = ("check", "", "cosine", "worst row", "norm ratio", "max error", "kept", "tokens")
        lines = [head, *(_line(check) for check in self.checks)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        for check in self.checks:
            text += [f"FAIL {check.name}: {failure}" for failure in check.failures]
            text += [f"note {check.name}: {note}" for note in check.notes]
        return "\n".join(text)

    def to_json(self) -> str:
        """The same with the limits that applied; a number that is not finite is null."""
        fields = dataclasses.asdict(self)
        fields["ok"] = self.ok
        fields["first_failure"] = self.first_failure.name if self.first_failure else None
        fields["limits"] = {kind: dataclasses.asdict(LIMITS[self.dtype, kind]) for kind in get_args(Kind)}
        return json.dumps(_finite(fields), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, folder: Path) -> Path:
        """Write ``verify.json`` in a bundle's folder; an older one stays whole until it is replaced.

        Raises:
            OutputError: the folder cannot be written to.
        """
        path = folder / NAME
        try:
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=folder, prefix=f".{NAME}.", delete=False
            ) as stream:
                work = Path(stream.name)
                stream.write(self.to_json())
            work.chmod(0o644)  # temporary files are private
            os.replace(work, path)  # noqa: PTH105 - Path.replace says less clearly that it overwrites
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from error
        return path


def _line(check: Check) -> tuple[str, ...]:
    """Cells of the table: the worst of all outputs."""
    worst = ["", "", "", ""]
    if check.differences:
        ratio = max((d.norm_ratio for d in check.differences), key=lambda value: _badness(abs(value - 1)))
        worst = [
            f"{min((d.cosine for d in check.differences), key=lambda value: -_badness(1 - value)):.7f}",
            f"{min((d.worst_cosine for d in check.differences), key=lambda value: -_badness(1 - value)):.7f}",
            f"{ratio:.6f}",
            f"{max((d.max_error for d in check.differences), key=_badness):.1e}",
        ]
    shares = ["" if share is None else f"{share:.1%}" for share in (check.kept, check.tokens)]
    return (check.name, "ok" if check.ok else "FAIL", *worst, *shares)


def _badness(value: float) -> float:
    """NaN is worse than anything."""
    return math.inf if math.isnan(value) else value


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
