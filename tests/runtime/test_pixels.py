"""What becomes of the pictures of a prompt, of each kind: tensors, runs and geometry; and of the wrong ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeprune.bundle.codec import decode, encode
from edgeprune.bundle.image import Frames, ImageProcessing, Tiles
from edgeprune.bundle.native import TABLES, Native, Sampling
from edgeprune.errors import BundleError, ImageError, UsageError
from edgeprune.runtime.native import prepare_native, prepare_native_video
from edgeprune.runtime.pixels import Picture, prepare, stack
from edgeprune.runtime.preprocess import batch
from tests.runtime.clips import frame, number_of, write_clip
from tests.runtime.photos import noise

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
NATIVE = Native(patch=4, merge=2, temporal=2, window=16, min_pixels=16 * 16, max_pixels=64 * 64)
VIDEO = Native(4, 2, 2, 16, 16 * 16, 64 * 64, Sampling(rate=2.0, least=2, most=8, tokens_per_second=2.0))


def processing(kind: str = "fixed", **changes: Any) -> ImageProcessing:
    sizes = {
        "fixed": (30, None, (24, 24)),
        "frames": (30, None, (24, 24)),
        "tiles": (None, (24, 24), None),
        "native": (None,) * 3,
    }
    shortest, exact, crop = sizes.get(kind, sizes["fixed"])
    facts: dict[str, Any] = {"resize_shortest": shortest, "resize_exact": exact, "crop": crop, "resample": 3}
    facts |= {"rescale": 1 / 255, "mean": MEAN, "std": STD}
    needs: dict[str, Any] = {
        "tiles": Tiles("best_fit", ((1, 2), (2, 1), (2, 2))),
        "frames": Frames(8),
        "native": NATIVE,
    }
    own = {kind: needs[kind]} if kind in needs else {}
    return ImageProcessing(kind, **{**facts, **own, **changes})


def test_pictures_of_one_size() -> None:
    pictures = [noise(90, 70), noise(30, 50, seed=1)]
    ours = prepare(pictures, processing())
    assert ours.pictures == (Picture(1, (70, 90)), Picture(1, (50, 30)))
    assert (ours.runs, ours.prompts) == (2, 1)
    np.testing.assert_array_equal(ours.feeds["pixel_values"], batch(pictures, processing()))


def test_pictures_in_tiles() -> None:
    ours = prepare([noise(90, 40), noise(40, 40, seed=1)], processing("tiles"))
    assert ours.pictures == (Picture(3, (40, 90), (1, 2), None, 0), Picture(5, (40, 40), (2, 2), None, 0))
    assert ours.runs == 8
    assert ours.feeds["pixel_values"].shape == (8, 3, 24, 24)
    assert ours.feeds["pixel_values"].flags.c_contiguous


def test_pictures_of_their_own_resolution() -> None:
    pictures = [noise(40, 24), noise(24, 24, seed=1)]
    ours = prepare(pictures, processing("native"))
    feeds, grids = prepare_native(pictures, processing("native"))
    assert [one.grid for one in ours.pictures] == grids
    assert ours.runs == 1  # one holds both
    for name, value in feeds.items():
        np.testing.assert_array_equal(ours.feeds[name], value)


def test_frames_of_a_video_are_transformers_pictures(tmp_path: Path) -> None:
    """Frame by frame as ``VideoLlavaImageProcessor``; the processor of videos resizes with torchvision instead."""
    pytest.importorskip("transformers")
    from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor

    path = write_clip(tmp_path / "clip.mp4", 20)
    ours = prepare([path], processing("frames"))
    assert ours.pictures == (Picture(8, (48, 64)),)
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        every = [one.to_ndarray(format="rgb24") for one in container.decode(video=0)]
    frames = [every[number] for number in np.arange(0, 20, 20 / 8).astype(int)]
    theirs = VideoLlavaImageProcessor(
        size={"shortest_edge": 30}, crop_size={"height": 24, "width": 24}, image_mean=list(MEAN), image_std=list(STD)
    )(frames, return_tensors="np", input_data_format="channels_last")
    (pixels,) = theirs.values()  # its name is not the same in all versions
    np.testing.assert_allclose(ours.feeds["pixel_values"], pixels, rtol=0, atol=1e-6)


def test_a_folder_or_a_list_of_frames_is_a_video(tmp_path: Path) -> None:
    pictures = [Image.fromarray(frame(number)) for number in range(16)]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    from_folder, from_list = prepare([tmp_path], processing("frames")), prepare([pictures], processing("frames"))
    expected = batch(pictures[::2], processing())
    for one in (from_folder, from_list):
        np.testing.assert_array_equal(one.feeds["pixel_values"], expected)
        assert one.pictures == (Picture(8, (48, 64)),)


def test_a_video_of_native_resolution(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 20)  # of 2 seconds, so 4 frames are taken
    facts = processing("native", native=VIDEO)
    ours = prepare([path], facts)
    (video,) = ours.pictures
    assert video.grid is not None and video.grid[0] == 2
    assert video.seconds == pytest.approx(1.0)
    assert ours.runs == 1
    pictures = [Image.fromarray(frame(number)) for number in range(5)]
    assert prepare([pictures[:4]], facts).pictures == ours.pictures  # counts as sampled already
    assert number_of(pictures[3]) == 3


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_all_frames_of_a_list_are_seen(count: int) -> None:
    """The last one stands twice where they make no whole pairs."""
    facts = processing("native", native=VIDEO)
    pictures = [Image.fromarray(frame(number)) for number in range(count)]
    (video,) = (ours := prepare([pictures], facts)).pictures
    assert video.grid is not None and video.grid[0] == (count + 1) // 2
    assert video.seconds == 1.0
    expected, _ = prepare_native_video(pictures, facts)
    np.testing.assert_array_equal(ours.feeds["pixel_values"], expected["pixel_values"])
    twice, _ = prepare_native_video([*pictures, *pictures[-1:] * (count % 2)], facts)
    np.testing.assert_array_equal(ours.feeds["pixel_values"], twice["pixel_values"])


def test_the_wrong_medium(tmp_path: Path) -> None:
    photo, clip = tmp_path / "photo.png", write_clip(tmp_path / "clip.mp4", 20)
    noise(40, 30).save(photo)
    for kind in ("fixed", "tiles", "native"):
        with pytest.raises(ImageError, match=r"clip\.mp4 is a video, and this model takes pictures$"):
            prepare([clip], processing(kind))
        with pytest.raises(ImageError, match="a list of 2 pictures is a video, and this model takes pictures one by"):
            prepare([[photo, photo]], processing(kind))
    for facts in (processing("frames"), processing("native", native=VIDEO)):
        with pytest.raises(ImageError, match=r"photo\.png is a picture, and this model takes a video: a file, or a"):
            prepare([photo], facts)
        with pytest.raises(UsageError, match="got 2 videos in one prompt, expected 1"):
            prepare([clip, clip], facts)
    with pytest.raises(UsageError, match="got no picture or video, expected 1 or more"):
        prepare([], processing())


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("clip.mkv", "mpeg4", "yuv420p"),
        ("clip.webm", "libvpx-vp9", "yuv420p"),
        ("clip.avi", "mjpeg", "yuvj420p"),
        ("clip.mpg", "mpeg2video", "yuv420p"),
        ("clip.mov", "mpeg4", "yuv420p"),
    ],
)
def test_videos_are_told_from_pictures(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    av = pytest.importorskip("av")
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot write {codec}")
    with pytest.raises(ImageError, match=rf"{name} is a video"):
        prepare([write_clip(tmp_path / name, 4, codec, pixels)], processing())


def test_prompts_run_together() -> None:
    first, second = (prepare([noise(90, 70, seed=seed)], processing()) for seed in range(2))
    both = stack([first, second])
    assert (both.prompts, both.runs, both.pictures) == (2, 1, first.pictures)
    np.testing.assert_array_equal(both.feeds["pixel_values"][1:], second.feeds["pixel_values"])
    assert stack([first]) is first
    assert stack([first, prepare([noise(30, 50)], processing())]).prompts == 2  # its size says nothing of its rows


def test_prompts_that_cannot_run_together() -> None:
    facts = processing("tiles")
    wide, square = prepare([noise(90, 40)], facts), prepare([noise(40, 40)], facts)
    for one, two, message in (
        (wide, square, "prompt 2 has a picture of 40x40 pixels with runs 5, the first one of 90x40 pixels with 3"),
        (wide, prepare([noise(88, 40)], facts), "picture of 88x40 pixels, .* need the same aspect ratio"),
        (wide, prepare([noise(90, 40)] * 2, facts), "prompt 2 has 2 pictures and the first 1"),
    ):
        with pytest.raises(ImageError, match=message):
            stack([one, two])
    assert stack([wide, prepare([noise(180, 80)], facts)]).prompts == 2
    ratio = processing("tiles", tiles=Tiles("closest_ratio", ((1, 1), (1, 2), (2, 1))))
    assert stack([prepare([noise(90, 40)], ratio), prepare([noise(88, 40)], ratio)]).prompts == 2  # never padded
    native = prepare([noise(40, 24)], processing("native"))
    both = stack([native, prepare([noise(40, 24, seed=1)], processing("native"))])
    assert (both.prompts, both.runs, both.feeds["pixel_values"].shape[0]) == (2, 1, 2)
    assert all(np.array_equal(both.feeds[name], native.feeds[name]) for name in TABLES)
    with pytest.raises(ImageError, match="prompt 2 has a picture of 80x24 pixels with grid"):
        stack([native, prepare([noise(80, 24)], processing("native"))])
    with pytest.raises(UsageError, match="got no prompt"):
        stack([])


def test_videos_of_other_rates_cannot_run_together(tmp_path: Path) -> None:
    """Their frames are alike, and time passes at another speed, which positions tell."""
    facts = processing("native", native=VIDEO)
    clips = [write_clip(tmp_path / f"{rate}.mp4", 8, rate=rate) for rate in (10, 20)]
    slow, fast = (prepare([clip], facts) for clip in clips)
    assert [one.pictures[0].grid for one in (slow, fast)] == [(1, 6, 8)] * 2
    message = "prompt 2 has a picture of 64x48 pixels with seconds 0.4, the first one of 64x48 pixels with 0.8: "
    with pytest.raises(ImageError, match=message):
        stack([slow, fast])
    assert stack([slow, prepare([clips[0]], facts)]).prompts == 2


@pytest.mark.parametrize("kind", ["fixed", "tiles", "frames", "native"])
def test_facts_go_into_a_manifest_and_back(kind: str) -> None:
    facts = processing(kind)
    read = json.loads(json.dumps(encode(facts)))
    assert decode(ImageProcessing, read, "image") == facts
    older = {name: value for name, value in encode(processing()).items() if name not in ("tiles", "frames", "native")}
    assert decode(ImageProcessing, older, "image") == processing()


def test_the_most_runs() -> None:
    assert [processing(kind).most_runs for kind in ("fixed", "tiles", "frames", "native")] == [1, 5, 8, 1]
    ratio = Tiles("closest_ratio", ((1, 1), (2, 3)))
    assert [ratio.runs(grid) for grid in ratio.grids] == [1, 7]  # one tile has no overview
    assert [Tiles("best_fit", ratio.grids).runs(grid) for grid in ratio.grids] == [2, 7]
    assert Tiles("closest_ratio", ((1, 1),)).most_runs == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tiles("area", ((1, 1),)), 'tiles.choice=\'area\' is not "best_fit" or "closest_ratio"'),
        (lambda: Tiles("best_fit", ()), r"tiles.grids=\(\) is not one or more grids"),
        (lambda: Tiles("best_fit", ((0, 1),)), "1 or more of each"),
        (lambda: Tiles("best_fit", ((1, 1), (1, 1))), "every grid once"),
        (lambda: Tiles("best_fit", ((40, 40),)), "of 1024 tiles at most"),
        (lambda: Tiles("best_fit", ((1, 1),), "whole"), 'tiles.several=\'whole\' is not "tiles" or "square"'),
        (lambda: Frames(0), "frames.count=0 is not an integer from 1 to 4096"),
        (lambda: Frames(True), "frames.count=True"),
        (lambda: processing("clips"), 'kind=\'clips\' is not "fixed" or "tiles" or "frames" or "native"'),
        (lambda: processing("tiles", tiles=None), "tiles=None is not the facts of kind 'tiles'"),
        (lambda: processing("fixed", frames=Frames(8)), r"frames=Frames\(count=8\) is not null beside kind 'fixed'"),
        (lambda: processing("tiles", crop=(4, 4)), r"a tile has one size .* resize_exact=\(24, 24\) and crop=\(4, 4\)"),
        (lambda: processing("tiles", resize_exact=None), "expected resize_exact alone, got resize_exact=None"),
        (lambda: processing("native", crop=(4, 4)), "null beside kind 'native'"),
        (lambda: processing("native").size, "has no one size: every picture has its own"),
    ],
)
def test_facts_validate_themselves(make: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        make()
