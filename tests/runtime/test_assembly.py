"""Prompts laid out: which row of the table stands where, and at which position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeprune.bundle.layout import Layout
from edgeprune.bundle.sizes import Vision
from edgeprune.runtime import mrope
from edgeprune.runtime.assembly import assemble, place
from edgeprune.runtime.layout import Rows, pruned, whole
from edgeprune.runtime.pixels import Picture

WIDTH = 3  # of a row
PARTS = ((11, 12), (13,), (14, 15, 16))
GRID = Vision((2, 2), 4, 1, 1, 4, 14)


def rows(*source: int, weight: Sequence[Sequence[float]] | None = None) -> Rows:
    """Visual rows by number; with weights, each is blended from itself and the next three."""
    numbers = np.array(source)
    if weight is None:
        return Rows(numbers[:, None], None, numbers)
    return Rows(numbers[:, None] + np.arange(4), np.array(weight, np.float32), np.full(len(numbers), -2))


def gathered(
    text: NDArray[np.float32], visual: NDArray[np.float32], newline: NDArray[np.float32], order: NDArray[np.int64]
) -> NDArray[np.float32]:
    """What the graph does, for an order of one tap."""
    table = np.concatenate([text.reshape(-1, WIDTH), visual.reshape(-1, WIDTH), newline[None]])
    return table[order]


def test_one_picture() -> None:
    laid = assemble(((7, 8), (9,)), [[rows(0, 1, 2)]], 3, blends=False)
    assert laid.order.tolist() == [[0, 1, 3, 4, 5, 2]]
    assert laid.weight is None
    assert laid.visual_rows.tolist() == [[2, 3, 4]]
    assert laid.origin.tolist() == laid.source.tolist() == [[0, 1, 2]]
    assert laid.order.dtype == laid.visual_rows.dtype == np.int64


def test_text_between_pictures() -> None:
    """Rows of the second picture follow those of the first in the table; a row that nothing names stays out."""
    laid = assemble(PARTS, [[rows(0, 2), rows(3, 5, 4)]], 6, blends=False)
    assert laid.order.tolist() == [[0, 1, 6, 8, 2, 9, 11, 10, 3, 4, 5]]
    assert laid.visual_rows.tolist() == [[2, 3, 5, 6, 7]]
    assert laid.origin.tolist() == [[0, 2, 3, 5, 4]]


def test_pictures_side_by_side_and_at_the_ends() -> None:
    laid = assemble(((), (), (9,), ()), [[rows(0), rows(1), rows(2)]], 3, blends=False)
    assert laid.order.tolist() == [[1, 2, 0, 3]]
    assert laid.visual_rows.tolist() == [[0, 1, 3]]


def test_a_newline_row_is_the_last_of_the_table() -> None:
    found = [[rows(0, -1, 1, -1)], [rows(1, -1, 0, -1)]]
    laid = assemble(((7,), (8, 9)), found, 4, blends=False)
    newline = 2 * 3 + 4
    assert laid.order.tolist() == [[0, 6, newline, 7, newline, 1, 2], [3, 9, newline, 8, newline, 4, 5]]
    assert laid.source.tolist() == [[0, -1, 1, -1], [1, -1, 0, -1]]


def test_several_prompts_have_rows_of_their_own() -> None:
    """The same text, embedded once for each, and the runs of each prompt behind those of the one before."""
    laid = assemble(((7,), (8,)), [[rows(0, 1)], [rows(1, 0)], [rows(0, 0)]], 6, blends=False)
    assert laid.order.tolist() == [[0, 6, 7, 1], [2, 9, 8, 3], [4, 10, 10, 5]]
    assert laid.visual_rows.tolist() == [[1, 2]] * 3


@given(data=st.data())
def test_gathered_by_the_order_a_prompt_is_its_parts(data: st.DataObject) -> None:
    """Against the plain way: embed every part, put the pictures' rows between them."""
    prompts, pictures, runs = (data.draw(st.integers(1, 3)) for _ in range(3))
    parts = [list(range(data.draw(st.integers(0, 3)))) for _ in range(pictures + 1)]
    per_prompt = runs * data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    counts = [data.draw(st.integers(1, 5)) for _ in range(pictures)]
    placed = [[rows(*rng.integers(-1, per_prompt, count)) for count in counts] for _ in range(prompts)]
    text = rng.normal(size=(prompts, sum(map(len, parts)), WIDTH)).astype(np.float32)
    visual = rng.normal(size=(prompts * runs, per_prompt // runs, WIDTH)).astype(np.float32)
    newline = rng.normal(size=WIDTH).astype(np.float32)

    laid = assemble(parts, placed, prompts * per_prompt, blends=False)
    found = gathered(text, visual, newline, laid.order)
    for prompt in range(prompts):
        own = np.concatenate([visual.reshape(prompts, per_prompt, WIDTH)[prompt], newline[None]])
        pieces, word, is_visual = [], 0, []
        for part, picture in zip(parts, [*placed[prompt], None], strict=True):
            pieces.append(text[prompt, word : word + len(part)])
            word += len(part)
            is_visual += [False] * len(part)
            if picture is not None:
                pieces.append(own[picture.source[:, 0]])
                is_visual += [True] * len(picture.source)
        np.testing.assert_array_equal(found[prompt], np.concatenate(pieces))
        assert laid.visual_rows[prompt].tolist() == np.flatnonzero(is_visual).tolist()


# --- rows that are blended from several -----------------------------------------------------------------------------


def test_blended_rows_and_text_have_as_many_taps() -> None:
    shares = [[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0]]
    laid = assemble(((7,), (8, 9)), [[rows(0, 2, weight=shares)]], 6, blends=True)
    assert laid.weight is not None
    assert laid.order.tolist() == [[[0] * 4, [3, 4, 5, 6], [5, 6, 7, 8], [1] * 4, [2] * 4]]
    alone = [1, 0, 0, 0]
    assert laid.weight.tolist() == [[alone, *shares, alone, alone]]
    assert laid.weight.dtype == np.float32


@pytest.mark.parametrize("blended_first", [False, True])
def test_plain_rows_beside_blended_ones(blended_first: bool) -> None:
    """A picture that is gathered as it is, in a prompt with one that is not: its taps count nothing but the first."""
    plain, blended = rows(0, 1), rows(2, weight=[[0.1, 0.2, 0.3, 0.4]])
    pictures = [blended, plain] if blended_first else [plain, blended]
    laid = assemble(((), (7,), ()), [pictures], 6, blends=True)
    assert laid.weight is not None and laid.order.shape == laid.weight.shape == (1, 4, 4)
    is_plain = [place for place in laid.visual_rows[0] if laid.order[0, place, 0] in (1, 2)]
    assert len(is_plain) == 2
    assert laid.weight[0, is_plain].tolist() == [[1, 0, 0, 0]] * 2
    assert set(laid.order[0, is_plain].reshape(-1).tolist()) == {1, 2}
    np.testing.assert_allclose(laid.weight.sum(axis=2), 1, rtol=1e-6)


def test_a_graph_that_blends_takes_weights_even_where_nothing_is_blended() -> None:
    """The picture is small enough to stay as it is: one tap, of weight 1."""
    laid = assemble(((7,), (8,)), [[rows(1, 0)], [rows(0, 1)]], 4, blends=True)
    assert laid.weight is not None
    assert laid.order.tolist() == [[[0], [5], [4], [1]], [[2], [6], [7], [3]]]
    assert laid.weight.tolist() == [[[1]] * 4] * 2


def test_a_pooled_video_is_its_bilinear_frames() -> None:
    """The rows of the whole video, by their taps, against shrinking each frame by hand: means of four."""
    vision = Vision((4, 4), 4, 1, 1, 4, 14, "none")
    placed = whole(Layout("pooled", newline=True), vision, [Picture(3, (56, 56))])
    laid = assemble(((7,), (8,)), [placed], 48, blends=True)
    assert laid.weight is not None
    rng = np.random.default_rng(0)
    visual, newline = rng.normal(size=(48, WIDTH)), rng.normal(size=WIDTH)
    table = np.concatenate([np.zeros((2, WIDTH)), visual, newline[None]])
    found = (table[laid.order[0]] * laid.weight[0, :, :, None]).sum(axis=1)[laid.visual_rows[0]]
    frames = visual.reshape(3, 2, 2, 2, 2, WIDTH).mean(axis=(2, 4)).reshape(12, WIDTH)
    np.testing.assert_allclose(found, np.concatenate([frames, newline[None]]), rtol=1e-5)


# --- pruned rows ----------------------------------------------------------------------------------------------------


def test_merged_rows_are_the_last_of_every_run() -> None:
    kept = np.array([[0, 3, 1], [2, 3, 0]])
    placed = pruned("runs", GRID, [Picture(1, (28, 28)), Picture(1, (28, 28))], kept, 1)
    laid = assemble(PARTS, [placed], 6, blends=False)
    assert laid.order.tolist() == [[0, 1, 6, 7, 8, 2, 9, 10, 11, 3, 4, 5]]
    assert laid.origin.tolist() == [[0, 3, 1, 6, 7, 4]]
    assert laid.merged(1, 3).tolist() == [[False, False, True, False, False, True]]
    assert not laid.merged(0, 3).any()


def test_in_a_mosaic_merged_rows_are_still_known() -> None:
    """VisionZip's order: rows of both tiles line by line, then their merged rows."""
    kept = np.array([[0, 1, 2], [1, 2, 0], [0, 3, 1]])  # the overview, the left tile, the right tile
    placed = pruned("mosaic", GRID, [Picture(3, (28, 56), (1, 2), None, 0)], kept, 1)
    laid = assemble(((7,), (8,)), [placed], 9, blends=False)
    assert laid.source.tolist() == [[0, 1, 2, 3, 6, 4, 7, 5, 8]]
    assert laid.origin.tolist() == [[0, 1, 2, 5, 8, 6, 11, 4, 9]]
    assert laid.merged(1, 3).tolist() == [[False, False, True, False, False, False, False, True, True]]


def test_a_newline_row_is_no_merged_one() -> None:
    laid = assemble(((7,), (8,)), [[rows(0, 1, 2, -1)]], 3, blends=False)
    assert laid.merged(3, 3).tolist() == [[True, True, True, False]]


# --- positions ------------------------------------------------------------------------------------------------------


def test_positions_of_three_axes() -> None:
    """Two pictures with text between them: every row stands where the model counts it."""
    pictures = [Picture(1, (56, 84), grid=(1, 2, 3)), Picture(1, (56, 28), grid=(1, 2, 1))]
    counted = mrope.positions([2, 1, 3], [(1, 2, 3), (1, 2, 1)])
    laid = assemble(PARTS, [whole(Layout(), Vision(None, 4, 1, 1, 4, 14, "none"), pictures)], 8, blends=False)
    ids = place(laid, counted.text, counted.visual)
    assert ids.shape == (3, 1, 14)
    assert ids[0, 0].tolist() == [0, 1, *[2] * 6, 5, 6, 6, 8, 9, 10]
    assert ids[1, 0].tolist() == [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7, 8, 9, 10]
    assert ids[2, 0].tolist() == [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 6, 8, 9, 10]
    assert counted.end == 11


def test_a_pruned_prompt_gathers_the_positions_of_what_it_kept() -> None:
    """Pruning before the decoder counts nothing anew: rows that are left stand where they stood."""
    vision = Vision(None, 4, 1, 1, 4, 14, "none")
    pictures = [Picture(1, (56, 84), grid=(1, 2, 3)), Picture(1, (56, 28), grid=(1, 2, 1))]
    counted = mrope.positions([2, 1, 3], [(1, 2, 3), (1, 2, 1)])
    full = assemble(PARTS, [whole(Layout(), vision, pictures)], 8, blends=False)
    everything = place(full, counted.text, counted.visual)
    kept = [0, 4, 7, 5]  # the last, merged, is of the first picture
    laid = assemble(PARTS, [pruned("runs", vision, pictures, np.array([kept]), 1)], 4, blends=False)
    ids = place(laid, counted.text, counted.visual)
    assert laid.origin.tolist() == [[0, 4, 5, 7]]
    assert laid.order.tolist() == [[0, 1, 6, 7, 9, 2, 8, 3, 4, 5]]
    assert ids[:, 0].tolist() == everything[:, 0, [0, 1, 2, 6, 7, 8, 10, 11, 12, 13]].tolist()
