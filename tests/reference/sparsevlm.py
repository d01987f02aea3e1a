"""SparseVLM: text tokens that the image speaks to rate the visual rows at three layers.

The module is v1.5, which recycles a part of the pruned rows as cluster means; `PLUS` is SparseVLM+ (v2.0), which
recycles nothing but corrects the attention for distance and selects heads.

A release layer l of 2, 6, 15 prunes its own output by its own attention: the cut is before layer l + 1.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np

from tests.reference import llava
from tests.reference.llava import Array
from tests.reference.pruning import Indices, Prompt, Pruned, Stage
from tests.reference.visiondrop import top_k

POSITIONS = "repack"
PLUS_HEADS = 14  # hard-coded in the release for any number of heads


def cuts(layers: int) -> tuple[int, ...]:
    """Give the layers before which the decoder is cut: 3, 7, 16 of 32, the same fractions of another depth."""
    out: list[int] = []
    for at in (3, 7, 16):
        least = out[-1] + 1 if out else 1
        out.append(max(least, int(at * layers / 32 + 0.5)))
    return tuple(out)


# --- scores -------------------------------------------------------------------------------------------------


def raters(visual: Array, after: Array) -> list[int]:
    """Give the text rows after the image that rate, from the rows at the decoder's input.

    Every visual row spreads one unit over the text by softmax of plain dot products; a text row that gets more
    than the mean rates. Where none does (one text row, equal ones), all rate: the release would divide by zero.
    """
    share = llava.softmax(visual @ after.T).mean(axis=0)
    above = [i for i in range(len(share)) if share[i] > share.mean()]
    return above or list(range(len(share)))


def rated_attention(prompt: Prompt) -> Array:
    """Give the raters' probabilities of visual columns [heads, raters, visual] in the layer before the cut.

    The softmax runs over the whole causal row; the visual columns are taken after it.
    """
    attention = llava.causal_attention(prompt.query[:, prompt.end :], prompt.key)
    result: Array = attention[:, raters(prompt.visual, prompt.after)][:, :, prompt.places]
    return result


# --- recycling ----------------------------------------------------------------------------------------------


def recycling(pruned: int) -> tuple[int, int]:
    """Give how many of the pruned rows are recycled, and into how many clusters."""
    recycled = int(0.3 * pruned) + 1
    return recycled, int(recycled / 10) + 1


def distances(x: Array) -> Array:
    """Give the distance of every two rows over the root of their width; exactly symmetric."""
    out = np.zeros((len(x), len(x)))
    for i in range(len(x)):
        for j in range(len(x)):
            out[i, j] = math.sqrt(float(((x[i] - x[j]) ** 2).sum())) / math.sqrt(x.shape[1])
    return out


def centres(distance: Array, clusters: int) -> list[int]:
    """Give DPC-kNN's cluster centres: dense rows far from any denser one, best first.

    The neighbours that make a row's density include the row itself, at distance zero. The release adds noise to
    tell equal densities apart; here the lower of two equally dense rows counts as the denser.
    """
    n = len(distance)
    density = [math.exp(-float((np.sort(distance[i])[:clusters] ** 2).mean())) for i in range(n)]
    product = []
    for i in range(n):
        denser = [j for j in range(n) if density[j] > density[i] or (density[j] == density[i] and j < i)]
        # The densest row of all has no denser one: it is as far away as any two rows are.
        delta = min((float(distance[i, j]) for j in denser), default=float(distance.max()))
        product.append(delta * density[i])
    return sorted(range(n), key=lambda i: (-product[i], i))[:clusters]


def clusters_of(distance: Array, chosen: list[int]) -> list[list[int]]:
    """Give the rows of each centre's cluster: the nearest centre, the first of equals; a centre joins itself."""
    members: list[list[int]] = [[] for _ in chosen]
    for i in range(len(distance)):
        to_centre = [float(distance[i, c]) for c in chosen]
        nearest = chosen.index(i) if i in chosen else to_centre.index(min(to_centre))
        members[nearest].append(i)
    return members


def recycle(x: Array, score: Array, pruned: Indices, clusters: int) -> tuple[Array, Indices]:
    """Fuse the best of the pruned rows of x into clusters; give their means and the centres' indices in x."""
    count, expected = recycling(len(pruned))
    if clusters != expected:
        raise ValueError(f"{len(pruned)} pruned rows make {expected} clusters, not {clusters}")
    recycled = pruned[top_k(score[pruned], count)]
    distance = distances(x[recycled])
    chosen = centres(distance, clusters)
    means = [
        x[recycled[members]].sum(axis=0) / (len(members) + 1e-6)  # the release's guard, part of its values
        for members in clusters_of(distance, chosen)
    ]
    return np.stack(means), recycled[chosen]


def cut(prompt: Prompt, stage: Stage) -> Pruned:
    """Give the best rows in their order, then the cluster rows, each at the index of its centre (v1.5).

    No merged rows means that the other rows are dropped.
    """
    x = prompt.hidden[prompt.places]
    score = rated_attention(prompt).mean(axis=0).mean(axis=0)
    kept = top_k(score, stage.keep - stage.merge)
    if stage.merge == 0:
        return Pruned(x[kept], kept)
    pruned = np.asarray([i for i in range(len(x)) if i not in kept], dtype=np.int64)
    rows, at = recycle(x, score, pruned, stage.merge)
    return Pruned(np.concatenate([x[kept], rows]), np.concatenate([kept, at]))


# --- SparseVLM+ ---------------------------------------------------------------------------------------------


def gravity(prompt: Prompt) -> Array:
    """Give what the rotary embedding alone makes of the distance of each rater and visual row.

    It is the scaled inner product of two rotated rows of ones.
    """
    axes = llava.position_axes(prompt.w, prompt.positions)  # [S, frequencies]
    rating = axes[prompt.end :][raters(prompt.visual, prompt.after)]
    angle = (rating[:, None] - axes[None, prompt.places]) * prompt.w.inv_freq
    result: Array = 2 / math.sqrt(prompt.w.head_dim) * np.cos(angle).sum(axis=-1)
    return result


def cut_plus(prompt: Prompt, stage: Stage) -> Pruned:
    """Keep the best rows by the heads that attend most to the image, after the gravity correction.

    Corrected probabilities are not normalised again.
    """
    if stage.merge:
        raise ValueError("SparseVLM+ merges nothing")
    corrected = rated_attention(prompt) / gravity(prompt)
    heads = top_k(corrected.sum(axis=(1, 2)), min(PLUS_HEADS, len(corrected)))
    kept = top_k(corrected[heads].mean(axis=0).mean(axis=0), stage.keep)
    return Pruned(prompt.hidden[prompt.places[kept]], kept)


PLUS = SimpleNamespace(POSITIONS="keep", cuts=cuts, cut=cut_plus)
