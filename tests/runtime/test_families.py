"""Bundles of the families whose pictures are not one run each: unpruned they are Hugging Face's models.

Whole prompts, with one picture and with several, or with a video; and what a budget means for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

import edgeprune
from edgeprune.bundle.prompt import Medium
from edgeprune.eager.model import EagerModel
from edgeprune.errors import QuestionError, UsageError
from edgeprune.runtime.ort import OrtBackend
from edgeprune.runtime.request import Pictures
from tests.conftest import MakeCheckpoint, MakeOf
from tests.runtime.case import QUESTION, Case, check_against_hugging_face, close
from tests.runtime.clips import write_clip

TILED = "tiny-next"
FILMED = "tiny-qwen2.5-vl"


def open_case(shape: str, medium: Medium, bundle: MakeOf, checkpoint: MakeCheckpoint) -> Iterator[Case]:
    with edgeprune.open(bundle(shape, medium), backend=OrtBackend(1)) as vlm:
        yield Case(vlm, checkpoint(shape))


@pytest.fixture(scope="module")
def tiled(make_bundle_of: MakeOf, make_checkpoint: MakeCheckpoint) -> Iterator[Case]:
    """LLaVA-NeXT: pictures become tiles, and a line of the mosaic ends with a row of the model's own."""
    yield from open_case(TILED, "image", make_bundle_of, make_checkpoint)


@pytest.fixture(scope="module")
def filmed(make_bundle_of: MakeOf, make_checkpoint: MakeCheckpoint) -> Iterator[Case]:
    """Qwen2.5-VL for video: frames of their own resolution, positions of three axes."""
    yield from open_case(FILMED, "video", make_bundle_of, make_checkpoint)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def film(frames: int, height: int = 100, width: int = 140) -> list[Image.Image]:
    return [noise(height, width, seed) for seed in range(frames)]


# --- unpruned -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(100, 300), (300, 100), (200, 200)])
def test_a_picture_in_tiles(tiled: Case, size: tuple[int, int]) -> None:
    check_against_hugging_face(tiled, noise(*size))


@pytest.mark.parametrize("question", [QUESTION, "Is it <image> or <image>?"])
def test_pictures_in_tiles(tiled: Case, question: str) -> None:
    check_against_hugging_face(tiled, noise(100, 300), noise(300, 90, 1), question=question)


@pytest.mark.parametrize("frames", [4, 9, None])
def test_a_video_of_its_own_resolution(filmed: Case, frames: int | None, tmp_path: Path) -> None:
    """The same patches to both; Hugging Face counts the positions, of which time runs by seconds.

    Of nine frames the last makes a pair of its own. A file says its rate: of its nine four are taken, and the time
    between them is no whole number of positions.
    """
    facts, seen = filmed.vlm.manifest, cast(Any, film(frames) if frames else write_clip(tmp_path / "clip.mp4", 9))
    assert facts.image.native is not None
    pixels, text = Pictures([[seen]], facts).pixels, filmed.vlm.prompt.encode(QUESTION)
    (video,) = pixels.pictures
    assert video.grid is not None and video.grid[0] == ((frames or 4) + 1) // 2
    assert video.seconds == (1.0 if frames else pytest.approx(0.45))
    merge, tokens = facts.image.native.merge, int(np.prod(video.grid))
    ids = torch.tensor([[*text.before, *[facts.prompt.image_token_id] * tokens, *text.after]])
    inputs = {
        "input_ids": ids,
        "mm_token_type_ids": (ids == facts.prompt.image_token_id).long() * 2,
        "pixel_values_videos": torch.from_numpy(
            pixels.feeds["pixel_values"].reshape(-1, facts.image.native.patch_values)
        ),
        "video_grid_thw": torch.tensor([[video.grid[0], video.grid[1] * merge, video.grid[2] * merge]]),
        "second_per_grid_ts": torch.tensor([video.seconds]),
    }
    eager = EagerModel(filmed.checkpoint, "fp32")
    positions = eager.positions(inputs)
    assert positions is not None
    expected, cache = eager.prefill(eager.embed(ids, eager.see(inputs).rows), positions)
    prefill = filmed.prefill([seen], "all")
    close(prefill.logits, expected.numpy())
    for step in range(3):
        token, place = int(expected.argmax()), positions.max().expand(3, 1, 1) + step + 1
        expected, cache = eager.decode(torch.tensor([token]), cache, place)
        close(filmed.decode([token], prefill), expected.numpy())


# --- pruned ---------------------------------------------------------------------------------------------------------


def test_a_budget_counts_what_enters_the_decoder(tiled: Case) -> None:
    """Keep of a cut before the decoder is of every run; the average is over all of them, newline rows among them."""
    prompt = [noise(200, 200)]
    pictures = Pictures([prompt], tiled.vlm.manifest)
    grid = tiled.vlm.manifest.vision.grid
    assert grid is not None and pictures.pixels.runs == 5
    assert pictures.tokens == 5 * grid[0] * grid[1] + 2 * grid[0]
    keep = pictures.tokens // 3
    found = tiled.ask(QUESTION, [prompt], keep)
    _, schedule = tiled.vlm.plan(keep, None, pictures.tokens, 5)
    assert schedule is not None
    assert [stage.tokens_out for stage in found.stages] == [stage.rows for stage in schedule.stages]
    assert found.stages[0].tokens_in == pictures.tokens
    assert found.stages[0].tokens_out == 5 * schedule.stages[0].keep
    assert int(found.stages[0].merged.sum()) == 5 * schedule.stages[0].merge
    patches = set(range(5 * grid[0] * grid[1])) | {-1}
    alive = patches
    for stage in found.stages:
        rows = stage.kept[0].tolist()
        assert set(rows) <= alive
        alive = set(rows)


def test_pruned_prompts_at_once_are_single_ones(tiled: Case) -> None:
    prompts = [[noise(100, 300)], [noise(100, 300, 1)]]
    together = tiled.ask(QUESTION, prompts, 60)
    for row, prompt in enumerate(prompts):
        alone = tiled.ask(QUESTION, [prompt], 60)
        close(together.logits[row : row + 1], alone.logits)
        assert [stage.kept[row].tolist() for stage in together.stages] == [s.kept[0].tolist() for s in alone.stages]


def test_a_pruned_video_keeps_its_positions(filmed: Case) -> None:
    """The next token stands where it would without pruning, in every segment; rows are those of the schedule."""
    long = film(48, 140, 140)  # with fewer tokens the last of four stages has too few
    unpruned, found = filmed.prefill([long], "all"), filmed.prefill([long], "30%")
    segments = range(len(unpruned.cache.segments))
    assert [found.cache.position(n) for n in segments] == [unpruned.cache.position(n) for n in segments]
    assert [s.length for s in found.cache.segments] < [s.length for s in unpruned.cache.segments]
    for stage in found.stages:
        assert stage.kept.shape == (1, stage.tokens_out)
        plain = stage.kept[0][~stage.merged[0]].tolist()
        assert plain == sorted(plain)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_video_is_one(filmed: Case) -> None:
    two: list[Any] = [film(4), film(4)]
    with pytest.raises(UsageError, match="got 2 videos in one prompt, expected 1"):
        filmed.vlm.generate(QUESTION, two)
    with pytest.raises(QuestionError, match="names <video> 2 times and there is 1 video"):
        filmed.vlm.generate("<video> or <video>?", two[:1])
