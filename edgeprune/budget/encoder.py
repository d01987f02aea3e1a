"""One count before the decoder, nothing merged: every decoder layer sees as many rows as were asked for."""

from __future__ import annotations

from edgeprune.budget.schedule import Site, Stage


def reach(site: Site) -> tuple[int, int]:
    """From one row to all but one."""
    return 1, site.tokens - 1


def stages(keep: int, site: Site) -> tuple[Stage, ...]:
    """``keep`` rows, at the one place."""
    (place,), (weight,) = site.places, site.weights
    return (Stage(place, keep, 0, weight),)
