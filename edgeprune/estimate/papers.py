"""FLOPs as the pruning papers count them, in two conventions. ``request`` counts what our graphs really do.

1. ``*_macs``: multiply-accumulates of the decoder. A layer with n rows takes 4 n d^2 + 2 n^2 d + k n d m: projections,
   full (not causal) attention, and k matrices of the feed-forward. PyramidDrop and SparseVLM count three matrices,
   FastV two. PyramidDrop counts visual rows alone, FastV those and 36 of the system prompt, SparseVLM all rows. A
   multiply-accumulate counts once; encoder, projector and head are left out.
2. ``whole_model_flops``: what a profiler counts of the whole model in PyTorch, two FLOPs per multiply-accumulate. It
   gives the table of the VisionDrop paper, which says neither its prompt nor its tool; which prompts fit is in the
   tests.
"""

from __future__ import annotations

from itertools import pairwise

from edgeprune.budget.schedule import Schedule
from edgeprune.catalog.carry import CLIP
from edgeprune.estimate import encoder
from edgeprune.estimate.precision import precision
from edgeprune.estimate.shape import Shape

HIDDEN, INTERMEDIATE = 4096, 11008
"""Of LLaVA-1.5-7B, for which the papers state theirs."""

PROJECTIONS = {"visiondrop": 3}
"""Products with a D x D matrix that a method's own code makes of every row in front of each cut in the decoder:
VisionDrop's, the next layer's queries, keys and values. What other methods compute to score rows is not counted."""


def layer_macs(rows: float, matrices: int = 3, hidden: int = HIDDEN, intermediate: int = INTERMEDIATE) -> float:
    """One layer on ``rows`` rows."""
    return 4 * rows * hidden**2 + 2 * rows**2 * hidden + matrices * rows * hidden * intermediate


def visual_macs(schedule: Schedule, hidden: int = HIDDEN, intermediate: int = INTERMEDIATE) -> float:
    """All layers on the visual rows of a budget, at LLaVA-1.5-7B's widths if no others are given."""
    pruned = sum(
        stage.layers * layer_macs(stage.rows, hidden=hidden, intermediate=intermediate) for stage in schedule.stages
    )
    return schedule.whole * layer_macs(schedule.tokens, hidden=hidden, intermediate=intermediate) + pruned


def visual_share(schedule: Schedule) -> float:
    """The same over what it is without pruning."""
    layers = schedule.whole + sum(stage.layers for stage in schedule.stages)
    return visual_macs(schedule) / (layers * layer_macs(schedule.tokens))


def whole_model_flops(shape: Shape, text: int, schedule: Schedule | None = None, projections: int = 0) -> float:
    """The prompt through all of the model, by convention 2.

    All layers of the encoder, of CLIP's one more than a model reads; the projector on the rows that reach it; every
    decoder layer on all of its rows, by convention 1; the head on every row of the last layer; and what a method
    projects again.

    Args:
        shape: the model.
        text: rows that are no visual ones.
        schedule: what is left where; None keeps all.
        projections: of every row in front of each cut in the decoder, see ``PROJECTIONS``.
    """
    d = shape.decoder
    counts = [(shape.tokens, d.layers)]
    if schedule is not None:
        counts = [(shape.tokens, schedule.whole), *((stage.rows, stage.layers) for stage in schedule.stages)]
    early = schedule is not None and not isinstance(schedule.stages[0].cut, int)
    projected = schedule.first if schedule is not None and early else shape.given
    macs: float = shape.runs * encoder.run_macs(shape, more_layers=int(shape.tower == CLIP))
    macs += encoder.project_cost(shape, precision("fp16"), projected).flops / 2
    macs += sum(depth * layer_macs(rows + text, 3, d.hidden, d.intermediate) for rows, depth in counts)
    macs += (counts[-1][0] + text) * d.hidden * d.vocab
    before = [rows for (rows, depth), _ in pairwise(counts) if depth]
    macs += projections * sum(rows + text for rows in before) * d.hidden**2
    return 2 * macs
