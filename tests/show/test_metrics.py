"""The measures, on cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.show import metrics


def block(rows: int, columns: int, first: int = 0) -> NDArray[np.int64]:
    return np.arange(first, first + rows * columns).reshape(rows, columns)


def test_patches_leave_out_class_rows_and_ends_of_lines() -> None:
    assert metrics.patches((5, -1, 2, -2, 5, -1)) == (2, 5)


@pytest.mark.parametrize(
    ("kept", "grid", "side"),
    [
        ((), (3, 5), 3),  # nothing kept: as large as the shorter edge
        ((), (5, 3), 3),
        (range(12), (3, 4), 0),  # everything kept
        ((4,), (3, 3), 1),  # the middle of three by three
        ((0,), (3, 3), 2),  # a corner: two by two at the opposite one
        ((-1,), (3, 3), 3),  # the class row covers nothing
        ((5, 6, 9, 10), (4, 4), 1),  # the four in the middle leave a ring of width 1
        ((0, 1, 2, 3), (4, 4), 3),  # the top row
    ],
)
def test_largest_gap(kept: tuple[int, ...], grid: tuple[int, int], side: int) -> None:
    assert metrics.largest_gap(kept, [block(*grid)]) == side


def test_the_largest_gap_of_several_blocks() -> None:
    mosaic = np.concatenate([block(2, 2, 4), block(2, 2, 8)], axis=1)
    assert metrics.largest_gap((0, 1, 2, 3, 5), [block(2, 2), mosaic]) == 2  # across the edge of two tiles it is 2 x 2
    assert metrics.largest_gap((3, 5, 8), [block(2, 2), mosaic]) == 1


def test_diversity() -> None:
    features = np.array([[2, 0], [5, 0], [0, 3], [-1, 0]], np.float32)
    assert metrics.diversity(features, (0, 1)) == pytest.approx(0)  # the same way, whatever the length
    assert metrics.diversity(features, (0, 2)) == pytest.approx(1)  # at a right angle
    assert metrics.diversity(features, (0, 3)) == pytest.approx(2)  # opposite
    assert metrics.diversity(features, (-1, 0, 1, 2)) == pytest.approx(1 - 1 / 3)  # cosines 1, 0, 0
    assert metrics.diversity(features, (0,)) is None
    assert metrics.diversity(features, (-1, 2)) is None


def test_diversity_is_the_mean_over_pairs_written_out() -> None:
    features = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float16)
    units = features.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    cosines = [float(units[i] @ units[j]) for i in range(9) for j in range(i)]
    assert metrics.diversity(features, range(9)) == pytest.approx(1 - sum(cosines) / len(cosines))


def test_diversity_of_zeros() -> None:
    assert metrics.diversity(np.zeros((3, 4), np.float32), range(3)) == pytest.approx(1)


def test_vertical_centre() -> None:
    assert metrics.vertical_centre(range(12), [block(4, 3)]) == pytest.approx(0.5)
    assert metrics.vertical_centre((0, 1, -1), [block(4, 3)]) == 0
    assert metrics.vertical_centre((9, 11), [block(4, 3)]) == 1
    assert metrics.vertical_centre((0, 9, 10), [block(4, 3)]) == pytest.approx(2 / 3)
    assert metrics.vertical_centre((-1,), [block(4, 3)]) is None
    assert metrics.vertical_centre((0,), [block(1, 3)]) is None


def test_the_vertical_centre_of_several_blocks() -> None:
    blocks = [block(3, 2), block(2, 2, 6), block(1, 2, 10)]
    assert metrics.vertical_centre((2, 8, 10), blocks) == pytest.approx((0.5 + 1) / 2)  # one line has no height


def test_attention_share() -> None:
    attention = np.array([1, 2, 3, 4], np.float32)
    assert metrics.attention_share(attention, (3, -1)) == pytest.approx(0.4)
    assert metrics.attention_share(attention, range(4)) == pytest.approx(1)
    assert metrics.attention_share(attention, ()) == 0
    assert metrics.attention_share(np.zeros(4, np.float32), (1,)) is None


def test_overlap() -> None:
    assert metrics.overlap((0, 1, 2), (2, 1, 3)) == pytest.approx(0.5)
    assert metrics.overlap((-1, 4), (4,)) == 1  # the class row is no patch
    assert metrics.overlap((0,), (1,)) == 0
    assert metrics.overlap((), (-1,)) == 1


def test_the_deepest_attention() -> None:
    names = ("features", "cls_attention_6", "cls_attention_22", "key_23", "cls_attention_x")
    assert metrics.deepest_attention(names) == "cls_attention_22"
    assert metrics.deepest_attention(("features", "key_22")) is None


def test_measures_of_all_stages() -> None:
    features, attention = np.eye(4, dtype=np.float32), np.array([1, 1, 1, 5], np.float32)
    found = metrics.measure([(-1, 0, 1, 3), (0, 3)], [block(2, 2)], features, attention)
    assert found.tokens == (4, 2)
    assert (found.gap_first, found.gap_last) == (1, 1)
    assert found.diversity == pytest.approx(1)
    assert found.vertical_centre == pytest.approx(0.5)
    assert found.attention_share == pytest.approx(0.75)
    assert metrics.measure([(0,)], [block(2, 2)], features, None).attention_share is None
