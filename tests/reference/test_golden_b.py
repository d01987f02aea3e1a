"""Golden checks of the references of CDPruner, VisPruner, FlowCut, VScan, COAST and STS."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.reference import cdpruner, coast, flowcut, llava, pruned, sts, vispruner, vscan
from tests.reference.llava import Array, Weights
from tests.reference.pruning import Indices, Prompt, Stage, Tower
from tests.reference.test_reference import tiny_config, tiny_weights


def rng_for(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def unit(x: Array) -> Array:
    result: Array = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return result


def tower(side: int, layers: int = 4, seed: int = 0, constant: bool = False) -> Tower:
    """Make up an encoder's results; constant ones leave every choice to the rule for ties."""
    rng, rows, heads = rng_for(seed), 1 + side * side, 2
    features = np.ones((rows, 6)) if constant else rng.normal(size=(rows, 6))
    logits = [np.zeros((heads, rows)) if constant else rng.normal(size=(heads, rows)) for _ in range(layers)]
    return Tower((side, side), features, [llava.softmax(x) for x in logits], [], [])


def prompt(w: Weights, start: int, count: int, after: int, seed: int = 0) -> Prompt:
    """Make up a decoder's rows before layer 1 of a tiny checkpoint with two query heads per key head."""
    rng, rows, size = rng_for(seed), start + count + after, w.head_dim
    query, key = rng.normal(size=(w.heads, rows, size)), rng.normal(size=(w.kv_heads, rows, size))
    hidden, value = rng.normal(size=(rows, w.heads * size)), rng.normal(size=key.shape)
    at, places = np.arange(rows), np.arange(start, start + count)
    return Prompt(w, 1, hidden, at, places, query, key, value, hidden[:0], hidden[:0])


def decoder_weights() -> Weights:
    return tiny_weights(tiny_config(num_key_value_heads=2))[0]


def assert_kept(kept: Indices, keep: int, count: int) -> None:
    assert len(kept) == keep
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert not keep or (kept[0] >= 0 and kept[-1] < count)


def top(scores: Array, keep: int) -> list[int]:
    return sorted(sorted(range(len(scores)), key=lambda j: (-scores[j], j))[:keep])


# --- all of them --------------------------------------------------------------------------------------------

Vision = Callable[[Tower, int], Any]
EARLY: dict[str, Vision] = {
    "sts": lambda t, keep: sts.vision(t, Stage(keep)),
    "sts greedy": lambda t, keep: sts.GREEDY.vision(t, Stage(keep)),
    "vispruner": lambda t, keep: vispruner.vision(t, Stage(keep)),
    "vscan": lambda t, keep: vscan.projected(t, t.features[1:], t.features[:0], Stage(keep)),
    "cdpruner": lambda t, keep: cdpruner.projected(t, t.features[1:], t.features[:2] + 0.5, Stage(keep)),
}
LATE = {
    "sts": sts.cut,
    "vscan": vscan.cut,
    "coast": coast.KEEP_BASE.cut,
    "coast rest": coast.REST_BASE.cut,
    "flowcut": flowcut.cut,
}


@pytest.mark.parametrize("name", EARLY)
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("keep", [1, 2, 3, 5, 16, 31, 32, 33, 48, 63, 64])
def test_before_the_decoder_exactly_the_budget_is_kept(name: str, constant: bool, keep: int) -> None:
    if name == "cdpruner" and constant:
        keep = 1  # the kernel of equal rows has rank one: rounding decides the others
    result = EARLY[name](tower(8, constant=constant), keep)
    assert_kept(result.kept, keep, 64)
    assert len(result.rows) == keep


@pytest.mark.parametrize("name", [name for name in EARLY if name != "cdpruner"])
def test_all_rows_before_the_decoder_is_the_identity(name: str) -> None:
    made = tower(8)
    result = EARLY[name](made, 64)
    assert result.kept.tolist() == list(range(64))
    np.testing.assert_array_equal(result.rows, made.features[1:])


@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("keep", [1, 2, 3, 4, 5, 12, 29, 30])
def test_in_the_decoder_exactly_the_budget_is_kept(name: str, keep: int) -> None:
    made = prompt(decoder_weights(), 3, 30, 5)
    result = LATE[name](made, Stage(keep))
    assert_kept(result.kept, keep, 30)
    np.testing.assert_array_equal(result.rows, made.hidden[3 + result.kept])


@pytest.mark.parametrize("layers", [4, 6])
def test_every_reference_runs_in_the_whole_model(layers: int) -> None:
    config = tiny_config(side=8, layers=layers, num_key_value_heads=2)
    config["vision_config"]["num_hidden_layers"] = 5
    w, pixels = tiny_weights(config)
    (coast_cut,), (middle,) = coast.cuts(layers), sts.cuts(layers)
    flowcut_of_tiles = SimpleNamespace(
        encoder=flowcut.encoder, cut=flowcut.cut, cuts=flowcut.cuts_of_tiles, POSITIONS=flowcut.POSITIONS
    )
    runs: list[tuple[Any, list[tuple[str | int, Stage]]]] = [
        (cdpruner, [("projected", Stage(12))]),
        (vispruner, [("vision", Stage(20))]),
        (flowcut, [("encoder", Stage(20))]),
        (flowcut_of_tiles, [("encoder", Stage(20)), (1, Stage(12))]),
        (vscan, [("projected", Stage(40)), (middle, Stage(12))]),
        (coast, [(coast_cut, Stage(20))]),
        (coast.REST_BASE, [(coast_cut, Stage(20))]),
        (sts, [("vision", Stage(40)), (middle, Stage(12))]),
        (sts.GREEDY, [("vision", Stage(40)), (middle, Stage(12))]),
    ]
    for reference, stages in runs:
        assert reference.cuts(layers) == tuple(place for place, _ in stages if isinstance(place, int))
        state = pruned.prefill(w, pixels, [1, 2], [3, 4, 5], reference, stages, question=[3, 4])
        assert np.isfinite(state.logits).all()
        assert [len(kept) for kept in state.kept] == [stage.keep for _, stage in stages]


# --- COAST --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "anchors", "rest", "of_keep", "of_rest"),
    [
        (192, 153, 39, (9, 28), (1, 5)),
        (128, 102, 26, (6, 19), (1, 3)),
        (64, 51, 13, (3, 9), (1, 1)),
        (32, 25, 7, (1, 4), (1, 1)),
    ],
)
def test_coast_splits_the_budget_by_entropy(
    keep: int, anchors: int, rest: int, of_keep: tuple[int, int], of_rest: tuple[int, int]
) -> None:
    for base, lows in (("keep", of_keep), ("rest", of_rest)):
        for dispersion, low in zip((0.0, 1.0), lows, strict=True):
            assert coast.split(576, keep, dispersion, base, 0.8) == (anchors, 57, rest - low, low)


@pytest.mark.parametrize(
    ("count", "keep", "expected"),
    [
        (20, 1, (0, 2, 0, 1)),
        (20, 2, (1, 2, 0, 1)),
        (20, 5, (4, 2, 0, 1)),
        (20, 6, (4, 2, 1, 1)),
        (20, 10, (8, 2, 1, 1)),
        (20, 20, (16, 1, 3, 1)),
        (20, 11, (8, 1, 2, 1)),
    ],
)
def test_coast_splits_small_budgets(count: int, keep: int, expected: tuple[int, int, int, int]) -> None:
    assert coast.split(count, keep, 0.0, "keep", 0.8) == expected


@pytest.mark.parametrize(("layers", "cut"), [(32, 2), (40, 3), (28, 14), (24, 2), (8, 1), (4, 1), (2, 1)])
def test_coast_cuts_early(layers: int, cut: int) -> None:
    assert coast.cuts(layers) == (cut,)


def test_coast_entropy_is_one_for_equal_attention_and_zero_for_one_row() -> None:
    assert coast.entropy(np.full(7, 0.02)) == pytest.approx(1)
    assert coast.entropy(np.array([0.0, 0.3, 0.0])) == 0
    assert coast.entropy(np.array([0.2, 0.2, 0.0, 0.0])) == pytest.approx(0.5)


def test_coast_keeps_anchors_and_both_ends() -> None:
    hidden = np.array([[1, 0, 0], [2, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 3]], dtype=np.float64)
    last = [0.3, 0.2, 0.02, 0.01, 0.01, 0.001]
    attention = np.array([[0.1, 0.1, 0.1, 0.1, 0.1, 0.001], last])
    # Anchors 0 and 1; the reference is 5; the scores of the others are 0.71, 0, 1 and -1.
    assert coast.select(hidden, attention, 4, anchor_ratio=0.5).tolist() == [0, 1, 4, 5]


def test_coast_chooses_anchors_by_the_last_row_and_references_by_the_strongest() -> None:
    hidden = np.eye(20)
    hidden[7] = 0.6 * hidden[7] + 0.8 * hidden[3]
    attention = np.full((3, 20), 0.01)
    attention[:2, :17] = 0.02 + 0.001 * np.arange(17)
    attention[:, 17] = 0.03, 0.0, 0.0  # the references are 18 and 19, though its mean is lower
    attention[2, 3] = 0.015  # the only anchor, though the other rows prefer others
    # Most scores are equal, 18 and 19 the lowest; 7 is like the anchor.
    assert coast.select(hidden, attention, 3, anchor_ratio=0.34).tolist() == [3, 7, 18]


@pytest.mark.parametrize("base", ["keep", "rest"])
def test_coast_takes_the_first_of_equal_rows_once(base: str) -> None:
    attention = np.full((3, 40), 0.01)
    assert coast.select(np.ones((40, 5)), attention, 20, base).tolist() == list(range(20))
    attention[-1, 30:] = 0.02
    assert coast.select(np.ones((40, 5)), attention, 20, base).tolist() == [*range(10), *range(30, 40)]


@pytest.mark.parametrize("keep", [1, 7, 30])
def test_coast_with_nothing_but_anchors_is_attention_top_k(keep: int) -> None:
    rng = rng_for(1)
    attention = llava.softmax(rng.normal(size=(4, 30)))
    kept = coast.select(rng.normal(size=(30, 5)), attention, keep, anchor_ratio=1.0)
    assert kept.tolist() == top(attention[-1], keep)


def test_attention_of_the_text_is_normalised_over_all_earlier_rows() -> None:
    made = prompt(decoder_weights(), 2, 6, 3)
    expected = np.zeros((3, 6))
    for t in range(3):
        for head in range(4):
            row = 8 + t
            logits = [made.query[head, row] @ made.key[head // 2, j] / math.sqrt(4) for j in range(row + 1)]
            total = sum(math.exp(v) for v in logits)
            expected[t] += [math.exp(logits[2 + j]) / total / 4 for j in range(6)]
    np.testing.assert_allclose(coast.text_to_visual(made), expected)
    kept = sts.cut(made, Stage(3)).kept
    assert kept.tolist() == top(expected.mean(axis=0), 3)
    anchors = coast.cut(made, Stage(3), anchor_ratio=1.0).kept
    assert anchors.tolist() == top(expected[-1], 3)


# --- STS ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "keep", "size"),
    [
        *((24, keep, 3) for keep in (288, 256, 192)),
        *((24, keep, 6) for keep in (96, 64, 48)),
        *((24, keep, size) for keep, size in ((432, 2), (191, 4), (108, 4), (107, 6), (47, 8), (12, 12), (11, 24))),
        (16, 48, 4),
        (16, 47, 8),
        (8, 48, 2),
        (8, 47, 4),
        (5, 20, 5),
        (1, 1, 1),
    ],
)
def test_sts_cells_hold_three_rounds(side: int, keep: int, size: int) -> None:
    assert sts.cell_size(side, keep) == size


def test_sts_potential_falls_with_distance_and_rises_with_likeness() -> None:
    features = np.array([[1, 0], [2, 0], [0, 1], [-3, 0]], dtype=np.float64)  # of a grid of two by two
    phi = sts.potential(features, 2, 2)  # twice the variance is 4
    near, far = math.exp(-1 / 4), math.exp(-2 / 4)
    expected = np.array([[1, near, 0.2 * near, 0.2 * far], [near, 1, 0.2 * far, 0.2 * near]])
    np.testing.assert_allclose(phi[:2], expected)
    np.testing.assert_allclose(phi, phi.T)


def test_sts_attention_is_a_tie_break() -> None:
    np.testing.assert_allclose(sts.start_energy(np.array([0.1, 0.3, 0.2])), [0, -1e-3, -5e-4])
    np.testing.assert_array_equal(sts.start_energy(np.full(3, 0.2)), np.zeros(3))


def test_sts_greedy_takes_opposite_corners() -> None:
    made = tower(3, constant=True)
    assert sts.vision(made, Stage(2), sts.greedy).kept.tolist() == [0, 8]
    assert sts.vision(made, Stage(4), sts.greedy).kept.tolist() == [0, 2, 6, 8]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("keep", [1, 7, 24])
def test_sts_in_one_cell_is_greedy(seed: int, keep: int) -> None:
    made = tower(5, seed=seed)  # of a prime side, so that all is one cell
    np.testing.assert_array_equal(sts.vision(made, Stage(keep)).kept, sts.GREEDY.vision(made, Stage(keep)).kept)


def test_sts_first_round_takes_the_most_attended_patch_of_every_cell() -> None:
    made = tower(24)
    attention = made.cls_attention[-1].mean(axis=0)[1:].reshape(24, 24)
    kept = set(sts.vision(made, Stage(96)).kept.tolist())
    for row in range(0, 24, 6):
        for column in range(0, 24, 6):
            r, c = divmod(int(attention[row : row + 6, column : column + 6].argmax()), 6)
            assert (row + r) * 24 + column + c in kept


@pytest.mark.parametrize("keep", [64, 96, 192, 100])
def test_sts_rounds_cover_every_cell(keep: int) -> None:
    size = sts.cell_size(24, keep)
    kept = sts.vision(tower(24, layers=1), Stage(keep)).kept
    cells = np.bincount(kept // 24 // size * (24 // size) + kept % 24 // size, minlength=(24 // size) ** 2)
    low = keep // len(cells)
    assert sorted(cells.tolist()) == [low] * (len(cells) - keep % len(cells)) + [low + 1] * (keep % len(cells))


@pytest.mark.parametrize(
    ("energy", "dropped"),
    [
        (np.zeros(16), {7, 13, 15}),
        (np.arange(16.0), {7, 13, 15}),
        (-np.arange(16.0), {0, 2, 8}),
        (np.where(np.arange(16) == 8, 9.0, 0.0), {7, 8, 15}),
    ],
)
def test_sts_gives_what_the_rounds_leave_to_the_best_cells(energy: Array, dropped: set[int]) -> None:
    # Cells 0 1 4 5, 2 3 6 7, 8 9 12 13 and 10 11 14 15; thirteen are three of each and one more.
    assert set(range(16)) - set(sts.rounds(np.zeros((16, 16)), energy, 4, 13).tolist()) == dropped


def test_sts_rounds_add_what_the_picks_of_a_round_repel() -> None:
    phi = np.zeros((16, 16))
    phi[[0, 10], 1] = 1.0  # of round one, of this and of another cell
    energy = np.where(np.arange(16) == 4, 1.5, 0.0)
    assert 4 in sts.rounds(phi, energy, 4, 12)
    assert 1 not in sts.rounds(phi, energy, 4, 12)


# --- VisPruner ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "rounds"), [(192, 48), (128, 56), (64, 64), (32, 68)])
def test_vispruner_drops_eight_per_round(keep: int, rounds: int) -> None:
    features = unit(rng_for(0).normal(size=(576, 8)))
    important = vispruner.important_count(576, keep)
    left, ran = vispruner.thin(list(range(important, 576)), features @ features.T, keep - important)
    assert (important, len(left), ran) == (keep // 2, keep // 2, rounds)


@pytest.mark.parametrize(
    ("count", "keep", "ratio", "important"),
    [(576, 66, 0.5, 34), (576, 64, 0.75, 48), (9, 4, 0.5, 3), (9, 1, 0.5, 1), (8, 1, 0.5, 0), (9, 4, 1.0, 4)],
)
def test_vispruner_pairs_the_others(count: int, keep: int, ratio: float, important: int) -> None:
    assert vispruner.important_count(count, keep, ratio) == important


def test_vispruner_drops_the_duplicates() -> None:
    attention, features = np.linspace(1, 0.5, 12), np.eye(12)
    features[9] = 0.1 * features[9] + features[6]
    features[10] = features[11]
    # Six by attention; of 6, 8 and 10 against 7, 9 and 11 the two with a likeness go.
    assert vispruner.select(attention, features, 10).tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9, 11]
    assert vispruner.select(attention[::-1], features[::-1], 10).tolist() == [0, 2, 3, 4, 6, 7, 8, 9, 10, 11]


def test_vispruner_drops_the_most_attended_of_equal_rows() -> None:
    assert vispruner.select(np.linspace(1, 0.5, 12), np.ones((12, 3)), 10).tolist() == [*range(6), 7, 9, 10, 11]
    assert vispruner.select(np.full(12, 0.1), np.ones((12, 3)), 10).tolist() == [*range(6), 7, 9, 10, 11]


def test_vispruner_pairs_anew_what_a_round_leaves() -> None:
    similarity = np.zeros((20, 20))
    for a, b, likeness in ((0, 1, 0.9), (8, 2, 0.8), (4, 3, 0.7)):
        similarity[a, b] = similarity[b, a] = likeness
    # Round one drops 0 (like 1) and 4 (like 3), then 2 6 8 10 12 14, whose likeness to odd rows is equal. The next
    # sees 16 18 1 3 5 7 ...: the first set is 16 1 5 9 13 17, and likeness is equal again.
    left, rounds = vispruner.thin(list(range(20)), similarity, 10)
    assert (left, rounds) == ([5, 9, 13, 17, 18, 3, 7, 11, 15, 19], 2)


@pytest.mark.parametrize("keep", [1, 6, 25, 31])
def test_vispruner_with_nothing_but_important_rows_is_attention_top_k(keep: int) -> None:
    made = tower(8)
    kept = vispruner.vision(made, Stage(keep), ratio=1.0).kept
    assert kept.tolist() == top(made.cls_attention[-1].mean(axis=0)[1:], keep)


# --- VScan --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("selected", "layer"), [(22, 5), (23, 5), (26, 6), (11, 3), (3, 1), (1, 0), (0, 0)])
def test_vscan_looks_at_a_shallow_layer(selected: int, layer: int) -> None:
    assert vscan.local_layer(selected) == layer


@pytest.mark.parametrize(("keep", "local"), [(288, 144), (192, 96), (96, 48), (64, 32), (100, 48), (31, 0)])
def test_vscan_chooses_as_many_in_each_window(keep: int, local: int) -> None:
    assert vscan.local_count(keep) == local
    made = rng_for(0).uniform(size=576)
    kept = vscan.select(made, np.zeros(576), 24, keep)
    assert len(kept) == keep
    for row in range(0, 24, 6):
        for column in range(0, 24, 6):
            inside = [(row + i) * 24 + column + j for i in range(6) for j in range(6)]
            best = sorted(inside, key=lambda p: -made[p])[: local // 16]
            assert set(best) <= set(kept.tolist())


def test_vscan_scans_windows_then_the_whole_image() -> None:
    local, deep = np.zeros(64), np.zeros(64)
    local[[9, 63]] = 0.1  # in the first and in the last window
    deep[[9, 40, 41]] = 0.3, 0.2, 0.1
    firsts = [row * 16 + column * 2 for row in range(4) for column in range(4)]
    expected = sorted({*firsts, 9, 63, 40, 41} - {0, 54})  # 40 is the first of its window: one more of the equals
    kept = vscan.select(local, deep, 8, 32).tolist()
    assert set(expected) <= set(kept)
    rest = [i for i in range(64) if i not in expected]
    assert kept == sorted(expected + rest[: 32 - len(expected)])


def test_vscan_windows_look_at_the_shallow_layer_and_the_image_at_the_selected_one() -> None:
    made = tower(8, layers=5)
    shallow, deep = (made.cls_attention[layer].mean(axis=0)[1:] for layer in (1, 4))
    kept = vscan.projected(made, made.features[1:], made.features[:0], Stage(32)).kept
    np.testing.assert_array_equal(kept, vscan.select(shallow, deep, 8, 32))


def test_vscan_needs_whole_windows() -> None:
    with pytest.raises(ValueError, match="no 4 x 4 windows"):
        vscan.select(np.zeros(36), np.zeros(36), 6, 8)


def test_vscan_averages_into_the_closest_row_and_the_first_of_equals() -> None:
    x = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    rows, members = vscan.merge(x, np.array([0, 2]))
    np.testing.assert_allclose(rows, [[4 / 3, 1 / 3], [0.0, 1.0]])
    assert members == [2, 0]


@pytest.mark.parametrize("keep", [1, 31, 32, 50])
def test_vscan_merging_preserves_the_sum(keep: int) -> None:
    visual = rng_for(2).normal(size=(64, 5))
    made = tower(8)
    result = vscan.projected(made, visual, visual[:0], Stage(keep))
    rows, members = vscan.merge(visual, result.kept)
    np.testing.assert_array_equal(result.rows, rows)
    assert sum(members) == 64 - keep
    np.testing.assert_allclose((rows * (1 + np.array(members))[:, None]).sum(axis=0), visual.sum(axis=0))


def test_vscan_looks_ahead_from_the_last_row() -> None:
    made = prompt(decoder_weights(), 2, 9, 3)
    query, key = llava.layer_queries_keys(made.w, 1, made.hidden, made.positions)
    scores = np.zeros(9)
    for head in range(4):
        logits = [query[head, -1] @ key[head // 2, j] / 2 for j in range(14)]
        scores += [math.exp(v) / sum(math.exp(u) for u in logits) for v in logits[2:11]]
    assert vscan.cut(made, Stage(4)).kept.tolist() == top(scores, 4)


# --- CDPruner -----------------------------------------------------------------------------------------------


def brute_force(matrix: Array, count: int) -> list[int]:
    """Maximise the determinant of the picked rows, one row at a time."""
    picked: list[int] = []
    for _ in range(count):
        candidates = [j for j in range(len(matrix)) if j not in picked]
        value = {j: np.linalg.slogdet(matrix[np.ix_([*picked, j], [*picked, j])])[1] for j in candidates}
        picked.append(max(candidates, key=lambda j: (value[j], -j)))
    return picked


@pytest.mark.parametrize("seed", range(5))
def test_cdpruner_maximises_the_determinant(seed: int) -> None:
    rng = rng_for(seed)
    visual, weights = rng.normal(size=(9, 7)), rng.uniform(0.1, 1, size=9)
    plain = cdpruner.kernel(visual, np.ones(9))
    np.testing.assert_allclose(plain, unit(visual) @ unit(visual).T)
    np.fill_diagonal(plain, 1.0)  # otherwise rounding decides the first pick
    assert cdpruner.greedy_map(plain, 5) == brute_force(plain, 5)
    assert cdpruner.greedy_map(plain, 5)[0] == 0
    weighted = cdpruner.kernel(visual, weights)
    picked = cdpruner.greedy_map(weighted, 5)
    assert picked == brute_force(weighted, 5)
    assert picked[0] == int(np.argmax(weights))


def test_cdpruner_takes_the_first_of_equal_rows_and_survives_a_poor_kernel() -> None:
    # Row 3 repeats row 0. Beyond the rank nothing is left to tell the rows apart, but none comes twice.
    visual = np.eye(3)[[0, 1, 2, 0]]
    assert cdpruner.greedy_map(cdpruner.kernel(visual, np.ones(4)), 4) == [0, 1, 2, 3]


def test_cdpruner_prefers_relevant_rows_and_avoids_likeness() -> None:
    visual = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    assert cdpruner.greedy_map(cdpruner.kernel(visual, np.array([1.0, 0.9, 0.3])), 2) == [0, 2]
    assert cdpruner.greedy_map(cdpruner.kernel(visual, np.array([1.0, 0.9, 0.05])), 2) == [0, 1]


def test_cdpruner_relevance_has_opposite_signs() -> None:
    rows, text = np.array([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), np.array([[3.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(cdpruner.relevance(rows, text), [1e-6 / 2, (1 + 1e-6) / 2, (2 + 1e-6) / 2])
    np.testing.assert_allclose(cdpruner.relevance_llm(rows, text), [(2 + 1e-6) / 2, (1 + 1e-6) / 2, 1e-6 / 2])
    np.testing.assert_array_equal(cdpruner.relevance(np.ones((3, 2)), text), np.ones(3))


def test_cdpruner_keeps_the_row_most_like_the_question() -> None:
    rng = rng_for(3)
    visual, question = rng.normal(size=(16, 5)), rng.normal(size=(3, 5))
    best = int(np.argmax((unit(visual) @ unit(question).T).mean(axis=1)))
    assert cdpruner.projected(tower(4), visual, question, Stage(1)).kept.tolist() == [best]


def test_cdpruner_relevance_is_a_mean_of_cosines() -> None:
    rows, text = np.eye(2), np.array([[1.0, 0.0], [0.0, 5.0], [4.0, 3.0]])  # mean cosines 1.8 / 3 and 1.6 / 3
    expected = [(0.2 / 3 + 1e-6) / (0.2 / 3), 1e-6 / (0.2 / 3)]
    np.testing.assert_allclose(cdpruner.relevance_llm(rows, text), expected)


# --- FlowCut ------------------------------------------------------------------------------------------------


def encoder_weights(side: int = 5, layers: int = 8, seed: int = 0) -> tuple[Weights, Array]:
    config = tiny_config(side)
    config["vision_config"]["num_hidden_layers"] = layers
    w, pixels = tiny_weights(config, seed)
    for index in range(layers):  # attention that is focused, so that patches leave early
        w._tensors[f"vision.encoder.layers.{index}.self_attn.q_proj.weight"] *= 6
    return w, pixels


def test_flowcut_scores_by_hand() -> None:
    attention = np.array([[0.5, 0.3, 0.2]])
    values = np.array([[[1.0, 1.0], [math.log(3), 0.0], [0.0, -math.log(2)]]])
    # Likeness e^2 : 3 : 1/2 of the class row and the patches; sizes log 3 and log 2.
    expected = [(0.6 + 6 / 7) * math.log(3), (0.4 + 1 / 7) * math.log(2)]
    np.testing.assert_allclose(flowcut.score(attention, values), expected)


def test_flowcut_measures_the_mean_value_of_the_heads() -> None:
    attention = np.full((2, 3), 1 / 3)
    values = np.zeros((2, 3, 2))
    values[:, 1, 0] = 1.0, -1.0  # cancels
    values[:, 2, 1] = 4.0, 0.0
    np.testing.assert_allclose(flowcut.score(attention, values), [0, 2.0])


@pytest.mark.parametrize(
    ("count", "keep", "left", "stay"),
    [
        (576, 64, 20, 576 - 114),  # 114.5 is a little more than the quotient
        (69, 64, 4, 67),  # 2.5 goes to 2
        (71, 64, 4, 67),  # 3.5 goes to 4
        (66, 64, 2, 65),
        (65, 64, 4, 65),  # 0.5 goes to 0
        (80, 64, 0, 64),
    ],
)
def test_flowcut_lets_go_of_most_under_one_dominant_token(count: int, keep: int, left: int, stay: int) -> None:
    attention = np.zeros(count)  # a zero must not break the entropy
    attention[3] = 0.4
    assert flowcut.remaining_patches(attention, keep, left) == stay


def test_flowcut_scores_visual_rows_by_hand() -> None:
    """Two query heads of one key head; the row of text in between counts nowhere."""
    query, key, value = np.zeros((2, 4, 4)), np.zeros((1, 4, 4)), np.zeros((1, 4, 4))
    query[:, 3, 0] = 2.0, 0.0
    key[0, :, 0] = math.log(3), 50.0, 0.0, 7.0
    value[0, 3] = 2.0, 0.0, 0.0, 0.0
    value[0, :3, 0] = math.log(2), 50.0, -math.log(4)
    value[0, 2, 1] = 1.0
    # By sqrt(4): attention 3 : 1 in one head and equal in the other, likeness 2 : 1/4.
    expected = [(0.625 + 8 / 9) * math.log(2), (0.375 + 1 / 9) * (math.log(4) + 1)]
    np.testing.assert_allclose(flowcut.row_score(query, key, value, np.array([0, 2])), expected)
    assert [flowcut.cuts_of_tiles(layers) for layers in (4, 8, 28, 32, 40)] == [(1,), (1,), (2,), (2,), (3,)]


def test_flowcut_keeps_all_under_equal_attention_until_the_end() -> None:
    attention = np.full(50, 0.01)
    assert [flowcut.remaining_patches(attention, 10, left) for left in (20, 2, 0)] == [50, 50, 10]
    focused = np.array([0.5, 0.5, 0.0, 0.0])  # half of the entropy, a quarter of it squared
    assert flowcut.remaining_patches(focused, 1, 2) == 2  # leaves 3 / sqrt(2) * 0.75 = 1.59


@pytest.mark.parametrize("layers", [3, 4, 5, 8])
@pytest.mark.parametrize("keep", [1, 9, 24])
def test_flowcut_ends_at_the_budget(layers: int, keep: int) -> None:
    w, pixels = encoder_weights(layers=layers)
    selected = flowcut.selected_layer(w)
    assert selected == layers - 2
    features, history = flowcut.prune(w, pixels, keep)
    assert features.shape == (1 + keep, 12)
    before = 25
    for index, alive in enumerate(history):
        assert_kept(alive, len(alive), 25)
        assert len(alive) == before or (index < selected and (selected - 1 - index) % 2 == 0)
        assert keep <= len(alive) <= before
        before = len(alive)
    result = flowcut.encoder(w, pixels, keep)
    assert_kept(result.kept, keep, 25)
    np.testing.assert_array_equal(result.rows, features[1:])


def test_flowcut_with_all_patches_is_the_plain_encoder() -> None:
    w, pixels = encoder_weights()
    result = flowcut.encoder(w, pixels, 25)
    assert result.kept.tolist() == list(range(25))
    np.testing.assert_allclose(result.rows, llava.vision_tower(w, pixels).features[1:], rtol=1e-10, atol=1e-12)


def test_flowcut_cannot_prune_before_the_first_layer() -> None:
    w, pixels = encoder_weights(layers=2)
    assert len(flowcut.encoder(w, pixels, 25).rows) == 25
    with pytest.raises(ValueError, match="before layer 0"):
        flowcut.encoder(w, pixels, 24)


def masked_encoder(w: Weights, pixels: Array, keep: int) -> tuple[Array, Indices]:
    """Run the encoder on all rows, and only hide those that left: what must come out the same."""
    x, last = llava._patch_rows(w, pixels), int(w.vision["num_hidden_layers"]) - 2
    alive, history = np.ones(len(x), dtype=np.bool_), np.zeros(len(x))
    for index in range(last + 1):
        at = f"vision.encoder.layers.{index}"
        normed = llava._layer_norm(w, f"{at}.layer_norm1", x)
        q, k, v = (llava.split_heads(w.linear(f"{at}.self_attn.{p}_proj", normed), 2) for p in "qkv")
        bias = np.where(alive, 0.0, -1e4)
        attention = llava.softmax(q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]) + bias)
        likeness = llava.softmax(np.einsum("hd,hjd->hj", v[:, 0], v) + bias)
        x = x + w.linear(f"{at}.self_attn.out_proj", llava.join_heads(attention @ v))
        inner = llava.activation("quick_gelu", w.linear(f"{at}.mlp.fc1", llava._layer_norm(w, f"{at}.layer_norm2", x)))
        x = x + w.linear(f"{at}.mlp.fc2", inner)
        shown = np.flatnonzero(alive)[1:]
        if index == last or len(shown) == keep:
            continue
        a, s = attention[:, 0].mean(axis=0)[shown], likeness.mean(axis=0)[shown]
        score = (a / a.sum() + s / s.sum()) * np.abs(v.mean(axis=0)).sum(axis=-1)[shown]
        history[shown] = score if index == 0 else (history[shown] + score) / 2
        left = last - 1 - index
        if left % 2 == 0:
            p = a / a.sum()
            h = -(p * np.log(p)).sum() / np.log(len(p))
            leave = int(np.rint((len(p) - keep) / np.sqrt(left) * (1 - h * h))) if left else len(p) - keep
            order = np.argsort(history[shown], kind="stable")
            alive[shown[order[: min(leave, len(p) - keep)]]] = False
    shown = np.flatnonzero(alive)[1:]
    return x[shown], shown - 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("keep", [3, 12])
def test_flowcut_is_the_masked_encoder(seed: int, keep: int) -> None:
    w, pixels = encoder_weights(seed=seed)
    counts = [len(alive) for alive in flowcut.prune(w, pixels, keep)[1]]
    assert 25 > counts[1] > counts[3] > keep == counts[-1]
    rows, kept = masked_encoder(w, pixels, keep)
    result = flowcut.encoder(w, pixels, keep)
    np.testing.assert_array_equal(result.kept, kept)
    np.testing.assert_allclose(result.rows, rows, rtol=1e-9, atol=1e-11)
