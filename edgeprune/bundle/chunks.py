"""The pieces in which a reader may run a segment on a prompt's rows (section "Running", rule 2)."""

from __future__ import annotations


def chunks(rows: int, size: int | None) -> tuple[range, ...]:
    """Pieces of about one length, which is ``size`` or somewhat more: every piece reads the weights once more.

    Args:
        rows: of the prompt, 1 or more.
        size: rows of a piece; None for all of them.
    """
    count = max(1, rows // size) if size else 1
    return tuple(range(rows * index // count, rows * (index + 1) // count) for index in range(count))
