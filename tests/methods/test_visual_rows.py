"""Which rows are chosen and what is left of a prompt, beside plain numpy: random shapes, and thousands of rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeprune.bundle.sizes import Vision
from edgeprune.errors import UsageError
from edgeprune.methods import method as methods
from edgeprune.methods.runs import most_of_prompt
from edgeprune.methods.selection import best, chosen_first, running_count, selected_first, top
from edgeprune.methods.visual_rows import Positions, drop_rows
from tests.reference.pruning import Pruned, take_out

MANY = 7290  # visual rows of a LLaVA-OneVision picture at its largest


@pytest.mark.parametrize("rows", [1, 2, 127, 128, 129, 700, MANY])
@pytest.mark.parametrize("values", [1, 3, 10**6])
def test_the_best_rows_are_those_of_a_stable_sort(rows: int, values: int) -> None:
    score = np.random.default_rng(rows).integers(0, values, (2, rows)).astype(np.float32)
    order = np.argsort(-score, axis=1, kind="stable")
    for keep in sorted({1, rows // 3, rows // 2, rows - 1, rows} - {0}):
        expected = np.sort(order[:, :keep])
        others = np.sort(order[:, keep:])
        np.testing.assert_array_equal(top(torch.tensor(score), keep), expected)
        np.testing.assert_array_equal(selected_first(torch.tensor(score), keep), np.hstack((expected, others)))
        chosen = best(torch.tensor(score), torch.tensor([[keep], [0]]))
        np.testing.assert_array_equal(chosen[0].nonzero()[:, 0], expected[0])
        assert not chosen[1].any()


@pytest.mark.parametrize("rows", [1, 128, 129, MANY])
def test_rows_are_counted_and_ordered(rows: int) -> None:
    chosen = np.random.default_rng(rows).random((2, 3, rows)) < 0.4
    np.testing.assert_array_equal(running_count(torch.tensor(chosen)), np.cumsum(chosen, axis=-1))
    expected = np.argsort(~chosen[:, 0], axis=-1, kind="stable")
    np.testing.assert_array_equal(chosen_first(torch.tensor(chosen[:, 0])), expected)


@pytest.mark.parametrize("positions", ["repack", "keep"])
@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("seed", range(12))
def test_what_is_left_of_a_prompt(seed: int, axes: int, positions: Positions) -> None:
    """Text and pictures in any order, at the ends, too; no, some or all visual rows merged or dropped."""
    rng = np.random.default_rng(seed)
    batch, rows = int(rng.integers(1, 4)), int(rng.integers(2, 40))
    visual = int(rng.integers(1, rows + 1))
    places = np.sort(rng.random((batch, rows)).argsort(axis=1)[:, :visual])
    keep = int(rng.integers(1, visual + 1))
    merge = int(rng.integers(0, keep))
    kept = rng.random((batch, visual)).argsort(axis=1)[:, :keep]
    kept[:, : keep - merge] = np.sort(kept[:, : keep - merge])
    hidden, merged = rng.standard_normal((batch, rows, 3)), rng.standard_normal((batch, merge, 3))
    ids = rng.integers(0, 99, (batch, rows) if axes == 1 else (3, batch, rows))
    left, at, which, chosen = (torch.tensor(value) for value in (hidden, ids, places, kept))
    found = drop_rows(left, at, which, chosen, positions, torch.tensor(merged) if merge else None)
    for row in range(batch):
        stays = hidden[row][places[row][kept[row][: keep - merge]]]
        pruned = Pruned(np.concatenate((stays, merged[row])), kept[row])
        expected = take_out(hidden[row], ids[..., row, :], places[row], pruned, merge, positions)
        np.testing.assert_array_equal(found[0][row], expected[0])
        np.testing.assert_array_equal(found[1][row] if found[1].dim() == 2 else found[1][:, row], expected[1])
        np.testing.assert_array_equal(found[2][row], expected[2])


@pytest.mark.parametrize("runs", [1, 2, 3, 6])
def test_runs_of_a_prompt_settle_on_their_largest(runs: int) -> None:
    value = np.random.default_rng(runs).standard_normal((6, 1)).astype(np.float32)
    expected = value.reshape(-1, runs).max(axis=1).repeat(runs)[:, None]
    np.testing.assert_array_equal(most_of_prompt(torch.tensor(value), torch.tensor(runs)), expected)


@pytest.mark.parametrize("name", ["sts", "sts-greedy", "vispruner"])
def test_tables_of_a_grid_need_one(name: str) -> None:
    record, native = methods.load(name), Vision(None, 32, 2, 2, 64, 14, "none", merge=2)
    make = record.kernel or record.vision or record.projected
    assert make is not None
    with pytest.raises(UsageError, match="this model gives every picture a grid of its own; take another method"):
        make(native)
