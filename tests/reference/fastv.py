"""FastV: the last prompt token's attention in the layer before the cut, layer 2 of 32; nothing is merged.

The variant with a KV cache: selection once, at prefill; rows keep the position ids they had.
"""

from __future__ import annotations

from tests.reference import llava
from tests.reference.pruning import Prompt, Pruned, Stage
from tests.reference.visiondrop import top_k

POSITIONS = "keep"


def cuts(layers: int) -> tuple[int, ...]:
    """Give the layer before which the decoder is cut: 2 of 32, the same fraction of another depth."""
    return (max(1, int(2 * layers / 32 + 0.5)),)


def scores(prompt: Prompt) -> llava.Array:
    """Score visual rows by the last row's probabilities in the layer that just ran, mean over heads.

    The softmax runs over the whole row; the visual columns are taken after it.
    """
    attention = llava.causal_attention(prompt.query[:, -1:], prompt.key)[:, 0].mean(axis=0)
    result: llava.Array = attention[prompt.places]
    return result


def cut(prompt: Prompt, stage: Stage) -> Pruned:
    """Keep the rows with the highest scores, in their order."""
    if stage.merge:
        raise ValueError("FastV merges nothing")
    kept = top_k(scores(prompt), stage.keep)
    return Pruned(prompt.hidden[prompt.places[kept]], kept)
