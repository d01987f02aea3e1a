"""Golden checks of FastV, PyramidDrop, SparseVLM, VisionZip, the floors and the driver: published counts, by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from tests.reference import (
    fastv,
    floor,
    llava,
    pruned,
    pruning,
    pyramiddrop,
    sparsevlm,
    visiondrop,
    visionzip,
)
from tests.reference.llava import Array, KVCache, Weights
from tests.reference.pruning import Indices, Prompt, Pruned, Stage, Tower
from tests.reference.test_reference import tiny_config, tiny_weights

BEFORE, AFTER = [1, 5, 9], [7, 3, 2, 8]


def make_tower(patches: int, seed: int = 0, heads: int = 2, width: int = 6) -> Tower:
    """Make a tower of random content, two layers deep."""
    rng = np.random.default_rng(seed)
    side = math.isqrt(patches)
    cls = [llava.softmax(rng.normal(size=(heads, 1 + patches))) for _ in range(2)]
    keys, values = ([rng.normal(size=(heads, 1 + patches, 3)) for _ in range(2)] for _ in range(2))
    return Tower((side, side), rng.normal(size=(1 + patches, width)), cls, keys, values)


def make_prompt(w: Weights, before: int, count: int, after: int, seed: int = 0, layer: int = 2) -> Prompt:
    """Make a cut of random content; the visual rows at the input are random, too."""
    rng = np.random.default_rng(seed)
    rows, width = before + count + after, w.heads * w.head_dim
    query, key = 2 * rng.normal(size=(w.heads, rows, w.head_dim)), rng.normal(size=(w.kv_heads, rows, w.head_dim))
    hidden, visual, text = (rng.normal(size=(n, width)) for n in (rows, count, after))
    value, at = rng.normal(size=key.shape), np.arange(rows, dtype=np.int64)
    return Prompt(w, layer, hidden, at, np.arange(before, before + count), query, key, value, visual, text)


def replaced(prompt: Prompt, **fields: Array) -> Prompt:
    return Prompt(**{**vars(prompt), **fields})


# --- where the decoder is cut -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "fast", "pyramid", "sparse"),
    [
        (32, (2,), (8, 16, 24), (3, 7, 16)),
        (40, (3,), (10, 20, 30), (4, 9, 20)),  # 2.5 and 8.75 round to 3 and 9
        (22, (1,), (5, 11, 16), (2, 5, 11)),
        (4, (1,), (1, 2, 3), (1, 2, 3)),  # every cut has a layer before it
    ],
)
def test_cuts(layers: int, fast: tuple[int, ...], pyramid: tuple[int, ...], sparse: tuple[int, ...]) -> None:
    assert fastv.cuts(layers) == fast
    assert pyramiddrop.cuts(layers) == pyramid
    assert sparsevlm.cuts(layers) == sparsevlm.PLUS.cuts(layers) == sparse
    assert visionzip.cuts(layers) == floor.UNIFORM.cuts(layers) == floor.RANDOM.cuts(layers) == ()


# --- FastV and PyramidDrop ----------------------------------------------------------------------------------


def test_fastv_scores_by_hand() -> None:
    """One text row, four visual rows, one text row; logits of the last row are logarithms, whole numbers inside."""
    w, _ = tiny_weights(tiny_config(num_attention_heads=2, num_key_value_heads=1, head_dim=4))
    query, key = np.zeros((2, 6, 4)), np.zeros((1, 6, 4))
    query[0, -1, 0] = query[1, -1, 1] = 2  # over the root of the head's size: 1
    key[0, :, 0] = np.log([4, 1, 2, 1, 1, 1])  # the first head: tenths
    key[0, :, 1] = np.log([1, 1, 1, 1, 15, 1])  # the second head: twentieths
    prompt = replaced(make_prompt(w, 1, 4, 1), query=query, key=key)
    np.testing.assert_allclose(fastv.scores(prompt), [0.075, 0.125, 0.075, 0.425])
    out = fastv.cut(prompt, Stage(2))
    assert out.kept.tolist() == [1, 3]
    np.testing.assert_array_equal(out.rows, prompt.hidden[[2, 4]])
    assert fastv.cut(prompt, Stage(3)).kept.tolist() == [0, 1, 3]  # of equal rows the lower one


def test_last_row_decides_and_equal_scores_keep_the_first_rows() -> None:
    w, _ = tiny_weights(tiny_config())
    prompt = make_prompt(w, 3, 9, 4)
    query = prompt.query.copy()
    query[:, :-1] = 0
    for method in (fastv, pyramiddrop):
        np.testing.assert_array_equal(fastv.scores(replaced(prompt, query=query)), fastv.scores(prompt))
        same = replaced(prompt, query=0 * query, hidden=np.ones_like(prompt.hidden))
        # PyramidDrop rotates equal rows by their positions: put all at one.
        same = replaced(same, positions=np.full(16, 5))
        assert method.cut(same, Stage(4)).kept.tolist() == [0, 1, 2, 3]
        np.testing.assert_allclose(method.scores(same), 1 / 16)


def test_pyramiddrop_equals_a_plain_computation() -> None:
    """One head at a time, with the next layer's norm and projections and the positions it is given."""
    w, _ = tiny_weights(tiny_config(num_key_value_heads=2))
    at = np.arange(34) * 3 + 1
    prompt = replaced(make_prompt(w, 3, 28, 3), positions=at)
    h = prompt.hidden / np.sqrt((prompt.hidden**2).mean(axis=1, keepdims=True) + 1e-5)
    h = h * w["text.layers.2.input_layernorm.weight"]
    q = h[-1] @ w["text.layers.2.self_attn.q_proj.weight"].T
    k = h @ w["text.layers.2.self_attn.k_proj.weight"].T
    scores = np.zeros(28)
    for head in range(4):
        logits = np.zeros(34)
        for row in range(34):
            for f, theta in enumerate((1.0, 10000.0**-0.5)):  # the halves of a head are real and imaginary parts
                a = complex(q[4 * head + f], q[4 * head + f + 2])
                b = complex(k[row, 4 * (head // 2) + f], k[row, 4 * (head // 2) + f + 2])
                turn = theta * (at[-1] - at[row])
                logits[row] += (a * b.conjugate() * complex(math.cos(turn), math.sin(turn))).real / 2
        scores += (np.exp(logits) / np.exp(logits).sum())[3:31] / 4
    np.testing.assert_allclose(pyramiddrop.scores(prompt), scores, rtol=1e-10)
    out = pyramiddrop.cut(prompt, Stage(7))
    assert out.kept.tolist() == sorted(np.argsort(-scores)[:7].tolist())
    np.testing.assert_array_equal(out.rows, prompt.hidden[3 + out.kept])


@pytest.mark.parametrize("method", ["fastv", "pyramiddrop", "sparsevlm"])
def test_softmax_domain_is_the_whole_row(method: str) -> None:
    """A softmax over visual columns only is a tempting shortcut: heads are averaged after it, so rows rank anew."""
    w, _ = tiny_weights(tiny_config())
    others = 0
    for seed in range(10):
        prompt = make_prompt(w, 5, 24, 6, seed)
        q, k = prompt.query, prompt.key
        if method == "pyramiddrop":
            q, k = llava.layer_queries_keys(w, prompt.layer, 2 * prompt.hidden, prompt.positions)
        if method == "sparsevlm":
            rating = 29 + np.asarray(sparsevlm.raters(prompt.visual, prompt.after))
            scores = sparsevlm.rated_attention(prompt).mean(axis=(0, 1))
        else:
            rating = np.asarray([34])
            scores = (fastv if method == "fastv" else pyramiddrop).scores(prompt)
        logits = q[:, rating] @ k[:, 5:29].transpose(0, 2, 1) / math.sqrt(w.head_dim)
        shortcut = llava.softmax(logits).mean(axis=(0, 1))
        assert np.argsort(scores).tolist() != np.argsort(shortcut).tolist()
        others += visiondrop.top_k(scores, 12).tolist() != visiondrop.top_k(shortcut, 12).tolist()
    assert others >= 2


@pytest.mark.parametrize("method", [fastv, pyramiddrop, sparsevlm.PLUS])
def test_methods_that_merge_nothing_say_so(method: pruned.Reference) -> None:
    w, _ = tiny_weights(tiny_config())
    with pytest.raises(ValueError, match="merges nothing"):
        method.cut(make_prompt(w, 3, 9, 4), Stage(5, 1))


# --- SparseVLM ----------------------------------------------------------------------------------------------


def test_raters_by_hand() -> None:
    visual = np.array([[math.log(2), 0.0]])
    assert sparsevlm.raters(visual, np.array([[0.0, 1], [1, 0], [0, 0]])) == [1]  # shares 1/4, 1/2, 1/4
    visual = np.array([[math.log(2), 0.0], [0, math.log(6)]])
    # Shares 2/4 1/4 1/4 and 1/8 6/8 1/8: means 5/16, 8/16, 3/16. The softmax is over the text, row by row.
    assert sparsevlm.raters(visual, np.array([[1.0, 0], [0, 1], [0, 0]])) == [1]


@pytest.mark.parametrize("after", [1, 3])
def test_all_rate_where_none_is_above_the_mean(after: int) -> None:
    assert sparsevlm.raters(np.ones((5, 2)), np.ones((after, 2))) == list(range(after))


def test_sparsevlm_scores_equal_a_plain_computation() -> None:
    w, _ = tiny_weights(tiny_config(num_key_value_heads=2))
    prompt = make_prompt(w, 3, 20, 5)
    rating = sparsevlm.raters(prompt.visual, prompt.after)
    assert 0 < len(rating) < 5
    scores = np.zeros(20)
    for head in range(4):
        for i in rating:
            row = 23 + i
            logits = prompt.key[head // 2, : row + 1] @ prompt.query[head, row] / 2
            scores += (np.exp(logits) / np.exp(logits).sum())[3:23] / 4 / len(rating)
    np.testing.assert_allclose(sparsevlm.rated_attention(prompt).mean(axis=(0, 1)), scores, rtol=1e-10)
    best = np.argsort(-scores)
    out = sparsevlm.cut(prompt, Stage(13, 1))  # 12 kept; of the 8 others 3 are recycled into one cluster
    assert out.kept[:12].tolist() == sorted(best[:12].tolist())
    recycled = sorted(best[12:15].tolist())
    assert out.kept[12] in recycled
    np.testing.assert_array_equal(out.rows[:12], prompt.hidden[3 + out.kept[:12]])
    np.testing.assert_allclose(out.rows[12], prompt.hidden[[3 + i for i in recycled]].sum(axis=0) / 3.000001)


PUBLISHED = {  # per budget: rows kept, rows that leave, mean over layers of the rows that leave and that enter
    192: ([300, 200, 110], [309, 204, 113], 192.03125, 206.5),
    128: ([303, 110, 36], [312, 117, 39], 128.63, 145.4),
    96: ([238, 48, 26], [249, 55, 27], 96.94, 114.1),
    64: ([66, 30, 17], [82, 32, 18], 64.81, 82.3),
}
RECYCLED = {
    192: [(276, 83, 9), (109, 33, 4), (94, 29, 3)],
    64: [(510, 154, 16), (52, 16, 2), (15, 5, 1)],
}


@pytest.mark.parametrize("budget", PUBLISHED)
def test_published_counts_of_sparsevlm(budget: int) -> None:
    lists, leave, logged, entered = PUBLISHED[budget]
    rows, counts, clusters = 576, [], []
    for keep in lists:
        recycled, merge = sparsevlm.recycling(rows - keep)
        clusters.append((rows - keep, recycled, merge))
        rows = keep + merge
        counts.append(rows)
    assert counts == leave
    assert clusters == RECYCLED.get(budget, clusters)
    v = [576, *counts]
    after = sum(n * rows for n, rows in zip((2, 4, 9, 17), v, strict=True)) / 32  # layers by their output
    assert after == logged if budget == 192 else after == pytest.approx(logged, abs=0.006)
    before = sum(n * rows for n, rows in zip((3, 4, 9, 16), v, strict=True)) / 32  # layers by their input
    assert before == pytest.approx(entered, abs=0.06)


@pytest.mark.parametrize("budget", [192, 64])
def test_sparsevlm_stages_give_the_published_rows(budget: int) -> None:
    w, _ = tiny_weights(tiny_config())
    rows = 576
    for (before, _, merge), leave in zip(RECYCLED[budget], PUBLISHED[budget][1], strict=True):
        out = sparsevlm.cut(make_prompt(w, 3, rows, 5, budget), Stage(leave, merge))
        assert len(out.rows) == len(out.kept) == leave
        kept = out.kept[: leave - merge].tolist()
        assert kept == sorted(kept) and rows - len(kept) == before
        assert len({*out.kept.tolist()}) == leave
        rows = leave


def test_clusters_must_be_those_of_the_rule() -> None:
    w, _ = tiny_weights(tiny_config())
    with pytest.raises(ValueError, match="8 pruned rows make 1 clusters, not 2"):
        sparsevlm.cut(make_prompt(w, 3, 20, 5), Stage(14, 2))
    assert sparsevlm.cut(make_prompt(w, 3, 20, 5), Stage(12, 0)).kept.tolist() == sorted(
        sparsevlm.cut(make_prompt(w, 3, 20, 5), Stage(13, 1)).kept[:12].tolist()
    )


def test_distance_is_over_the_root_of_the_width() -> None:
    np.testing.assert_allclose(sparsevlm.distances(np.array([[0.0, 0, 0, 0], [3, 0, 4, 0]])), [[0, 2.5], [2.5, 0]])


def test_of_equally_dense_rows_the_lower_is_the_denser() -> None:
    """Every row has its nearest neighbour one away: all are equally dense."""
    distance = sparsevlm.distances(np.array([[0.0], [1], [10], [11], [12]]))
    # Delta: 12 (no denser row: the largest distance), 1, 9, 1, 1. Without the rule all would have 12.
    assert sparsevlm.centres(distance, 2) == [0, 2]
    assert sparsevlm.clusters_of(distance, [0, 2]) == [[0, 1], [2, 3, 4]]
    # With four clusters four neighbours count, the row itself among them: mean squares 222, 182, 86, 102, 126 over 4.
    # Deltas 1, 9, 12, 1, 1: the exponential outweighs them.
    assert sparsevlm.centres(distance, 4) == [2, 3, 4, 1]


def test_centres_come_best_first_and_not_in_order() -> None:
    x = np.array([[0.0], [0.5], [3], [3.1], [3.2]])
    distance = sparsevlm.distances(x)
    # Two neighbours with itself: rows 2, 3, 4 are equally dense up to rounding, at any rate denser than 0 and 1.
    first, second = sparsevlm.centres(distance, 2)
    assert (first in (2, 3, 4), second) == (True, 0)
    # The other end: equally far from two centres joins the first of them.
    assert sparsevlm.clusters_of(sparsevlm.distances(np.array([[0.0], [1], [2]])), [2, 0]) == [[1, 2], [0]]


def test_equal_rows_make_one_cluster_and_lone_centres() -> None:
    distance = np.zeros((5, 5))
    assert sparsevlm.centres(distance, 3) == [0, 1, 2]
    assert sparsevlm.clusters_of(distance, [0, 1, 2]) == [[0, 3, 4], [1], [2]]  # a centre joins itself


def test_recycling_by_hand() -> None:
    """Of 31 pruned rows 10 are recycled, into two clusters."""
    x = np.zeros((33, 1))
    score = np.zeros(33)
    taken = [2, 4, 5, 9, 12, 17, 20, 25, 28, 31]
    x[taken] = np.array([0, 1, 100, 101, 102, 103, 104, 105, 106, 107.0])[:, None]
    score[[0, 1]], score[taken] = 9, np.arange(1, 11)
    pruned_rows = np.asarray(range(2, 33), dtype=np.int64)
    rows, at = sparsevlm.recycle(x, score, pruned_rows, 2)
    # All have a neighbour one away: equally dense. Row 0 is as far as any two rows, row 2 is 99 from those before.
    assert at.tolist() == [2, 5]
    np.testing.assert_allclose(rows, [[1 / 2.000001], [828 / 8.000001]], rtol=1e-14)


def test_gravity_has_the_published_values() -> None:
    """Heads of 128: 11.31 at distance 0, 6.18 at 50, 2.35 at 600; positive below 700."""
    w, _ = tiny_weights(tiny_config(num_attention_heads=1, head_dim=128))
    prompt = replaced(make_prompt(w, 0, 700, 1), after=np.ones((1, 128)), visual=np.ones((700, 128)))
    at = np.asarray([*range(699, -1, -1), 699], dtype=np.int64)
    values = sparsevlm.gravity(replaced(prompt, positions=at))[0]
    np.testing.assert_allclose(values[[0, 50, 600]], [11.31, 6.18, 2.35], atol=0.005)
    assert values.min() > 0


def test_plus_takes_fourteen_heads() -> None:
    """Fourteen heads of fifteen favor the second visual row a little, one the first one much."""
    w, _ = tiny_weights(tiny_config(num_attention_heads=15, hidden_size=60, head_dim=4))
    query, key = np.zeros((15, 5, 4)), np.zeros((15, 5, 4))
    query[:, -1, 0] = 2
    key[:, :, 0] = np.log([1, 3.9, 4, 0.1, 1])  # text, three visual rows, text: 0.39, 0.4, 0.01
    key[6, :, 0] = np.log([1000.0, 900, 1, 1, 1])  # this one attends more to text, and is left out
    prompt = replaced(make_prompt(w, 1, 3, 1), query=query, key=key, positions=np.full(5, 7))
    assert sparsevlm.rated_attention(prompt).mean(axis=(0, 1)).argmax() == 0
    assert sparsevlm.cut_plus(prompt, Stage(1)).kept.tolist() == [1]
    key = key.copy()
    key[6, 1, 0] = np.log(1e6)  # now it attends most to the image; the last of the equal others is left out
    assert sparsevlm.cut_plus(replaced(prompt, key=key), Stage(1)).kept.tolist() == [0]
    np.testing.assert_allclose(sparsevlm.gravity(prompt), 2, rtol=1e-12)  # at distance 0 the root of the head's size


def test_plus_with_few_heads_takes_all_and_corrects_for_distance() -> None:
    w, _ = tiny_weights(tiny_config(num_attention_heads=1, head_dim=128))
    zero = np.zeros((1, 40, 128))
    prompt = replaced(make_prompt(w, 2, 37, 1), query=zero, key=zero)
    # Equal probabilities: the correction alone decides, for rows far from the rater.
    assert (
        sparsevlm.cut_plus(prompt, Stage(5)).kept.tolist()
        == visiondrop.top_k(1 / sparsevlm.gravity(prompt)[0], 5).tolist()
    )
    assert sparsevlm.cut(prompt, Stage(5)).kept.tolist() == [0, 1, 2, 3, 4]
    assert 36 not in sparsevlm.cut_plus(prompt, Stage(20)).kept


# --- VisionZip and the floors -------------------------------------------------------------------------------


def test_visionzip_gives_the_published_rows() -> None:
    """54 + 10: the class row, 53 patches in raster order, 10 merged rows at references 0, 52, ... of the others."""
    tower = make_tower(576, heads=4)
    out = visionzip.vision(tower, Stage(64, 10))
    assert out.rows.shape == (64, 6)
    np.testing.assert_array_equal(out.rows[0], tower.features[0])
    patches = out.kept[1:54].tolist()
    assert out.kept[0] == -1 and patches == sorted(patches)
    scores = tower.cls_attention[-1][:, 1:].sum(axis=0)  # of the selected layer, not of the one before it
    assert set(patches) == set(np.argsort(-scores)[:53].tolist())
    np.testing.assert_array_equal(out.rows[1:54], tower.features[1:][patches])
    rest = [j for j in range(576) if j not in patches]
    assert len(rest) == 523
    assert out.kept[54:].tolist() == [rest[i] for i in range(0, 469, 52)]


def test_visionzip_merges_by_the_selected_layers_keys() -> None:
    tower = make_tower(16, seed=1)
    out = visionzip.vision(tower, Stage(7, 2))
    rest = [j for j in range(16) if j not in out.kept[1:5]]  # 12 patches: references 0 and 6 of them
    assert out.kept[5:].tolist() == [rest[0], rest[6]]
    key = tower.keys[-1].mean(axis=0)[1:]
    key = key / np.linalg.norm(key, axis=1, keepdims=True)
    first = [j for j in rest if j not in out.kept[5:] and key[j] @ key[rest[0]] >= key[j] @ key[rest[6]]]
    second = [j for j in rest if j not in [*out.kept[5:].tolist(), *first]]
    assert first and second
    patches = tower.features[1:]
    np.testing.assert_allclose(out.rows[5], patches[rest[0]] + patches[first].mean(axis=0))
    np.testing.assert_allclose(out.rows[6], patches[rest[6]] + patches[second].mean(axis=0))


def test_visionzip_on_equal_patches() -> None:
    """Equal attention keeps the first patches; equal keys fuse everything into the first reference, which doubles."""
    tower = Tower((4, 4), np.ones((17, 3)), [np.full((2, 17), 1 / 17)], [np.ones((2, 17, 3))], [np.ones((2, 17, 3))])
    out = visionzip.vision(tower, Stage(6, 2))
    assert out.kept.tolist() == [-1, 0, 1, 2, 3, 9]  # 13 others: step 6
    assert out.rows[:, 0].tolist() == [1, 1, 1, 1, 2, 1]
    with pytest.raises(ValueError, match="class row"):
        visionzip.vision(tower, Stage(2, 2))


def test_a_dominant_patch_is_kept() -> None:
    tower = make_tower(16)
    tower.cls_attention[-1][:, 1 + 11] = 5
    assert visionzip.vision(tower, Stage(3, 1)).kept[:2].tolist() == [-1, 11]
    w, _ = tiny_weights(tiny_config())
    prompt = make_prompt(w, 3, 16, 5)
    prompt.query[:, 19:] = 1
    prompt.key[:, 3 + 11] = 30
    for method in (fastv, sparsevlm):
        assert method.cut(prompt, Stage(1)).kept.tolist() == [11]


@pytest.mark.parametrize(
    ("patches", "keep", "expected"),
    [
        (16, 4, [2, 6, 10, 14]),
        (9, 1, [4]),
        (10, 3, [1, 5, 8]),  # 10/6, 30/6, 50/6
        (5, 5, [0, 1, 2, 3, 4]),
    ],
)
def test_uniform_patches(patches: int, keep: int, expected: list[int]) -> None:
    assert floor.uniform_patches(patches, keep) == expected


def test_random_scores_are_exact() -> None:
    """Values of a desk calculator, for patches 0, 1, 5 with seeds 0 and 3."""
    got = [floor.random_score(j, seed) for j in (0, 1, 5) for seed in (0, 3)]
    assert got == [1385723516, 172032497, 1773239938, 1931779888, 77437856, 1780907056]


def test_random_patches() -> None:
    """The first K of one order: fewer patches are a part of more; the seed matters; all patches have a chance."""
    few, many = (floor.random_patches(576, k, 0) for k in (64, 128))
    assert few == sorted(few) and len(set(few)) == 64 and set(few) <= set(many)
    assert floor.random_patches(576, 64, 1) != few
    assert floor.random_patches(7, 7, 3) == list(range(7))
    drawn = [j for seed in range(64) for j in floor.random_patches(64, 8, seed)]
    assert set(drawn) == set(range(64))
    halves = sum(j < 32 for j in drawn)
    assert abs(halves - 256) < 60  # five standard deviations are 57


@pytest.mark.parametrize("method", [floor.UNIFORM, floor.RANDOM], ids=["uniform", "random"])
def test_floors_take_patches_as_they_are(method: pruned.Reference) -> None:
    tower = make_tower(16)
    out = method.vision(tower, Stage(5, seed=2))
    np.testing.assert_array_equal(out.rows, tower.features[1:][out.kept])
    for stage in (Stage(5, 1), Stage(17), Stage(0)):
        with pytest.raises(ValueError, match=r"not merged|cannot take"):
            method.vision(tower, stage)


# --- the whole model ----------------------------------------------------------------------------------------


def test_tower_holds_every_layer_up_to_the_selected_one() -> None:
    w, image = tiny_weights(tiny_config())
    tower, selected = pruned.tower(w, image), llava.vision_tower(w, image)
    assert tower.grid == (4, 4)
    assert len(tower.cls_attention) == len(tower.keys) == len(tower.values) == 2
    np.testing.assert_array_equal(tower.features, selected.features)
    np.testing.assert_array_equal(tower.keys[-1], selected.keys)
    np.testing.assert_array_equal(tower.cls_attention[-1], selected.cls_attention)
    assert tower.values[0].shape == tower.keys[0].shape == (2, 17, 6)
    assert not np.allclose(tower.values[-1], tower.keys[-1])
    mixed = (tower.cls_attention[0][:, None] @ tower.values[0])[:, 0].reshape(-1)  # the class row, first layer
    x = llava._patch_rows(w, image)[0] + w.linear("vision.encoder.layers.0.self_attn.out_proj", mixed)
    normed = llava._layer_norm(w, "vision.encoder.layers.0.layer_norm2", x[None])
    inner = llava.activation("quick_gelu", w.linear("vision.encoder.layers.0.mlp.fc1", normed))
    x = x + w.linear("vision.encoder.layers.0.mlp.fc2", inner)[0]
    np.testing.assert_allclose(x, llava.vision_layers(w, image)[0].features[0], rtol=1e-10)


def visiondrop_reference(schedule: list[visiondrop.Stage]) -> SimpleNamespace:
    """Give VisionDrop, which has a driver of its own, as this driver takes a method."""

    def own(stage: Stage) -> visiondrop.Stage:
        return visiondrop.Stage(stage.keep - stage.merge, stage.merge)

    def vision(tower: Tower, stage: Stage) -> Pruned:
        inside = llava.Vision(tower.features, tower.cls_attention[-1], tower.keys[-1])
        out = visiondrop.encoder_stage(inside, own(stage))
        return Pruned(out.rows, out.kept - 1)

    def cut(p: Prompt, stage: Stage) -> Pruned:
        out = visiondrop.decoder_stage(p.w, p.layer, p.hidden, p.positions, p.places, own(stage))
        return Pruned(out.rows, out.kept)

    places = ["vision", *visiondrop.default_cuts(8)]
    stages = [(at, Stage(s.visual, s.contextual)) for at, s in zip(places, schedule, strict=True)]
    return SimpleNamespace(POSITIONS="repack", vision=vision, cut=cut, stages=stages)


def test_visiondrop_by_this_driver_equals_its_own() -> None:
    """Budget 64 with 63 text rows: 159, 133, 115, 101 rows, and these positions for the first token fed back."""
    w, image = tiny_weights(tiny_config(side=24, layers=8))
    schedule = visiondrop.schedule_for(64, 32)
    method = visiondrop_reference(schedule)
    before, after = [1] * 35, [2] * 28
    theirs = visiondrop.prefill(w, image, before, after, schedule)
    ours = pruned.prefill(w, image, before, after, method, method.stages, (2, 4, 6))
    assert ours.lengths == [159, 133, 115, 101]
    np.testing.assert_array_equal(ours.logits, theirs.logits)
    assert ours.kept[0].tolist() == (theirs.kept[0] - 1).tolist()
    assert all(np.array_equal(a, b) for a, b in zip(ours.kept[1:], theirs.kept[1:], strict=True))
    got, expected = pruned.decode(w, ours, [4, 6]), visiondrop.decode(w, theirs, [4, 6])
    assert got.positions.tolist() == [[159, 133, 115, 101], [160, 134, 116, 102]]
    np.testing.assert_array_equal(got.logits, expected.logits)
    assert ours.cache_lengths == theirs.cache_lengths


def test_published_lengths_of_pyramiddrop() -> None:
    """576, 288, 144, 72 visual rows; positions shift by 288, 144, 72."""
    w, image = tiny_weights(tiny_config(side=24, layers=8))
    stages = [(at, Stage(576 // 2 ** (i + 1))) for i, at in enumerate(pyramiddrop.cuts(8))]
    state = pruned.prefill(w, image, [1] * 35, [2] * 28, pyramiddrop, stages)
    assert state.lengths == [639, 351, 207, 135]
    assert state.cache_lengths == [639, 639, 351, 351, 207, 207, 135, 135]
    assert [p.tolist() for p in state.positions] == [list(range(n)) for n in state.lengths]
    at = pruned.decode(w, state, [4, 6]).positions
    assert at.tolist() == [[639, 351, 207, 135], [640, 352, 208, 136]]
    assert (-np.diff(at)).tolist() == [[288, 144, 72]] * 2
    assert state.cache_lengths == [641, 641, 353, 353, 209, 209, 137, 137]


def test_published_lengths_of_fastv() -> None:
    """K = 2, half of 576 pruned, 63 text rows: 639 then 351 rows in the caches, positions from 639 on everywhere."""
    w, image = tiny_weights(tiny_config(side=24, layers=5))
    state = pruned.prefill(w, image, [1] * 35, [2] * 28, fastv, [(2, Stage(288))], (2,))
    assert state.cache_lengths == [639, 639, 351, 351, 351]
    assert state.positions[1].tolist() == [*range(35), *(35 + state.kept[0]).tolist(), *range(611, 639)]
    assert pruned.decode(w, state, [4, 6]).positions.tolist() == [[639, 639], [640, 640]]
    assert state.cache_lengths == [641, 641, 353, 353, 353]


def masked_logits(w: Weights, h: Array, gone: list[Indices]) -> Array:
    """Run all rows through all layers; in each layer the rows that are gone can be seen by nobody."""
    at = np.arange(len(h))
    for layer in range(w.layers):
        q, k = llava.layer_queries_keys(w, layer, h, at)
        x = h / np.sqrt((h**2).mean(axis=1, keepdims=True) + w.rms_eps)
        x = x * w[f"text.layers.{layer}.input_layernorm.weight"]
        v = llava.split_heads(w.linear(f"text.layers.{layer}.self_attn.v_proj", x), w.kv_heads)
        unseen = np.triu(np.ones((len(h), len(h)), dtype=np.bool_), 1)
        unseen[:, gone[layer]] = True
        logits = q @ np.repeat(k, w.heads // w.kv_heads, axis=0).transpose(0, 2, 1) / math.sqrt(w.head_dim)
        attention = llava.softmax(np.where(unseen, -np.inf, logits))
        mixed = llava.join_heads(attention @ np.repeat(v, w.heads // w.kv_heads, axis=0))
        h = h + w.linear(f"text.layers.{layer}.self_attn.o_proj", mixed)
        x = h / np.sqrt((h**2).mean(axis=1, keepdims=True) + w.rms_eps)
        x = x * w[f"text.layers.{layer}.post_attention_layernorm.weight"]
        gate = w.linear(f"text.layers.{layer}.mlp.gate_proj", x)
        up = w.linear(f"text.layers.{layer}.mlp.up_proj", x)
        h = h + w.linear(f"text.layers.{layer}.mlp.down_proj", gate / (1 + np.exp(-gate)) * up)
    return llava.output_logits(w, h)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize(
    ("method", "stages"),
    [(fastv, [(2, Stage(5))]), (sparsevlm.PLUS, [(1, Stage(11)), (2, Stage(7)), (4, Stage(3))])],
    ids=["fastv", "sparsevlm+"],
)
def test_kept_positions_equal_masking(
    method: pruned.Reference, stages: list[tuple[pruned.Place, Stage]], kv_heads: int
) -> None:
    """Rows that keep their positions see what they would see if the pruned ones were masked, in decoding, too."""
    w, image = tiny_weights(tiny_config(layers=6, num_key_value_heads=kv_heads))
    state = pruned.prefill(w, image, BEFORE, AFTER, method, stages)
    here, gone = np.arange(16), [np.arange(0)] * 6
    for (layer, _), kept in zip(stages, state.kept, strict=True):
        assert isinstance(layer, int)
        here = here[kept]
        gone[layer:] = [3 + np.setdiff1d(np.arange(16), here)] * (6 - layer)
    visual = llava.project(w, llava.vision_tower(w, image).features[1:])
    h = np.concatenate([llava.embed(w, BEFORE), visual, llava.embed(w, [*AFTER, 11, 12])])
    expected = masked_logits(w, h, gone)[-3:]
    np.testing.assert_allclose(state.logits, expected[0], rtol=1e-9, atol=1e-12)
    got = np.concatenate([pruned.decode(w, state, [token]).logits for token in (11, 12)])
    np.testing.assert_allclose(got, expected[1:], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("positions", ["repack", "keep"])
def test_a_cut_is_given_what_the_layers_before_it_saw(positions: str) -> None:
    """Every field of every `Prompt` of a method that keeps all but the first visual row."""
    w, image = tiny_weights(tiny_config(layers=5, num_key_value_heads=2))
    seen: list[Prompt] = []

    def cut(prompt: Prompt, stage: Stage) -> Pruned:
        seen.append(prompt)
        rows = prompt.hidden[prompt.places]
        return Pruned(rows[1:], np.arange(1, len(rows), dtype=np.int64))

    method = SimpleNamespace(POSITIONS=positions, cut=cut)
    pruned.prefill(w, image, BEFORE, AFTER, method, [(2, Stage(15)), (3, Stage(14))])
    first, second = seen
    visual, after = llava.project(w, llava.vision_tower(w, image).features[1:]), llava.embed(w, AFTER)
    h = np.concatenate([llava.embed(w, BEFORE), visual, after])
    cache: KVCache = [None] * 5
    h = llava.decoder_layers(w, range(1), h, np.arange(23), cache)
    q, k = llava.layer_queries_keys(w, 1, h, np.arange(23))
    h = llava.decoder_layers(w, range(1, 2), h, np.arange(23), cache)
    np.testing.assert_allclose(first.hidden, h, rtol=1e-10)
    np.testing.assert_allclose(first.query, q, rtol=1e-10)
    np.testing.assert_allclose(first.key, k, rtol=1e-10)
    assert (first.layer, first.places.tolist()) == (2, [*range(3, 19)])
    assert (second.layer, second.places.tolist()) == (3, [*range(3, 18)])
    assert second.positions.tolist() == ([*range(22)] if positions == "repack" else [0, 1, 2, *range(4, 23)])
    h = np.concatenate([h[:3], h[4:]])
    q, _ = llava.layer_queries_keys(w, 2, h, second.positions)
    np.testing.assert_allclose(second.query, q, rtol=1e-10)
    for prompt in seen:  # the raters of SparseVLM are found at the decoder's input, whatever was pruned since
        np.testing.assert_array_equal(prompt.visual, visual)
        np.testing.assert_array_equal(prompt.after, after)


@pytest.mark.parametrize(
    ("method", "stages", "lengths"),
    [
        (visionzip, [("vision", Stage(7, 2))], [14]),
        (floor.UNIFORM, [("vision", Stage(5))], [12]),
        (floor.RANDOM, [("vision", Stage(5, seed=4))], [12]),
    ],
    ids=["visionzip", "uniform", "random"],
)
def test_pruning_before_the_decoder_is_a_shorter_prompt(
    method: pruned.Reference, stages: list[tuple[pruned.Place, Stage]], lengths: list[int]
) -> None:
    w, image = tiny_weights(tiny_config())
    state = pruned.prefill(w, image, BEFORE, AFTER, method, stages)
    assert state.lengths == lengths
    rows = llava.project(w, method.vision(pruned.tower(w, image), stages[0][1]).rows)
    h = np.concatenate([llava.embed(w, BEFORE), rows, llava.embed(w, [*AFTER, 11])])
    h = llava.decoder_layers(w, range(4), h, np.arange(len(h)), [None] * 4)
    expected = llava.output_logits(w, h)[-2:]
    np.testing.assert_allclose(state.logits, expected[0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(pruned.decode(w, state, [11]).logits[0], expected[1], rtol=1e-10, atol=1e-12)


def test_sparsevlm_decodes_at_its_caches_lengths() -> None:
    w, image = tiny_weights(tiny_config())
    stages = [(1, Stage(11, 1)), (2, Stage(7, 1)), (3, Stage(4, 1))]
    state = pruned.prefill(w, image, BEFORE, AFTER, sparsevlm, stages, sparsevlm.cuts(4))
    assert state.lengths == state.cache_lengths == [23, 18, 14, 11]
    assert pruned.decode(w, state, [4, 6]).positions.tolist() == [[23, 18, 14, 11], [24, 19, 15, 12]]


def test_stages_on_projected_rows_and_inside_the_encoder() -> None:
    w, image = tiny_weights(tiny_config())
    questions: list[Array] = []

    def encoder(weights: Weights, pixel_values: Array, keep: int) -> Pruned:
        return Pruned(llava.vision_tower(weights, pixel_values).features[1 : 1 + keep], np.arange(keep))

    def projected(tower: Tower, visual: Array, question: Array, stage: Stage) -> Pruned:
        questions.append(question)
        assert tower.features.shape == (17, 12)
        return Pruned(visual[-stage.keep :], np.arange(len(visual) - stage.keep, len(visual)))

    method = SimpleNamespace(POSITIONS="repack", encoder=encoder, projected=projected)
    stages: list[tuple[pruned.Place, Stage]] = [("encoder", Stage(9)), ("projected", Stage(4))]
    state = pruned.prefill(w, image, BEFORE, AFTER, method, stages, question=[3, 2])
    np.testing.assert_array_equal(questions[0], llava.embed(w, [3, 2]))
    assert [kept.tolist() for kept in state.kept] == [list(range(9)), [5, 6, 7, 8]]
    rows = llava.project(w, llava.vision_tower(w, image).features[1:][5:9])
    h = np.concatenate([llava.embed(w, BEFORE), rows, llava.embed(w, AFTER)])
    h = llava.decoder_layers(w, range(4), h, np.arange(len(h)), [None] * 4)
    np.testing.assert_allclose(state.logits, llava.output_logits(w, h)[-1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", [fastv, pyramiddrop, sparsevlm, sparsevlm.PLUS])
def test_stages_that_keep_every_row_change_nothing(method: pruned.Reference) -> None:
    w, image = tiny_weights(tiny_config())
    state = pruned.prefill(w, image, BEFORE, AFTER, method, [(at, Stage(16)) for at in method.cuts(4)])
    expected = llava.forward(w, image, BEFORE, AFTER)[-1]
    np.testing.assert_allclose(state.logits, expected, rtol=1e-10, atol=1e-12)
    fewer = pruned.prefill(w, image, BEFORE, AFTER, method, [(at, Stage(5)) for at in method.cuts(4)])
    assert not np.allclose(fewer.logits, expected, rtol=1e-3)
    assert pruned.prefill(w, image, BEFORE, AFTER, method, []).lengths == [23]


@pytest.mark.parametrize(
    ("stages", "cuts"),
    [
        ([(2, Stage(5))], (1,)),
        ([(2, Stage(9)), (1, Stage(5))], None),
        ([(2, Stage(9)), (2, Stage(5))], None),
        ([(4, Stage(5))], None),
        ([(2, Stage(5)), ("vision", Stage(5))], None),
        ([("elsewhere", Stage(5))], None),
        ([("encoder", Stage(5)), ("vision", Stage(5))], None),
    ],
)
def test_stages_in_no_order_are_refused(stages: list[tuple[pruned.Place, Stage]], cuts: tuple[int, ...] | None) -> None:
    w, image = tiny_weights(tiny_config())
    with pytest.raises(ValueError, match=r"stages at|without layers|not both"):
        pruned.prefill(w, image, BEFORE, AFTER, fastv, stages, cuts)


def test_a_stage_must_give_the_rows_it_was_asked_for() -> None:
    w, image = tiny_weights(tiny_config())
    short = SimpleNamespace(POSITIONS="keep", cut=lambda prompt, stage: pruning.Pruned(np.ones((2, 16)), np.arange(2)))
    with pytest.raises(ValueError, match="2 rows, 2 sources for a stage of 3"):
        pruned.prefill(w, image, BEFORE, AFTER, short, [(2, Stage(3))])
