"""One thing that was looked at: what it is about, how it stands, what was found, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Level = Literal["ok", "note", "missing"]


@dataclass(frozen=True)
class Finding:
    """A judgement on one subject.

    Attributes:
        subject: "driver", "tensorrt", "memory", ...
        level: "ok"; "note", worth knowing but in nobody's way; "missing", something does not work without it.
        found: one line.
        mend: the command that mends it; never None where something is missing.
    """

    subject: str
    level: Level
    found: str
    mend: str | None = None

    def __post_init__(self) -> None:
        if self.level not in get_args(Level):
            raise ValueError(f"level {self.level!r}; expected one of {', '.join(get_args(Level))}")
        if self.level == "missing" and not self.mend:
            raise ValueError(f"{self.subject} is missing, but nothing mends it: {self.found}")
        if "\n" in self.found + (self.mend or ""):
            raise ValueError(f"{self.subject} takes more than one line: {self.found!r}, {self.mend!r}")
