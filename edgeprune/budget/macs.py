"""Multiply-accumulates of a Llama decoder's prefill as the pruning papers count them.

A layer with n rows takes 4 n d^2 + 2 n^2 d + k n d m: projections, full (not causal) attention, and k matrices of the
feed-forward. PyramidDrop and SparseVLM count three matrices, FastV two. PyramidDrop counts visual rows alone, FastV
those and 36 of the system prompt, SparseVLM all rows. A multiply-accumulate counts once; a FLOP count is twice that.
Encoder, projector and head are left out. ``bench.cost`` counts what our graphs really do.
"""

from __future__ import annotations

from edgeprune.budget.schedule import Schedule

HIDDEN, INTERMEDIATE = 4096, 11008
"""Of LLaVA-1.5-7B, for which the papers state theirs."""


def layer_macs(rows: float, matrices: int = 3, hidden: int = HIDDEN, intermediate: int = INTERMEDIATE) -> float:
    """One layer on ``rows`` rows."""
    return 4 * rows * hidden**2 + 2 * rows**2 * hidden + matrices * rows * hidden * intermediate


def visual_macs(schedule: Schedule) -> float:
    """All layers of LLaVA-1.5-7B's widths on the visual rows of a budget."""
    pruned = sum(stage.layers * layer_macs(stage.keep) for stage in schedule.stages)
    return schedule.whole * layer_macs(schedule.tokens) + pruned


def visual_share(schedule: Schedule) -> float:
    """The same over what it is without pruning."""
    layers = schedule.whole + sum(stage.layers for stage in schedule.stages)
    return visual_macs(schedule) / (layers * layer_macs(schedule.tokens))
