"""PyramidDrop: the last prompt token's attention as the layer after each cut sees it; nothing is merged.

Cuts at a quarter, half and three quarters of the depth (8, 16, 24 of 32); positions are counted anew after each.
"""

from __future__ import annotations

from tests.reference import llava
from tests.reference.pruning import Prompt, Pruned, Stage
from tests.reference.visiondrop import top_k

POSITIONS = "repack"


def cuts(layers: int) -> tuple[int, ...]:
    """Give the layers before which the decoder is cut."""
    return layers // 4, layers // 2, 3 * layers // 4


def scores(prompt: Prompt) -> llava.Array:
    """Score visual rows by the last row's attention, mean over heads.

    Queries and keys are what the next layer's norm and projections make of the rows as they are, with the
    positions of the segment that just ended. The softmax runs over the whole row, not the visual columns alone:
    heads are averaged after it.
    """
    q, k = llava.layer_queries_keys(prompt.w, prompt.layer, prompt.hidden, prompt.positions)
    attention = llava.causal_attention(q[:, -1:], k)[:, 0].mean(axis=0)
    result: llava.Array = attention[prompt.places]
    return result


def cut(prompt: Prompt, stage: Stage) -> Pruned:
    """Keep the rows with the highest scores, in their order."""
    if stage.merge:
        raise ValueError("PyramidDrop merges nothing")
    kept = top_k(scores(prompt), stage.keep)
    return Pruned(prompt.hidden[prompt.places[kept]], kept)
