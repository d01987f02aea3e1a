"""Video-LLaVA's modules, run eagerly with a checkpoint's weights, are Hugging Face's model, for both of its media."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgeprune.checkpoint.source import resolve
from edgeprune.errors import CheckpointError
from edgeprune.families.family import open_family
from edgeprune.runtime.pixels import prepare
from tests.checkpoint.change import change
from tests.conftest import MakeCheckpoint
from tests.families.parity import Both, close, noise
from tools.random_checkpoint import write_checkpoint

FRAMES = [noise(90, 130, seed) for seed in range(8)]


@pytest.fixture(scope="module")
def pictures(make_checkpoint: MakeCheckpoint) -> Both:
    """A prompt about two pictures."""
    made = Both(make_checkpoint("tiny-video"), "image", "image_tower")
    made.see(made.eager.prompt(noise(90, 130), "and", noise(300, 100), "What?"))
    return made


@pytest.fixture(scope="module")
def video(make_checkpoint: MakeCheckpoint) -> Both:
    """A prompt about one video."""
    made = Both(make_checkpoint("tiny-video"), "video", "video_tower")
    made.see(made.eager.prompt(FRAMES, "What?"))
    return made


@pytest.fixture(params=["pictures", "video"])
def both(request: pytest.FixtureRequest) -> Both:
    found: Both = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("fused", [False, True])
def test_vision(both: Both, fused: bool) -> None:
    both.check_vision(fused)


@pytest.mark.parametrize("fused", [False, True])
def test_probes(both: Both, fused: bool) -> None:
    both.check_probes(fused)


def test_projector(both: Both) -> None:
    both.check_projector()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("cuts", [(), (1, 3)])
def test_decoder(video: Both, fused: bool, cuts: tuple[int, ...]) -> None:
    video.check_decoder(cuts, fused)


def test_rows_enter_as_they_are(both: Both) -> None:
    close(both.seen.projected.flatten(0, 1), both.seen.rows)
    assert both.family.newline() is None


def test_a_frame_enters_with_its_class_row_and_a_picture_without(pictures: Both, video: Both) -> None:
    assert (pictures.family.vision_facts.class_row, pictures.family.vision_facts.tokens) == ("apart", 64)
    assert (video.family.vision_facts.class_row, video.family.vision_facts.tokens) == ("inside", 65)
    assert video.seen.rows.shape[0] == 8 * 65


def test_the_towers_are_two(pictures: Both, video: Both) -> None:
    one, two = (made.family.vision((), False).tensor("embeddings.class_embedding") for made in (pictures, video))
    assert not torch.equal(one, two)


def test_pixels_of_frames(video: Both) -> None:
    pixels = prepare([FRAMES], video.family.image())
    close(torch.from_numpy(pixels.feeds["pixel_values"]), video.pixels)


def test_the_placeholder_is_that_of_the_medium(pictures: Both, video: Both) -> None:
    assert (pictures.family.prompt().image_token, pictures.family.prompt().image_token_id) == ("<image>", 94)
    assert (video.family.prompt().image_token, video.family.prompt().image_token_id) == ("<video>", 95)


def test_a_video_of_no_whole_frames(tmp_path: Path) -> None:
    path = write_checkpoint("tiny-video", tmp_path)
    change(path, "config.json", video_seq_length=500)
    with pytest.raises(CheckpointError, match="video_seq_length 500 is no multiple of 65, the rows of a frame"):
        open_family("video_llava", resolve(str(path)), "video").image()


def test_a_processor_for_another_size(tmp_path: Path) -> None:
    path = write_checkpoint("tiny-video", tmp_path)
    change(path, "preprocessor_config.json", crop_size={"height": 98, "width": 98})
    with pytest.raises(CheckpointError, match="makes pictures of 98x98 pixels, and the encoder takes 112x112"):
        open_family("video_llava", resolve(str(path)), "video").image()
