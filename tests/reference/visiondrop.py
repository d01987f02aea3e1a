"""VisionDrop visual-token pruning in plain numpy: what its public release computes, not the paper's wording.

One stage at the vision tower's output and one before each of a few decoder layers. Each stage keeps the
visual rows with the highest scores (dominants) and fuses the others into a few contextual rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tests.reference import llava
from tests.reference.llava import Array, KVCache, Weights

Indices = npt.NDArray[np.int64]


class Stage(NamedTuple):
    """How many rows a stage keeps as they are and how many it makes by fusing the others."""

    dominant: int
    contextual: int

    @property
    def visual(self) -> int:
        """Rows of the visual block after the stage."""
        return self.dominant + self.contextual


# --- primitives ---------------------------------------------------------------------------------------------


def top_k(scores: Array, k: int) -> Indices:
    """Give the positions of the k highest scores, ascending; of equal scores the lower position wins."""
    if not 0 <= k <= len(scores):
        raise ValueError(f"cannot take {k} of {len(scores)} scores")
    order = sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))
    return np.asarray(sorted(order[:k]), dtype=np.int64)


def reference_positions(remaining: int, contextual: int) -> list[int]:
    """Give the references among the non-dominant rows: a uniform stride that does not depend on scores."""
    if not 1 <= contextual <= remaining:
        raise ValueError(f"cannot make {contextual} contextual rows of {remaining}")
    step = max(1, remaining // contextual)
    return [j * step for j in range(contextual)]


def merge(x: Array, key: Array, keep: npt.NDArray[np.bool_], contextual: int) -> tuple[Array, Indices]:
    """Fuse the rows not kept; give the fused rows and the index in x of the reference of each.

    Every other row joins the reference with the most similar key by cosine (the first of equals). The release
    ADDS the mean of the joined rows to the reference; it does not average all. A reference that no row joins
    stays as it is.
    """
    rest = [i for i in range(len(x)) if not keep[i]]
    reference_of = [rest[j] for j in reference_positions(len(rest), contextual)]
    unit = key / np.sqrt((key**2).sum(axis=-1, keepdims=True))
    joined: list[list[int]] = [[] for _ in reference_of]
    for i in rest:
        if i not in reference_of:
            similarity = [float(unit[i] @ unit[r]) for r in reference_of]
            joined[similarity.index(max(similarity))].append(i)
    fused = [
        x[r] + (x[members].sum(axis=0) / len(members) if members else 0)
        for r, members in zip(reference_of, joined, strict=True)
    ]
    return np.stack(fused), np.asarray(reference_of, dtype=np.int64)


def compress(x: Array, key: Array, dominants: Indices, contextual: int) -> tuple[Array, Indices]:
    """Give [dominant rows ascending, contextual rows in reference order] and the source index of each row.

    Zero contextual rows, which the release never uses, means that the other rows are dropped.
    """
    if contextual == 0:
        return x[dominants], dominants
    keep = np.zeros(len(x), dtype=np.bool_)
    keep[dominants] = True
    fused, references = merge(x, key, keep, contextual)
    return np.concatenate([x[dominants], fused]), np.concatenate([dominants, references])


# --- stages -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pruned:
    """The rows that leave a stage, where they came from in its input, and the scores it chose by."""

    rows: Array
    kept: Indices
    scores: Array  # of all rows that entered; at the encoder stage of the patches, without CLS


def encoder_stage(vision: llava.Vision, stage: Stage) -> Pruned:
    """Prune at the vision tower's output, before the projector (the VisionZip procedure).

    A patch scores the sum over heads of the attention CLS pays it, inside the layer whose output is the
    selected feature. CLS always stays, first, and counts as a dominant. Merge keys: mean over heads.
    """
    if stage.dominant < 1:
        raise ValueError("CLS is always dominant: at least one dominant row")
    scores = vision.cls_attention.sum(axis=0)[1:]
    patches = top_k(scores, stage.dominant - 1) + 1
    dominants = np.concatenate([np.zeros(1, dtype=np.int64), patches])
    rows, kept = compress(vision.features, vision.keys.mean(axis=0), dominants, stage.contextual)
    return Pruned(rows, kept, scores)


def visual_scores(q: Array, k: Array, places: Indices) -> Array:
    """Score visual rows by the attention that visual queries pay them.

    The softmax runs over the whole causal row, text before the image included; then mean over heads, visual
    columns only, mean over all visual queries with the causally hidden zeros counted in (release code).
    """
    attention = llava.causal_attention(q, k).mean(axis=0)
    result: Array = attention[places][:, places].mean(axis=0)
    return result


def decoder_stage(w: Weights, layer: int, h: Array, positions: Array, places: Indices, stage: Stage) -> Pruned:
    """Prune the visual rows of h, which is the input of `layer`; text between them stays in the softmax.

    The queries and keys are what that layer itself would compute for h with the positions of the segment that
    just ended (release code). Merge keys: the rotated ones, mean over key heads. Gives the visual rows only.
    """
    q, k = llava.layer_queries_keys(w, layer, h, positions)
    scores = visual_scores(q, k, places)
    rows, kept = compress(h[places], k.mean(axis=0)[places], top_k(scores, stage.dominant), stage.contextual)
    return Pruned(rows, kept, scores)


# --- budgets ------------------------------------------------------------------------------------------------


def default_cuts(layers: int) -> tuple[int, int, int]:
    """Give the layers before which the decoder is cut: a quarter, half, three quarters (8, 16, 24 of 32)."""
    return layers // 4, layers // 2, 3 * layers // 4


def decay(layers_per_stage: Sequence[int], first: float = 1.5) -> float:
    """Solve sum_k layers_k * first * rho**k = sum_k layers_k for rho in (0, 1) by bisection."""
    total = sum(layers_per_stage)

    def excess(rho: float) -> float:
        return sum(n * first * rho**k for k, n in enumerate(layers_per_stage)) - total

    low, high = 0.0, 1.0
    if not excess(low) < 0 < excess(high):
        raise ValueError(f"no decay makes {list(layers_per_stage)} layers average to the budget")
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return (low + high) / 2


def visual_counts(budget: int, layers: int, cuts: Sequence[int] | None = None, first: float = 1.5) -> list[int]:
    """Give the visual rows of every segment such that they average to the budget over the decoder layers.

    The first segment has 1.5 times the budget, later ones decay geometrically; halves round up.
    """
    edges = [0, *(default_cuts(layers) if cuts is None else cuts), layers]
    spans = [b - a for a, b in itertools.pairwise(edges)]
    rho = decay(spans, first)
    return [math.floor(first * budget * rho**k + 0.5) for k in range(len(spans))]


def schedule_for(budget: int, layers: int, cuts: Sequence[int] | None = None) -> list[Stage]:
    """Give the stages for a budget; one eighth of every stage, rounded up, is contextual."""
    return [Stage(v - math.ceil(v / 8), math.ceil(v / 8)) for v in visual_counts(budget, layers, cuts)]


# --- the whole model ----------------------------------------------------------------------------------------


@dataclass
class Prefill:
    """What a prefill leaves behind; a segment is the layers between two cuts."""

    logits: Array  # [vocabulary], of the last row
    segments: list[range]  # the layers of each segment
    stages: list[Pruned]  # at the encoder stage the rows are as before the projector
    positions: list[Indices]  # per segment: position ids 0..S_g-1
    cache: KVCache = field(repr=False)  # per layer
    fed: int = 0  # generated tokens fed back so far

    @property
    def kept(self) -> list[Indices]:
        """Per stage: the source of each visual row, see `prefill`."""
        return [stage.kept for stage in self.stages]

    @property
    def lengths(self) -> list[int]:
        """Rows of each segment at prefill (S_g)."""
        return [len(p) for p in self.positions]

    @property
    def cache_lengths(self) -> list[int]:
        """Rows in the cache of each layer."""
        return [0 if kv is None else kv[0].shape[1] for kv in self.cache]


def prefill(
    w: Weights,
    pixel_values: Array,
    ids_before: Sequence[int],
    ids_after: Sequence[int],
    schedule: Sequence[Stage] | None,
    cuts: Sequence[int] | None = None,
) -> Prefill:
    """Run the prompt [ids_before, image, ids_after] with pruning.

    The schedule holds one stage for the encoder and one for every cut; None means plain LLaVA: no pruning, no
    CLS row. `kept` gives, for each visual row that leaves a stage, its index among the visual rows that
    entered; a fused row is given by its reference. At the encoder stage index 0 is CLS and patch p is p + 1.
    """
    cuts = () if schedule is None else default_cuts(w.layers) if cuts is None else tuple(cuts)
    if schedule is not None and len(schedule) != len(cuts) + 1:
        raise ValueError("one stage for the encoder and one for every cut")
    edges = [0, *cuts, w.layers]
    if any(a >= b for a, b in itertools.pairwise(edges)):
        raise ValueError(f"cuts {cuts} leave a segment without layers")
    vision = llava.vision_tower(w, pixel_values)
    pruned = [] if schedule is None else [encoder_stage(vision, schedule[0])]
    visual = llava.project(w, pruned[0].rows if pruned else vision.features[1:])
    start, count = len(ids_before), len(visual)
    h = np.concatenate([llava.embed(w, ids_before), visual, llava.embed(w, ids_after)])
    segments = [range(a, b) for a, b in itertools.pairwise(edges)]
    cache: KVCache = [None] * w.layers
    positions: list[Indices] = []
    for g, layers in enumerate(segments):
        if g > 0 and schedule is not None:
            places = np.arange(start, start + count, dtype=np.int64)
            result = decoder_stage(w, layers.start, h, positions[-1], places, schedule[g])
            h = np.concatenate([h[:start], result.rows, h[start + count :]])
            count = len(result.rows)
            pruned.append(result)
        positions.append(np.arange(len(h), dtype=np.int64))  # counted anew after every stage
        h = llava.decoder_layers(w, layers, h, positions[-1], cache)
    logits = llava.output_logits(w, h[-1:])[0]
    return Prefill(logits, segments, pruned, positions, cache)


@dataclass(frozen=True)
class Decoded:
    """Logits [steps, vocabulary] after each token fed back, and its position ids [steps, segments]."""

    logits: Array
    positions: Indices


def decode(w: Weights, state: Prefill, token_ids: Sequence[int]) -> Decoded:
    """Feed given tokens back one by one; token j has position S_g + j in the layers of segment g.

    The caches of `state` grow, so a second call goes on where the first one stopped. Nothing is pruned here.
    """
    logits, positions = [], []
    for token in token_ids:
        at = [length + state.fed for length in state.lengths]
        h = llava.embed(w, [token])
        for layers, position in zip(state.segments, at, strict=True):
            h = llava.decoder_layers(w, layers, h, np.asarray([position]), state.cache)
        logits.append(llava.output_logits(w, h)[0])
        positions.append(at)
        state.fed += 1
    return Decoded(np.asarray(logits), np.asarray(positions, dtype=np.int64))
