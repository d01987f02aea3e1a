"""Our rows against what Hugging Face's models pack of random features, for many sizes of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeprune.bundle.image import Tiles
from edgeprune.bundle.layout import Layout
from edgeprune.bundle.sizes import Vision
from edgeprune.errors import BundleError
from edgeprune.runtime.layout import CLASS_ROW, NO_PLACE, Rows, by_origin, pruned, whole
from edgeprune.runtime.pixels import Picture
from edgeprune.runtime.tiles import choose_grid

pytest.importorskip("torch")
pytest.importorskip("transformers")
import torch
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel, image_size_to_num_patches
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

WIDTH = 4  # of a row
PATCH = 2  # pixels
NEXT = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
ONEVISION = tuple((rows, columns) for rows in range(1, 7) for columns in range(1, 7))
TEXT = {"model_type": "llama", "hidden_size": WIDTH, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 8}
HEADS = {"num_attention_heads": 1, "num_key_value_heads": 1, "num_hidden_layers": 1, "intermediate_size": 4}


def vision(side: int, class_row: Any = "none") -> Vision:
    return Vision((side, side), WIDTH, 1, 1, 4, PATCH, class_row)


def model(kind: Any, side: int, grids: Sequence[tuple[int, int]]) -> Any:
    """A model of one layer with a tower of side x side patches."""
    tower = {"hidden_size": WIDTH, "image_size": side * PATCH, "patch_size": PATCH, **HEADS}
    towers = {LlavaNextModel: "clip_vision_model", LlavaOnevisionModel: "siglip_vision_model"}
    config = kind.config_class(
        vision_config={"model_type": towers[kind], **tower},
        text_config={**TEXT, **HEADS},
        image_grid_pinpoints=[[rows * side * PATCH, columns * side * PATCH] for rows, columns in grids],
        image_token_index=1,
    )
    made = kind(config).eval()
    torch.nn.init.normal_(made.image_newline)
    return made


@pytest.fixture(scope="module")
def llava_next() -> dict[int, Any]:
    return {side: model(LlavaNextModel, side, NEXT) for side in (5, 6, 24)}


@pytest.fixture(scope="module")
def onevision() -> dict[int, Any]:
    return {side: model(LlavaOnevisionModel, side, ONEVISION) for side in (3, 4, 27)}


def picture(size: tuple[int, int], side: int, grids: tuple[tuple[int, int], ...]) -> Picture:
    """Of (height, width) pixels, cut as the models' processors do."""
    tiles = choose_grid(Tiles("best_fit", grids), (side * PATCH, side * PATCH), size)
    return Picture(tiles[0] * tiles[1] + 1, size, tiles, None, 0)


def features(runs: int, side: int) -> NDArray[np.float32]:
    values: NDArray[np.float32] = np.random.default_rng(0).standard_normal((runs, side * side, WIDTH), np.float32)
    return values


def apply(rows: Rows, values: NDArray[np.float32], newline: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """What `assemble` makes of rows: a gather, or the weighted sum of several."""
    table = values.reshape(-1, WIDTH)
    if newline is not None:
        table = np.concatenate([table, newline[None]])  # source -1
    taken = table[rows.source]
    if rows.weight is None:
        assert rows.source.shape[1] == 1
        return taken[:, 0]
    assert rows.weight.dtype == np.float32
    blended: NDArray[np.float32] = (taken * rows.weight[..., None]).sum(axis=1)
    return blended


def packed(
    made: Any, values: NDArray[np.float32], pictures: Sequence[Picture], **options: Any
) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
    parts = torch.split(torch.from_numpy(values), [one.runs for one in pictures])
    sizes = torch.tensor([one.size for one in pictures])
    with torch.no_grad():
        lines, _ = made.pack_image_features(parts, sizes, image_newline=made.image_newline, **options)
        return [one.numpy() for one in lines], made.image_newline.numpy()


def check_next(made: Any, side: int, sizes: Sequence[tuple[int, int]]) -> list[Rows]:
    pictures = [picture(size, side, NEXT) for size in sizes]
    for one in pictures:  # the model's own count of runs
        pinpoints = made.config.image_grid_pinpoints
        assert one.runs == image_size_to_num_patches(list(one.size), pinpoints, side * PATCH)
    values = features(sum(one.runs for one in pictures), side)
    theirs, newline = packed(made, values, pictures, vision_feature_select_strategy="default")
    ours = whole(Layout("mosaic", True), vision(side), pictures)
    for rows, expected in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(apply(rows, values, newline), expected)
        _check_origin(rows)
    return ours


def check_onevision(made: Any, side: int, sizes: Sequence[tuple[int, int]], limit: int = 9) -> list[Rows]:
    pictures = [picture(size, side, ONEVISION) for size in sizes]
    values = features(sum(one.runs for one in pictures), side)
    theirs, newline = packed(made, values, pictures, vision_aspect_ratio=f"anyres_max_{limit}")
    ours = whole(Layout("mosaic", True, limit), vision(side), pictures)
    for rows, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(apply(rows, values, newline), expected, rtol=0, atol=1e-6)
        if rows.weight is None:
            np.testing.assert_array_equal(apply(rows, values, newline), expected)
        _check_origin(rows)
    return ours


def _check_origin(rows: Rows) -> None:
    """Rows say where they come from, a blended one from what has most part in it; newline rows have no such place."""
    weight = np.ones(rows.source.shape, np.float32) if rows.weight is None else rows.weight
    most = np.take_along_axis(rows.source, weight.argmax(axis=1)[:, None], axis=1)[:, 0]
    np.testing.assert_array_equal(rows.origin, np.where(most < 0, NO_PLACE, most))
    places = rows.origin[rows.origin >= 0]
    assert len(set(places.tolist())) == len(places)


SIZES = [(480, 640), (640, 480), (300, 300), (333, 1000), (1000, 333), (7, 3), (101, 99), (2, 90), (90, 2), (671, 673)]


@pytest.mark.parametrize("side", [5, 6, 24])
def test_llava_next(llava_next: dict[int, Any], side: int) -> None:
    for size in SIZES:
        check_next(llava_next[side], side, [size])
    check_next(llava_next[side], side, SIZES[:3])


def test_llava_next_at_its_real_size(llava_next: dict[int, Any]) -> None:
    (rows,) = check_next(llava_next[24], 24, [(672, 672)])
    assert len(rows.origin) == 2880 + 48
    (rows,) = check_next(llava_next[24], 24, [(480, 640)])
    assert len(rows.origin) == 576 + 36 * (48 + 1)


@pytest.mark.parametrize("side", [3, 4, 27])
def test_onevision(onevision: dict[int, Any], side: int) -> None:
    for size in SIZES:
        check_onevision(onevision[side], side, [size])
    check_onevision(onevision[side], side, SIZES[:3], limit=2)


def test_onevision_at_its_real_size(onevision: dict[int, Any]) -> None:
    (largest,) = check_onevision(onevision[27], 27, [(324, 324)])
    assert (largest.weight is not None, len(largest.origin)) == (True, 729 + 81 * 82)  # 36 tiles shrunk to 9
    (rows,) = check_onevision(onevision[27], 27, [(162, 162)])
    assert (rows.weight is None, len(rows.origin)) == (True, 729 + 81 * 82)  # 9 tiles


@settings(max_examples=200)
@given(height=st.integers(2, 400), width=st.integers(2, 400), side=st.sampled_from([3, 4]), limit=st.integers(2, 9))
def test_any_size(
    llava_next: dict[int, Any], onevision: dict[int, Any], height: int, width: int, side: int, limit: int
) -> None:
    check_next(llava_next[side + 2], side + 2, [(height, width)])
    check_onevision(onevision[side], side, [(height, width)], limit)


@pytest.mark.parametrize("side", [3, 4, 27])
def test_pooled_video(onevision: dict[int, Any], side: int) -> None:
    made, frames = onevision[side], 3
    values = features(frames, side)
    with torch.no_grad():
        pooled = made.apply_pooling(torch.from_numpy(values)).reshape(-1, WIDTH)
    newline = made.image_newline.detach().numpy()
    (rows,) = whole(Layout("pooled", True), vision(side), [Picture(frames, (9, 16))])
    ours = apply(rows, values, newline)
    np.testing.assert_allclose(ours[:-1], pooled.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(ours[-1], newline)
    assert len(rows.origin) == frames * ((side + 1) // 2) ** 2 + 1
    _check_origin(rows)


def test_pictures_of_one_run_end_with_a_newline(onevision: dict[int, Any]) -> None:
    pictures = [Picture(1, (9, 16)), Picture(1, (5, 5))]
    values = features(2, 3)
    theirs, newline = packed(onevision[3], values, pictures)
    for rows, expected in zip(whole(Layout("mosaic", True, 9), vision(3), pictures), theirs, strict=True):
        np.testing.assert_array_equal(apply(rows, values, newline), expected)


def test_rows_as_they_are() -> None:
    tiled, alone = Picture(3, (9, 16), (1, 2), None, 2), Picture(1, (5, 5))
    first, second = whole(Layout(), vision(2), [tiled, alone])
    assert first.source[:, 0].tolist() == first.origin.tolist() == list(range(12))
    assert second.source[:, 0].tolist() == second.origin.tolist() == [12, 13, 14, 15]
    assert first.weight is None


def test_a_class_row_among_the_rows_has_no_place() -> None:
    (rows,) = whole(Layout(), vision(2, "inside"), [Picture(2, (9, 16))])
    assert rows.source[:, 0].tolist() == list(range(10))
    assert rows.origin.tolist() == [CLASS_ROW, 0, 1, 2, 3, CLASS_ROW, 5, 6, 7, 8]


NATIVE = Vision(None, WIDTH, 1, 1, 4, PATCH, "none")


def test_native_pictures_share_a_run() -> None:
    pictures = [Picture(1, (9, 16), None, (1, 2, 3)), Picture(1, (9, 9), None, (2, 2, 2))]
    first, second = whole(Layout(), NATIVE, pictures)
    assert first.origin.tolist() == first.source[:, 0].tolist() == list(range(6))
    assert second.origin.tolist() == second.source[:, 0].tolist() == list(range(6, 14))
    kept = np.array([[1, 5, 6, 13, 2, 7]])  # the last two are merged rows
    one, two = pruned("mosaic", NATIVE, pictures, kept, 2)
    assert (one.source[:, 0].tolist(), one.origin.tolist()) == ([0, 1, 4], [1, 5, 2])
    assert (two.source[:, 0].tolist(), two.origin.tolist()) == ([2, 3, 5], [6, 13, 7])


def test_run_by_run() -> None:
    pictures = [Picture(2, (9, 16), None), Picture(1, (5, 5))]
    kept = np.array([[-1, 1, 3, 0], [-1, 0, 2, 1], [-1, 2, 3, 0]])
    for order in ("runs", "mosaic"):  # no picture has tiles
        first, second = pruned(order, vision(2, "apart"), pictures, kept, 1)
        assert first.source[:, 0].tolist() == list(range(8))
        assert first.origin.tolist() == [CLASS_ROW, 1, 3, 0, CLASS_ROW, 4, 6, 5]
        assert second.source[:, 0].tolist() == [8, 9, 10, 11]
        assert second.origin.tolist() == [CLASS_ROW, 10, 11, 8]


@pytest.mark.parametrize(("class_row", "given"), [("none", 4), ("apart", 4), ("inside", 5), ("inside", 4)])
def test_what_an_encoder_gives_is_found_by_origin(class_row: Any, given: int) -> None:
    tower = vision(2, class_row)
    values = np.arange(3 * given * 2).reshape(3, given, 2)
    found = by_origin(values, tower)
    (rows,) = whole(Layout(), tower, [Picture(3, (9, 16))])
    places = rows.origin[rows.origin >= 0]
    np.testing.assert_array_equal(found[places], values[:, given - 4 :].reshape(-1, 2))  # without class rows
    assert by_origin(values[..., 0], tower).shape == (3 * tower.tokens,)
    assert by_origin(values[:1], NATIVE).tolist() == values[0].tolist()


def visionzip(tiles: tuple[int, int], side: int, kept: NDArray[np.int64], merged: int) -> list[tuple[str, int, int]]:
    """VisionZip's order, step by step as its description has it: (kind, run, patch)."""
    plain = kept.shape[1] - merged
    order = [("overview", 0, int(patch)) for patch in kept[0]]
    rows, columns = tiles
    for y in range(rows * side):
        for x in range(columns * side):
            run, patch = 1 + y // side * columns + x // side, y % side * side + x % side
            if patch in kept[run, :plain]:
                order.append(("patch", run, patch))
    order += [("class", run, -1) for run in range(1, len(kept)) if -1 in kept[run]]
    order += [("merged", run, int(patch)) for run in range(1, len(kept)) for patch in kept[run, plain:]]
    return order


@pytest.mark.parametrize("tiles", [(2, 2), (1, 3), (3, 1), (2, 3)])
@pytest.mark.parametrize("has_class_row", [True, False])
def test_visionzips_order(tiles: tuple[int, int], has_class_row: bool) -> None:
    side, merged, stream = 4, 2, np.random.default_rng(0)
    runs = tiles[0] * tiles[1] + 1
    drawn = [stream.permutation(side * side) for _ in range(runs)]
    head = [-1] if has_class_row else []
    kept = np.array([[*head, *sorted(one[:5]), *sorted(one[5 : 5 + merged])] for one in drawn])
    (rows,) = pruned("mosaic", vision(side, "apart"), [Picture(runs, (9, 9), tiles, None, 0)], kept, merged)
    width, plain = kept.shape[1], kept.shape[1] - merged
    ours = []
    for source, origin in zip(rows.source[:, 0].tolist(), rows.origin.tolist(), strict=True):
        run, column = divmod(source, width)
        patch = int(kept[run, column])
        assert origin == (CLASS_ROW if patch < 0 else run * side * side + patch)
        kind = "overview" if run == 0 else "class" if patch < 0 else "merged" if column >= plain else "patch"
        ours.append((kind, run, patch))
    assert ours == visionzip(tiles, side, kept, merged)


def test_visionzips_order_counts_the_runs_before() -> None:
    kept = np.array([[0, 1], [2, 3], [0, 1], [1, 2], [1, 3]])
    pictures = [Picture(2, (5, 5), (1, 1), None, 0), Picture(3, (5, 9), (1, 2), None, 0)]
    first, second = pruned("mosaic", vision(2), pictures, kept, 0)
    assert first.source[:, 0].tolist() == [0, 1, 2, 3]
    assert second.source[:, 0].tolist() == [4, 5, 6, 8, 7, 9]  # lines of both tiles: 1 of one, 1 of the other, 2, 3
    assert second.origin.tolist() == [8, 9, 13, 17, 14, 19]


def test_an_overview_behind_its_tiles_stays_there() -> None:
    kept = np.array([[1, 2], [1, 3], [0, 1]])
    (rows,) = pruned("mosaic", vision(2), [Picture(3, (5, 9), (1, 2), None, 2)], kept, 0)
    assert rows.source[:, 0].tolist() == [0, 2, 1, 3, 4, 5]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"kind": "tiles"}, 'kind=.tiles. is not "rows" or "mosaic" or "pooled"'),
        ({"kind": "rows", "newline": True}, "newline=True is not false for kind 'rows'"),
        ({"kind": "mosaic", "newline": 1}, "newline=1 is not true or false"),
        ({"kind": "mosaic", "limit": 0}, "limit=0 is not a positive integer or null"),
        ({"kind": "mosaic", "limit": True}, "limit=True"),
        ({"kind": "pooled", "limit": 9}, "limit=9 is not null for kind 'pooled'"),
    ],
)
def test_a_layout_validates_itself(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Layout(**facts)
    assert [Layout(**one).taps for one in ({}, {"kind": "mosaic"}, {"kind": "mosaic", "limit": 9})] == [1, 1, 4]
    assert Layout("pooled").taps == 4
