"""LLaVA-NeXT's modules and its packing of tiles, run eagerly with a checkpoint's weights, are Hugging Face's model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgeprune.checkpoint.source import resolve
from edgeprune.errors import CheckpointError
from edgeprune.families.family import open_family
from edgeprune.runtime.layout import whole
from edgeprune.runtime.pixels import prepare
from tests.checkpoint.change import change, drop_tensor
from tests.conftest import MakeCheckpoint
from tests.families.parity import Both, close, noise
from tools.random_checkpoint import write_checkpoint

SHAPES = ("tiny-next", "tiny-next-mistral")
SIZES = ((112, 112), (90, 130), (300, 100), (100, 301), (37, 500), (250, 230), (113, 225))
"""Height and width: every grid of tiles, with lines, columns or nothing that only shows padding."""


@pytest.fixture(scope="module", params=SHAPES)
def both(request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint) -> Both:
    """A checkpoint, and a prompt about two pictures of different grids."""
    made = Both(make_checkpoint(request.param))
    made.see(made.eager.prompt(noise(90, 130), "and", noise(300, 100), "What?"))
    return made


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
def test_decoder(both: Both, fused: bool, cuts: tuple[int, ...]) -> None:
    both.check_decoder(cuts, fused)


@pytest.mark.parametrize("size", SIZES)
def test_rows_are_packed_as_hugging_face_packs_them(both: Both, size: tuple[int, int]) -> None:
    """From pixels to the rows that enter the decoder: what is prepared, the layout and the newline row."""
    image = noise(*size)
    seen = both.eager.see(both.eager.prompt(image, "What?"))
    pixels = prepare([image], both.family.image())
    (features,) = both.family.vision((), False).load(torch.float32)(torch.from_numpy(pixels.feeds["pixel_values"]))
    projected = both.family.project().load(torch.float32)(features)
    newline = both.family.newline()
    table = torch.cat((projected.flatten(0, 1), newline[None]))
    (rows,) = whole(both.family.layout, both.family.vision_facts, pixels.pictures)
    close(table[torch.from_numpy(rows.source[:, 0])], seen.rows)


def test_a_checkpoint_without_its_newline_row(tmp_path: Path) -> None:
    path = write_checkpoint("tiny-next", tmp_path)
    drop_tensor(path, "image_newline")
    with pytest.raises(CheckpointError, match="lacks the tensor 'image_newline'"):
        open_family("llava_next", resolve(str(path)), "image")


def test_grids_that_the_processor_does_not_share(tmp_path: Path) -> None:
    path = write_checkpoint("tiny-next", tmp_path)
    change(path, "preprocessor_config.json", image_grid_pinpoints=[[112, 224]])
    with pytest.raises(CheckpointError, match=r"image_grid_pinpoints \[\[112, 224\]\] are not config\.json's"):
        open_family("llava_next", resolve(str(path)), "image").image()
    change(path, "preprocessor_config.json", image_grid_pinpoints=None)
    assert open_family("llava_next", resolve(str(path)), "image").image().most_runs == 5
