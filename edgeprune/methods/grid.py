"""The patch grid that tables of a method are made for."""

from __future__ import annotations

from edgeprune.bundle.sizes import Vision
from edgeprune.errors import UsageError


def fixed_grid(vision: Vision, method: str, why: str) -> tuple[int, int]:
    """The grid of an encoder whose pictures all have the same.

    Args:
        vision: the encoder.
        method, why: for the error, what wants to know: "sts", "spreads patches over the grid".

    Raises:
        UsageError: every picture has a grid of its own.
    """
    if vision.grid is None:
        raise UsageError(
            f"{method} {why}, which has to be known at export, and this model gives every picture a grid of its own; "
            "take another method: see edgeprune list methods"
        )
    return vision.grid
