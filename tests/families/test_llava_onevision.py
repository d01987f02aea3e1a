"""LLaVA-OneVision's modules and facts, run eagerly with a checkpoint's weights, are Hugging Face's model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edgeprune.checkpoint.source import Source
from edgeprune.eager.model import EagerModel, pixel_values
from edgeprune.errors import CheckpointError, UnsupportedModel, UsageError
from edgeprune.families.family import Family, family_of, open_family
from edgeprune.families.llava_onevision import FRAMES
from edgeprune.runtime.layout import Rows, whole
from edgeprune.runtime.pixels import Pixels, prepare
from tests.conftest import MakeCheckpoint

SHAPE = "tiny-onevision"
LIMIT = 1e-4  # of the reference's range
SIZES = ((90, 130), (600, 640), (333, 77), (40, 500))
"""(height, width) of pictures: few tiles; so many that the mosaic is shrunk; padded on the sides; long and thin."""


@pytest.fixture(scope="module")
def path(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint(SHAPE)


@pytest.fixture(scope="module")
def eager(path: Path) -> EagerModel:
    return EagerModel(path, "fp32")


@pytest.fixture(scope="module")
def family(path: Path) -> Family:
    return open_family("llava_onevision", source(path), "image")


@pytest.fixture(scope="module")
def video(path: Path) -> Family:
    return open_family("llava_onevision", source(path), "video")


def source(path: Path) -> Source:
    return Source(path, str(path), None)


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    spread = float(expected.max() - expected.min())
    assert float((found - expected).abs().max()) <= LIMIT * spread


def test_facts(path: Path, family: Family, video: Family) -> None:
    """What the bundle will say of the model, for both media."""
    assert family_of(path) == "llava_onevision"
    facts = family.vision_facts
    assert (facts.grid, facts.class_row, facts.layers, facts.tokens) == ((7, 7), "none", 3, 49)
    assert (family.layout.kind, family.layout.limit, family.layout.taps) == ("mosaic", 9, 4)
    assert (video.layout.kind, video.layout.limit, video.layout.taps) == ("pooled", None, 4)
    assert family.image().most_runs == 37 and video.image().most_runs == 4
    assert (family.prompt().image_token, video.prompt().image_token) == ("<image>", "<video>")


@pytest.mark.parametrize("fused", [False, True])
def test_vision(eager: EagerModel, family: Family, fused: bool) -> None:
    """The tower, the scoring head and the projector, against attention weights and keys inside Hugging Face's tower."""
    tower, layer = eager.model.model.vision_tower, family.feature_layer
    pixels = torch.randn(3, 3, 100, 100, generator=torch.Generator().manual_seed(0))
    keys: list[torch.Tensor] = []
    hook = tower.encoder.layers[layer].self_attn.k_proj.register_forward_hook(lambda _, __, out: keys.append(out))
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        output = tower(pixels, output_hidden_states=True, output_attentions=True)
    tower.set_attn_implementation("sdpa")
    hook.remove()

    part = family.vision((("key", layer), ("cls_attention", layer), ("cls_attention", 0)), fused)
    features, key, received, first = part.load(torch.float32)(pixels)
    close(features, output.hidden_states[-1])
    close(key, keys[0].unflatten(2, (tower.config.num_attention_heads, -1)).mean(dim=2))
    close(received, output.attentions[layer].mean(dim=2).sum(dim=1))
    close(first, output.attentions[0].mean(dim=2).sum(dim=1))
    close(family.project().load(torch.float32)(features), eager.project(output.hidden_states[-1]))


@pytest.mark.parametrize("sizes", [*((size,) for size in SIZES), SIZES[:2]], ids=str)
def test_pictures(eager: EagerModel, family: Family, sizes: Sequence[tuple[int, int]]) -> None:
    """Pixels, packed rows and logits: one picture in tiles, and several, which are one tile each."""
    pictures = [picture(*size) for size in sizes]
    inputs = eager.prompt(*pictures, "What?")
    pixels = prepare(pictures, family.image())
    counts = [found.runs for found in pixels.pictures]
    expected = pixel_values(inputs)
    unpadded = [runs[:count] for runs, count in zip(expected, counts, strict=True)]
    np.testing.assert_allclose(pixels.feeds["pixel_values"], torch.cat(unpadded).numpy(), atol=1e-5)
    check_rows(eager, family, inputs, pixels)


def test_video(eager: EagerModel, video: Family) -> None:
    """Pixels, pooled rows and logits of a video's frames."""
    frames = [picture(60 + index, 90) for index in range(4)]
    frames = [frame.crop((0, 0, 90, 60)) for frame in frames]
    inputs = eager.prompt(frames, "What?")
    pixels = prepare([frames], video.image())
    np.testing.assert_allclose(pixels.feeds["pixel_values"], pixel_values(inputs)[0].numpy(), atol=1e-5)
    check_rows(eager, video, inputs, pixels)


def check_rows(eager: EagerModel, family: Family, inputs: dict[str, torch.Tensor], pixels: Pixels) -> None:
    """The rows that enter the decoder, and the last one's logits."""
    with torch.no_grad():
        output = eager.model(**inputs)
    (features,) = family.vision((), False).load(torch.float32)(torch.from_numpy(pixels.feeds["pixel_values"]))
    projected = family.project().load(torch.float32)(features)
    newline = family.newline()
    assert newline is not None
    table = torch.cat((projected.flatten(0, 1), newline[None]))
    packed = torch.cat([gather(table, rows) for rows in whole(family.layout, family.vision_facts, pixels.pictures)])
    close(packed, output.image_hidden_states if output.video_hidden_states is None else output.video_hidden_states)

    hidden = eager.embed(inputs["input_ids"], packed)
    facts = family.decoder_facts
    past = [torch.zeros(1, facts.kv_heads, 0, facts.head_dim)] * (2 * facts.layers)
    positions = torch.arange(hidden.shape[1])[None]
    for fused in (False, True):
        found, *_ = family.segment(0, facts.layers, fused).load(torch.float32)(hidden, positions, past)
        close(found, output.logits[:, -1:])


def gather(table: torch.Tensor, rows: Rows) -> torch.Tensor:
    """What the graph of ``assemble`` does: row -1 is the newline row."""
    taken = table[torch.from_numpy(rows.source)]
    return taken[:, 0] if rows.weight is None else (taken * torch.from_numpy(rows.weight)[..., None]).sum(dim=1)


def changed(path: Path, folder: Path, file: str, **values: Any) -> Source:
    """A copy of the checkpoint with other values in one of its files; None takes a key out."""
    shutil.copytree(path, folder)
    content = {**json.loads((folder / file).read_text()), **values}
    (folder / file).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return source(folder)


def test_frames_of_a_processor_that_names_no_number(path: Path, tmp_path: Path) -> None:
    other = changed(path, tmp_path / "other", "video_preprocessor_config.json", num_frames=None)
    assert open_family("llava_onevision", other, "video").image().most_runs == FRAMES


@pytest.mark.parametrize(
    ("file", "values", "error", "message"),
    [
        ("config.json", {"vision_feature_select_strategy": "default"}, UnsupportedModel, "supported: 'full'"),
        ("config.json", {"vision_aspect_ratio": "anyres"}, UnsupportedModel, "vision_aspect_ratio = 'anyres'"),
        ("preprocessor_config.json", {"image_grid_pinpoints": [[100, 100]]}, CheckpointError, "not those of config"),
        ("preprocessor_config.json", {"crop_size": {"height": 90, "width": 90}}, UnsupportedModel, "crop_size"),
        ("video_preprocessor_config.json", {"fps": 2}, UnsupportedModel, "fps = 2"),
        ("video_preprocessor_config.json", {"num_frames": -1}, CheckpointError, "frames.count"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_carried_is_named(
    path: Path, tmp_path: Path, file: str, values: dict[str, Any], error: type[Exception], message: str
) -> None:
    other = changed(path, tmp_path / "other", file, **values)
    with pytest.raises(error, match=message):
        open_family("llava_onevision", other, "video" if "video" in file else "image").image()


def test_no_method_inside_of_the_encoder(family: Family) -> None:
    with pytest.raises(UsageError, match="SigLIP"):
        family.encoder(torch.nn.Identity, False)
