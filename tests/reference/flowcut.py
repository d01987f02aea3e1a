"""FlowCut (arXiv 2505.19536) in plain numpy: patches leave between the encoder's layers, as in its release.

Every layer scores the patches by class attention, likeness of their values to the class row's and size of their
values; scores accumulate. After every other layer some patches leave: more where the attention is focused. Of a picture
in tiles half of the budget of every tile is left then, and an early cut in the decoder keeps the budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tests.reference import llava
from tests.reference.llava import Array, Weights, _layer_norm, _patch_rows, _setting
from tests.reference.pruning import Indices, Prompt, Pruned, Stage

POSITIONS = "repack"
LOG_FLOOR = 1e-30  # an attention that underflows contributes nothing to the entropy


def cuts(layers: int) -> tuple[int, ...]:
    """Give no layer: the decoder is not cut where a picture is one run."""
    return ()


def cuts_of_tiles(layers: int) -> tuple[int, ...]:
    """Give the layer before which the decoder is cut where a picture is tiles: 2 of 32, or as early."""
    return (max(1, math.floor(layers / 16 + 0.5)),)


def selected_layer(w: Weights) -> int:
    """Give the encoder layer whose output is projected (LLaVA-1.5: 22 of 0..23)."""
    total, index = int(_setting(w.vision, "num_hidden_layers", 24)), _setting(w.config, "vision_feature_layer", -2)
    return int(index if index >= 0 else total + 1 + index) - 1  # hidden_states has the embeddings first


def encoder_layer(w: Weights, index: int, x: Array) -> tuple[Array, Array, Array]:
    """Run one layer; give its output, the attention [H, 1 + n] of the class row, and the values [H, 1 + n, d]."""
    at, heads = f"vision.encoder.layers.{index}", int(_setting(w.vision, "num_attention_heads", 16))
    normed = _layer_norm(w, f"{at}.layer_norm1", x)
    q, k, v = (llava.split_heads(w.linear(f"{at}.self_attn.{p}_proj", normed), heads) for p in ("q", "k", "v"))
    attention = llava.softmax(q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]))
    x = x + w.linear(f"{at}.self_attn.out_proj", llava.join_heads(attention @ v))
    act = str(_setting(w.vision, "hidden_act", "quick_gelu"))
    inner = llava.activation(act, w.linear(f"{at}.mlp.fc1", _layer_norm(w, f"{at}.layer_norm2", x)))
    return x + w.linear(f"{at}.mlp.fc2", inner), attention[:, 0], v


def score(attention: Array, values: Array) -> Array:
    """Score the patches of one layer; the products of values are not divided by the root of their size."""
    a = attention.mean(axis=0)[1:]
    s = llava.softmax((values @ values[:, 0, :, None])[..., 0]).mean(axis=0)[1:]
    size = np.abs(values.mean(axis=0)[1:]).sum(axis=-1)
    result: Array = (a / a.sum() + s / s.sum()) * size
    return result


def leaving_patches(attention: Array, keep: int, layers_left: int) -> int:
    """Give how many patches leave after a prune point, by the class row's attention to the patches."""
    count = len(attention)
    if layers_left == 0:
        return count - keep
    p = attention / attention.sum()
    entropy = -sum(float(v) * math.log(max(float(v), LOG_FLOOR)) for v in p) / math.log(count)
    return round((count - keep) / math.sqrt(layers_left) * (1 - entropy**2))  # halves go to the even number


def remaining_patches(attention: Array, keep: int, layers_left: int) -> int:
    """Give how many patches of a single run stay after a prune point."""
    return max(len(attention) - leaving_patches(attention, keep, layers_left), keep)


def prune_runs(w: Weights, pixel_values: Sequence[Array], keep: int) -> list[tuple[Array, list[Indices]]]:
    """Run the encoder; give per run the selected output, class row first, and the patches alive after every layer.

    After a prune point all runs have lost as many patches as the one that loses most.
    """
    selected = selected_layer(w)
    xs = [_patch_rows(w, pixels) for pixels in pixel_values]
    count = len(xs[0]) - 1
    if not 1 <= keep <= count or (selected == 0 and keep < count):
        raise ValueError(f"cannot keep {keep} of {count} patches before layer {selected}")
    alive = [np.arange(count, dtype=np.int64) for _ in xs]
    standing = [np.zeros(count) for _ in xs]
    history: list[list[Indices]] = [[] for _ in xs]
    for index in range(selected + 1):
        seen = [encoder_layer(w, index, x) for x in xs]
        xs = [x for x, _, _ in seen]
        if index < selected and count > keep:
            now = [score(attention, values) for _, attention, values in seen]
            standing = now if index == 0 else [0.5 * a + 0.5 * b for a, b in zip(standing, now, strict=True)]
            left = selected - 1 - index
            if left % 2 == 0:
                count -= max(leaving_patches(a.mean(axis=0)[1:], keep, left) for _, a, _ in seen)
                count = max(count, keep)
                for run, own in enumerate(standing):
                    order = np.sort(np.argsort(-own, kind="stable")[:count])
                    alive[run], standing[run] = alive[run][order], own[order]
                    xs[run] = np.concatenate([xs[run][:1], xs[run][1:][order]])
        for run, patches in enumerate(alive):
            history[run].append(patches)
    return list(zip(xs, history, strict=True))


def prune(w: Weights, pixel_values: Array, keep: int) -> tuple[Array, list[Indices]]:
    """Run the encoder on a single run; see `prune_runs`."""
    return prune_runs(w, [pixel_values], keep)[0]


def encoder_runs(w: Weights, pixel_values: Sequence[Array], keep: int) -> list[Pruned]:
    """Run the pruning encoder and give the patches of its selected output, without the class row."""
    return [Pruned(rows[1:], history[-1]) for rows, history in prune_runs(w, pixel_values, keep)]


def encoder(w: Weights, pixel_values: Array, keep: int) -> Pruned:
    """Run the pruning encoder on a single run."""
    return encoder_runs(w, [pixel_values], keep)[0]


def row_score(query: Array, key: Array, value: Array, places: Indices) -> Array:
    """Score the visual rows before a cut in the decoder by the last row of the layer that ran.

    Queries [H, S, d], keys and values [G, S, d] of that layer; every query head has its group's keys and values.
    """
    heads, root = len(query), math.sqrt(query.shape[-1])
    serves = [head * len(key) // heads for head in range(heads)]
    attention, likeness, mean = np.zeros(len(places)), np.zeros(len(places)), np.zeros((len(places), query.shape[-1]))
    for head, group in enumerate(serves):
        attention += llava.softmax(np.array([query[head, -1] @ key[group, row] for row in places]) / root)
        likeness += llava.softmax(np.array([value[group, -1] @ value[group, row] for row in places]) / root)
        mean += value[group, places] / heads
    result: Array = (attention / attention.sum() + likeness / likeness.sum()) * np.abs(mean).sum(axis=-1)
    return result


def cut(prompt: Prompt, stage: Stage) -> Pruned:
    """Keep the visual rows of the highest score in the layer before the cut; the history of the encoder is gone."""
    scores = row_score(prompt.query, prompt.key, prompt.value, prompt.places)
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    kept = np.asarray(sorted(order[: stage.keep]), dtype=np.int64)
    return Pruned(prompt.hidden[prompt.places[kept]], kept)
