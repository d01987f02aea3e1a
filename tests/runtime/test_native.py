"""Our pixels against those of Transformers' Qwen2-VL image processor, and the tables against their own definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from edgeprune.bundle.image import ImageProcessing
from edgeprune.bundle.native import Native, Sampling
from edgeprune.errors import BundleError, ImageError
from edgeprune.runtime.mrope import Grid
from edgeprune.runtime.native import (
    prepare_native,
    prepare_native_video,
    sample,
    seconds_per_pair,
    smart_size,
    tables,
)

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SAMPLING = Sampling(rate=2.0, least=4, most=768, tokens_per_second=2.0)
NATIVE = Native(patch=14, merge=2, temporal=2, window=112, min_pixels=56**2, max_pixels=64 * 28**2)
VIDEO = replace(NATIVE, video=SAMPLING)
SIZES = ((150, 200), (28, 28), (2, 3), (1000, 30), (30, 1000), (480, 640), (197, 203), (57, 399), (225, 224))


def processing(native: Native) -> ImageProcessing:
    return ImageProcessing("native", None, None, None, 3, 1 / 255, MEAN, STD, native=native)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    """Coarse and fine detail, so that filters, offsets and rounding all show."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)).resize((width, height))
    fine = rng.integers(-40, 41, (height, width, 3))
    return Image.fromarray((np.asarray(coarse) + fine).clip(0, 255).astype(np.uint8))


def reference(*pictures: Image.Image, native: Native = NATIVE) -> tuple[NDArray[np.float32], list[list[int]]]:
    """What Transformers makes of pictures: patches [n, v] and their grids."""
    made = Qwen2VLImageProcessorPil(
        size={"shortest_edge": native.min_pixels, "longest_edge": native.max_pixels},
        patch_size=native.patch,
        merge_size=native.merge,
        temporal_patch_size=native.temporal,
    )(list(pictures), return_tensors="np")
    return made["pixel_values"], made["image_grid_thw"].tolist()


@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_bit_equal(size: tuple[int, int]) -> None:
    picture = noise(*size)
    feeds, grids = prepare_native([picture], processing(NATIVE))
    expected, patches = reference(picture)
    assert np.array_equal(feeds["pixel_values"].reshape(expected.shape), expected)
    assert [[frames, 2 * rows, 2 * columns] for frames, rows, columns in grids] == patches
    assert feeds["pixel_values"].shape == (1, grids[0][1] * grids[0][2], NATIVE.token_values)
    assert feeds["pixel_values"].dtype == np.float32


def test_several_pictures_follow_each_other() -> None:
    pictures = [noise(*size, seed) for seed, size in enumerate(SIZES[:4])]
    feeds, grids = prepare_native(pictures, processing(NATIVE))
    expected, patches = reference(*pictures)
    assert np.array_equal(feeds["pixel_values"].reshape(expected.shape), expected)
    assert len(grids) == len(patches) == 4


def test_other_patches_and_other_limits() -> None:
    native = Native(patch=8, merge=4, temporal=1, window=64, min_pixels=64**2, max_pixels=160**2)
    picture = noise(90, 333)
    feeds, _ = prepare_native([picture], processing(native))
    expected, _ = reference(picture, native=native)
    assert np.array_equal(feeds["pixel_values"].reshape(expected.shape), expected)


@settings(max_examples=300)
@given(st.integers(1, 9000), st.integers(1, 9000), st.sampled_from([(56**2, 64 * 28**2), (3136, 12845056), (9, 784)]))
def test_sizes(height: int, width: int, limits: tuple[int, int]) -> None:
    native = replace(NATIVE, min_pixels=limits[0], max_pixels=limits[1])
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(ImageError, match="more than 200 times as long as wide"):
            smart_size(height, width, native, native.max_pixels)
        return
    expected = smart_resize(height, width, 28, *limits)
    assert smart_size(height, width, native, native.max_pixels) == expected


@pytest.mark.parametrize("count", [1, 2, 5])
def test_frames_are_paired(count: int) -> None:
    """Each half of a pair is a frame, prepared as a picture; the last stands twice where frames are left over."""
    frames = [noise(90, 130, seed) for seed in range(count)]
    feeds, grids = prepare_native_video(frames, processing(VIDEO))
    pairs = (count + 1) // 2
    assert grids == [(pairs, 3, 5)]
    found = feeds["pixel_values"].reshape(pairs, -1, 3, 2, 14, 14)
    for place in range(2 * pairs):
        expected, _ = reference(frames[min(place, count - 1)])
        half = expected.reshape(-1, 3, 2, 14, 14)[:, :, 0]
        assert np.array_equal(found[place // 2, :, :, place % 2], half)


def test_frames_share_a_budget() -> None:
    """Numbers of Transformers' own video processor with ``cap_pixels_per_frame`` and ``max_video_tokens=300``."""
    native = replace(NATIVE, video=replace(SAMPLING, budget=300))
    for count, grid in ((4, (2, 5, 7)), (10, (5, 5, 7)), (40, (20, 3, 4))):
        _, grids = prepare_native_video([noise(150, 200)] * count, processing(native))
        assert grids == [grid]


@pytest.mark.parametrize("rate", [8.0, 24.0, 25.0, 29.97, 60.0])
@pytest.mark.parametrize("wanted", [0.5, 2.0, 24.0])
def test_sampling(rate: float, wanted: float) -> None:
    """The steps of ``Qwen2VLVideoProcessor.sample_frames``, whose last line may count one frame too many."""
    native = replace(NATIVE, video=Sampling(wanted, 4, 60, 2.0))
    for total in [*range(2, 130), 301, 5000]:
        most = 2 * (min(60, total) // 2)
        count = 2 * int(min(max(total / rate * wanted, 4), most, total) // 2)
        expected = torch.arange(0, total, total / count).int().tolist()[:count]
        found = sample(total, rate, native)
        assert found == expected and found[-1] < total
        assert seconds_per_pair(len(found), total, rate, native) == pytest.approx(2 * total / len(found) / rate)


def test_a_video_may_have_one_frame() -> None:
    assert sample(1, 30.0, VIDEO) == [0]


@pytest.mark.parametrize("total", [1, 2, 3, 5, 768])
def test_frames_without_a_rate_are_taken_all(total: int) -> None:
    """They follow each other as fast as the model samples, 2 per second; an odd number ends in half a pair."""
    found = sample(total, None, VIDEO)
    assert found == list(range(total))
    assert seconds_per_pair(len(found), total, None, VIDEO) == 1.0


def test_more_frames_than_a_model_takes() -> None:
    """An even spread of the most, as of any video; the time between them grows."""
    found = sample(1001, None, VIDEO)
    assert found == sample(1001, 2.0, VIDEO) and len(found) == 768
    assert seconds_per_pair(768, 1001, None, VIDEO) == pytest.approx(1001 / 768)


@pytest.mark.parametrize("grids", [[(1, 5, 7)], [(1, 4, 8), (1, 1, 9), (1, 3, 3)], [(3, 5, 6)], [(1, 1, 1)]])
def test_tables(grids: list[Grid]) -> None:
    """Two visual tokens share a window if their pictures, and their rows and columns by fours, are the same."""
    made = tables(grids, NATIVE)
    owner = [
        (number, frame, row, column)
        for number, (frames, rows, columns) in enumerate(grids)
        for frame in range(frames)
        for row in range(rows)
        for column in range(columns)
    ]
    count = len(owner)
    assert made["positions"].tolist() == [[row, column] for _, _, row, column in owner]
    for name, same, width in (
        ("windows", lambda token: (*token[:2], token[2] // 4, token[3] // 4), 16),
        ("pictures", lambda token: token[:2], max(rows * columns for _, rows, columns in grids)),
    ):
        table, back = made[name], made[f"{name.removesuffix('s')}_rows"]
        assert table.dtype == back.dtype == np.int64 and table.shape[1] == width
        assert table.ravel()[back].tolist() == list(range(count))
        members = [[int(index) for index in row if index < count] for row in table]
        assert all(row.tolist() == own + [count] * (width - len(own)) for row, own in zip(table, members, strict=True))
        expected: dict[Any, list[int]] = {}
        for index, token in enumerate(owner):
            expected.setdefault(same(token), []).append(index)
        assert sorted(members) == sorted(expected.values())


def test_pictures_that_cannot_be_prepared() -> None:
    with pytest.raises(ImageError, match="402x2 pixels, more than 200 times as long as wide: crop it"):
        prepare_native([noise(2, 402)], processing(NATIVE))
    with pytest.raises(ImageError, match="mode 'L', expected 'RGB'"):
        prepare_native([noise(40, 40).convert("L")], processing(NATIVE))
    with pytest.raises(ImageError, match="has no frames"):
        prepare_native_video([], processing(VIDEO))
    with pytest.raises(ImageError, match="frame 1 of the video is 50x40 pixels, the first 40x40"):
        prepare_native_video([noise(40, 40), noise(40, 50)], processing(VIDEO))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": 0}, "native.patch=0 is not a positive integer"),
        ({"window": 100}, "native.window=100 is not a multiple of a visual token's 28 pixels"),
        ({"max_pixels": 100}, "native.max_pixels=100 is not an integer from min_pixels=3136"),
        ({"max_pixels": 2**40}, "native.max_pixels"),
        ({"min_pixels": True}, "native.min_pixels=True"),
    ],
)
def test_numbers_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        replace(NATIVE, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 0}, "native.video.rate=0 is not a positive number"),
        ({"least": 0}, "native.video.least=0"),
        ({"most": 3}, r"native.video.most=3 is not an integer from 4 \(least\)"),
        ({"tokens_per_second": float("nan")}, "native.video.tokens_per_second"),
        ({"budget": -1}, "native.video.budget"),
    ],
)
def test_samplings_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        replace(SAMPLING, **change)
