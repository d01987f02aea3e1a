"""VScan where pictures keep their resolution: its windows and its walk, and the cut that rotates nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune.bundle.native import Native
from edgeprune.bundle.sizes import Vision
from edgeprune.checkpoint.rope import Rope
from edgeprune.methods.attention import LastRowCut
from edgeprune.methods.vscan import NativeStage, PlainCut, ProjectedStage, make_cut, make_stage
from edgeprune.runtime.native import tables
from tests.methods.test_visiondrop import Small
from tests.reference import vscan
from tests.reference.llava import causal_attention
from tests.reference.pruning import Pruned, take_out

NATIVE = Native(patch=14, merge=2, temporal=2, window=112, min_pixels=3136, max_pixels=2**24)
THREE = Rope(10000.0, sections=(1, 1, 0))

Grids = list[tuple[int, int, int]]
Floats = NDArray[np.float32]


def stage(grids: Grids, deep: Floats, local: Floats, keep: int, x: Floats) -> tuple[Floats, NDArray[np.int64]]:
    told = tables(grids, NATIVE)
    where = (torch.from_numpy(told[name]) for name in ("positions", "pictures", "picture_rows"))
    read = (torch.from_numpy(value) for value in (x, deep, local))
    rows, kept = NativeStage()(*read, *where, torch.tensor(keep))
    return rows.numpy(), kept.numpy()


GRIDS: dict[str, Grids] = {
    "one token": [(1, 1, 1)],
    "a line": [(1, 1, 9)],
    "a column of two": [(1, 2, 1)],
    "3 x 5": [(1, 3, 5)],
    "whole windows": [(1, 8, 12)],
    "remainders": [(1, 7, 7)],
    "pictures": [(1, 5, 9), (1, 1, 1), (1, 2, 13), (1, 4, 4)],
    "frame pairs": [(3, 5, 6)],
}


@pytest.mark.parametrize("values", [2, 40])
@pytest.mark.parametrize("grids", GRIDS.values(), ids=list(GRIDS))
def test_every_count_of_tokens(grids: Grids, values: int) -> None:
    """Two prompts side by side; scores of few values tie."""
    tokens = sum(frames * rows * columns for frames, rows, columns in grids)
    rng = np.random.default_rng(tokens)
    deep, local = (rng.integers(0, values, (2, 2, tokens)) / values).astype(np.float32)
    x = rng.standard_normal((2, tokens, 5)).astype(np.float32)
    pictures = [(rows, columns) for frames, rows, columns in grids for _ in range(frames)]
    for keep in range(1, tokens + 1):
        rows, kept = stage(grids, deep, local, keep, x)
        for prompt in range(2):
            expected = vscan.walk(local[prompt], deep[prompt], pictures, keep)
            assert kept[prompt].tolist() == expected.tolist(), keep
            merged, _ = vscan.merge(x[prompt].astype(np.float64), expected)
            np.testing.assert_allclose(rows[prompt], merged, rtol=0, atol=1e-5)


def test_a_full_window_is_passed_over() -> None:
    """Eight tokens in a line are four windows of two, and two tokens of the local scan come from two windows."""
    local = np.array([[9, 8, 1, 2, 0, 0, 7, 6]], np.float32)
    deep = np.array([[0, 1, 0, 0, 5, 4, 9, 0]], np.float32)
    x = np.eye(8, dtype=np.float32)[None]
    assert stage([(1, 1, 8)], deep, local, 4, x)[1].tolist() == [[0, 4, 5, 6]]


def test_windows_that_are_too_small_leave_more_to_the_global_scan() -> None:
    """Of 7 x 7 tokens nine windows have one, six have four and the last sixteen: 23 at two each, where 24 are wanted.

    Both scans prefer the last window; the global one takes 25 then, 14 of them there, which has no more.
    """
    row, column = np.indices((7, 7))
    last = (row >= 3) & (column >= 3)
    score = (last * 100 + 49 - np.arange(49).reshape(7, 7)).astype(np.float32).reshape(1, 49)
    _, kept = stage([(1, 7, 7)], score, score, 48, np.ones((1, 49, 2), np.float32))
    in_order = sorted(range(49), key=lambda i: -score[0, i])
    window = [(min(i // 7, 3), min(i % 7, 3)) for i in range(49)]
    local = [i for i in range(49) if sum(window[j] == window[i] for j in in_order[: in_order.index(i)]) < 2]
    assert len(local) == 23
    others = [i for i in in_order if i not in local]
    assert kept[0].tolist() == sorted(local + others[:25])


def test_thousands_of_tokens() -> None:
    grids: Grids = [(1, 61, 43), (1, 20, 30)]
    tokens = 61 * 43 + 20 * 30
    rng = np.random.default_rng(0)
    deep, local = rng.integers(0, 500, (2, 1, tokens)).astype(np.float32)
    _, kept = stage(grids, deep, local, tokens // 6, rng.standard_normal((1, tokens, 3)).astype(np.float32))
    expected = vscan.walk(local[0], deep[0], [grid[1:] for grid in grids], tokens // 6)
    assert kept[0].tolist() == expected.tolist()


def test_which_form_a_model_gets() -> None:
    assert isinstance(make_stage(Vision(None, 32, 2, 2, 64, 14, "none", merge=2)), NativeStage)
    assert isinstance(make_stage(Vision((8, 8), 32, 2, 2, 64, 14)), ProjectedStage)
    assert isinstance(make_cut(Small(rope=THREE), False, "keep"), PlainCut)
    assert isinstance(make_cut(Small(), False, "repack"), LastRowCut)


@pytest.mark.parametrize("seed", range(4))
def test_the_cut_rotates_nothing(seed: int) -> None:
    """By numpy; positions, which are kept, have no part in the choice."""
    config, rng = Small(rope=THREE), np.random.default_rng(seed)
    cut = make_cut(config, False, "keep")
    for parameter in cut.parameters():
        parameter.data = torch.from_numpy(rng.standard_normal(tuple(parameter.shape)).astype(np.float32))
    w = {name: value.detach().double().numpy() for name, value in cut.named_parameters()}
    hidden = rng.standard_normal((1, 30, config.hidden)).astype(np.float32)
    ids, rows, keep = rng.integers(0, 50, (3, 1, 30)), np.sort(rng.permutation(28)[:17])[None], 6
    with torch.no_grad():
        found = [value.numpy() for value in cut(*map(torch.from_numpy, (hidden, ids, rows)), torch.tensor(keep))]

    wide = hidden[0].astype(np.float64)
    normed = wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + config.norm_eps) * w["input_layernorm.weight"]
    q, k = (
        (normed @ w[f"self_attn.{part}_proj.weight"]).reshape(30, -1, config.head_dim).transpose(1, 0, 2)
        for part in "qk"
    )
    score = causal_attention(q[:, -1:], k).mean(axis=0)[0, rows[0]]
    kept = np.sort(np.argsort(-score, kind="stable")[:keep])
    assert found[3].tolist() == [kept.tolist()]
    expected = take_out(hidden[0], ids[:, 0], rows[0], Pruned(hidden[0, rows[0, kept]], kept), 0, "keep")
    for value, own in zip((found[0][0], found[1][:, 0], found[2][0]), expected, strict=True):
        np.testing.assert_array_equal(value, own)
