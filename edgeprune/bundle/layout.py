"""In what arrangement an encoder's rows enter the language model, as facts a bundle carries.

Knows nothing about rows at work: ``edgeprune.runtime.layout`` applies these facts to the pictures of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgeprune.errors import BundleError

KINDS = ("rows", "mosaic", "pooled")
"""See ``Layout``."""


@dataclass(frozen=True)
class Layout:
    """How a picture's or a video's rows are put together where nothing is pruned.

    Attributes:
        kind: "rows": run by run, as they are (LLaVA-1.5, Video-LLaVA, Qwen2.5-VL, InternVL).
            "mosaic" (LLaVA-NeXT, LLaVA-OneVision): the overview's rows, then those of the tiles line by line
            across the whole grid of tiles, without the lines or columns that only show padding.
            "pooled" (LLaVA-OneVision's video): every frame shrunk bilinearly to half its lines and columns, rounded
            up, frame by frame.
        newline: whether the model has a row of its own that ends every line of a mosaic, a picture of one run,
            and a pooled video. The other kinds have none.
        limit: of a mosaic, in tiles: one of more than 1.21 times as many rows is shrunk bilinearly to about that;
            None for no limit.

    Raises:
        BundleError: a value is of the wrong type or out of range, or does not go with the kind.
    """

    kind: str = "rows"
    newline: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        _require(self.kind in KINDS, "kind", self.kind, " or ".join(f'"{kind}"' for kind in KINDS))
        _require(isinstance(self.newline, bool), "newline", self.newline, "true or false")
        limit = self.limit
        is_limit = isinstance(limit, int) and not isinstance(limit, bool) and limit > 0
        _require(limit is None or is_limit, "limit", limit, "a positive integer or null")
        if self.kind == "rows":
            _require(not self.newline, "newline", self.newline, "false for kind 'rows'")
        if self.kind != "mosaic":
            _require(limit is None, "limit", limit, f"null for kind {self.kind!r}")

    @property
    def taps(self) -> int:
        """How many rows at most one row is blended from: 4 where something may be shrunk, 1 where rows only move."""
        return 4 if self.kind == "pooled" or self.limit is not None else 1


def _require(holds: bool, name: str, value: Any, expected: str) -> None:
    if not holds:
        raise BundleError(f"layout: {name}={value!r} is not {expected}")
