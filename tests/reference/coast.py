"""COAST (arXiv 2605.09429) in plain numpy, as reconstructed: no release exists.

One cut in the decoder. Anchors are the rows that the last prompt row attends to most. The other rows are ranked
by how close they are to an anchor and how far from the rows no text attends to; both ends of that ranking are
kept, and the entropy of the attention decides how the rest of the budget is split between them.
"""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import numpy as np

from tests.reference.llava import Array, causal_attention
from tests.reference.pruning import Indices, Prompt, Pruned, Stage

POSITIONS = "keep"
ANCHOR_RATIO = 0.8
ALPHA_MIN, ALPHA_MAX = 0.05, 0.15


def cuts(layers: int) -> tuple[int, ...]:
    """Give the layer before which the decoder is cut: 2 of 32, 14 of the 28 of Qwen2.5-VL-7B."""
    return (14 if layers == 28 else max(1, int(2 * layers / 32 + 0.5)),)


def text_to_visual(prompt: Prompt) -> Array:
    """Give the attention [t, N] of the rows behind the last visual one to those, in the layer before the cut."""
    attention = causal_attention(prompt.query[:, prompt.end :], prompt.key).mean(axis=0)
    result: Array = attention[:, prompt.places]
    return result


def entropy(scores: Array) -> float:
    """Give the entropy of the scores as a distribution, 1 where they are all equal."""
    if len(scores) == 1:
        return 0.0
    p = scores / scores.sum()
    return -sum(float(v) * math.log(max(float(v), 1e-12)) for v in p) / math.log(len(p))


def split(count: int, keep: int, dispersion: float, alpha_base: str, anchor_ratio: float) -> tuple[int, int, int, int]:
    """Give how many rows are anchors, references, and kept at the high and the low end of the ranking."""
    anchors = math.floor(anchor_ratio * keep + 1e-9)
    rest = keep - anchors
    references = max(1, min(count // 10, count - anchors - keep))
    base = {"keep": keep, "rest": rest}[alpha_base]
    low = math.floor(base * (ALPHA_MIN + (ALPHA_MAX - ALPHA_MIN) * dispersion) + 1e-6)
    low = rest if rest <= 1 else min(max(low, 1), rest - 1)
    return anchors, references, rest - low, low


def select(
    hidden: Array, attention: Array, keep: int, alpha_base: str = "keep", anchor_ratio: float = ANCHOR_RATIO
) -> Indices:
    """Choose among visual rows [N, D] by the attention [t, N] that text rows pay them."""
    count = len(hidden)
    strongest, last = attention.max(axis=0), attention[-1]
    n_anchors, n_references, n_high, n_low = split(count, keep, entropy(strongest), alpha_base, anchor_ratio)
    anchors = sorted(range(count), key=lambda j: (-last[j], j))[:n_anchors]
    references = sorted(range(count), key=lambda j: (strongest[j], j))[:n_references]
    unit = hidden / np.sqrt((hidden**2).sum(axis=-1, keepdims=True))
    score = []
    for j in range(count):
        # A budget of one row leaves no anchor to be close to.
        aligned = max((float(unit[j] @ unit[a]) for a in anchors), default=0.0)
        score.append(aligned - sum(float(unit[j] @ unit[r]) for r in references) / n_references)
    others = [j for j in range(count) if j not in anchors]
    high = sorted(others, key=lambda j: (-score[j], j))[:n_high]
    others = [j for j in others if j not in high]  # of equal scores, no row is in both ends
    low = sorted(others, key=lambda j: (score[j], j))[:n_low]
    return np.asarray(sorted(anchors + high + low), dtype=np.int64)


def cut(prompt: Prompt, stage: Stage, alpha_base: str = "keep", anchor_ratio: float = ANCHOR_RATIO) -> Pruned:
    """Prune the visual rows before a decoder layer."""
    rows = prompt.hidden[prompt.places]
    kept = select(rows, text_to_visual(prompt), stage.keep, alpha_base, anchor_ratio)
    return Pruned(rows[kept], kept)


# What the share of the low end multiplies, the budget or what the anchors leave of it: each a reference by itself.
KEEP_BASE = SimpleNamespace(POSITIONS=POSITIONS, cuts=cuts, cut=partial(cut, alpha_base="keep"))
REST_BASE = SimpleNamespace(POSITIONS=POSITIONS, cuts=cuts, cut=partial(cut, alpha_base="rest"))
