"""InternVL's modules and facts, run eagerly with a checkpoint's weights, are Hugging Face's model."""

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
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_all_supported_aspect_ratios

from edgeprune.checkpoint.source import Source
from edgeprune.eager.model import EagerModel, pixel_values
from edgeprune.errors import CheckpointError, UnsupportedModel, UsageError
from edgeprune.families.family import family_of, open_family
from edgeprune.families.internvl import grids
from edgeprune.runtime.pixels import prepare
from tests.conftest import MakeCheckpoint

SHAPES = ("tiny-internvl", "tiny-internvl-large")
LIMIT = 1e-4  # of the reference's range


class Both:
    """One checkpoint, as Hugging Face runs it and as the family's parts."""

    def __init__(self, path: Path) -> None:
        self.eager = EagerModel(path, "fp32")
        self.family = open_family("internvl", source(path), "image")


@pytest.fixture(scope="module", params=SHAPES)
def both(request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint) -> Both:
    return Both(make_checkpoint(request.param))


def source(path: Path) -> Source:
    return Source(path, str(path), None)


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    spread = float(expected.max() - expected.min())
    assert float((found - expected).abs().max()) <= LIMIT * spread


def test_facts(both: Both) -> None:
    """What the bundle will say of the model."""
    family = both.family
    facts = family.vision_facts
    assert (facts.grid, facts.class_row, facts.merge) == ((4, 4), "apart", 2)
    assert (facts.tokens, facts.patches, facts.width, facts.hidden, facts.layers) == (16, 64, 128, 32, 3)
    assert (family.layout.kind, family.newline()) == ("rows", None)
    prompt = family.prompt()
    assert (prompt.image_token, prompt.image_text, prompt.wrap) == (
        "<IMG_CONTEXT>",
        "<IMG_CONTEXT>\n",
        ("<img>", "</img>"),
    )


@pytest.mark.parametrize("fused", [False, True])
def test_vision(both: Both, fused: bool) -> None:
    """The tower, the scoring head and the projector; a token's patches by Hugging Face's own pixel shuffle."""
    model, layer = both.eager.model.model, both.family.feature_layer
    tower = model.vision_tower
    attention = tower.encoder.layer[layer].attention
    pixels = torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    keys: list[torch.Tensor] = []
    hook = attention.k_norm.register_forward_hook(lambda _, __, out: keys.append(out))
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        output = tower(pixels, output_hidden_states=True, output_attentions=True)
        projected = model.get_image_features(pixels).pooler_output
    tower.set_attn_implementation("sdpa")
    hook.remove()

    def shuffle(rows: torch.Tensor) -> torch.Tensor:
        """[C, 64, W] to [C, 16, 4, W]."""
        shuffled: torch.Tensor = model.pixel_shuffle(rows.reshape(3, 8, 8, -1), 0.5)
        return shuffled.reshape(3, 16, 4, -1)

    part = both.family.vision((("key", layer), ("cls_attention", layer), ("cls_feature", layer - 1)), fused)
    features, key, cls_attention, cls_feature = part.load(torch.float32)(pixels)
    close(features, shuffle(output.last_hidden_state[:, 1:]).flatten(2))
    close(cls_feature, output.hidden_states[layer][:, :1].repeat(1, 1, 4))
    scores = output.attentions[layer].sum(dim=1)[:, 0, 1:]
    close(cls_attention, shuffle(scores[..., None]).mean(dim=2)[..., 0])
    mean = keys[0].unflatten(2, (tower.config.num_attention_heads, -1)).mean(dim=2)
    close(key, torch.cat((mean[:, :1], shuffle(mean[:, 1:]).mean(dim=2)), dim=1))
    close(both.family.project().load(torch.float32)(features), projected)


@pytest.mark.parametrize("sizes", [((60, 60),), ((100, 230),), ((500, 40), (120, 90))], ids=str)
def test_pictures(both: Both, sizes: Sequence[tuple[int, int]]) -> None:
    """Pixels, rows and logits: one tile without a thumbnail, several with one, and several pictures."""
    eager, family = both.eager, both.family
    pictures = [picture(*size) for size in sizes]
    inputs = eager.prompt(*pictures, "What?")
    pixels = prepare(pictures, family.image())
    np.testing.assert_allclose(pixels.feeds["pixel_values"], pixel_values(inputs).numpy(), atol=1e-5)

    with torch.no_grad():
        output = eager.model(**inputs)
    (features,) = family.vision((), False).load(torch.float32)(torch.from_numpy(pixels.feeds["pixel_values"]))
    rows = family.project().load(torch.float32)(features)
    close(rows, output.image_hidden_states)
    hidden = eager.embed(inputs["input_ids"], rows.flatten(0, 1))
    facts = family.decoder_facts
    past = [torch.zeros(1, facts.kv_heads, 0, facts.head_dim)] * (2 * facts.layers)
    positions = torch.arange(hidden.shape[1])[None]
    for fused in (False, True):
        found, *_ = family.segment(0, facts.layers, fused).load(torch.float32)(hidden, positions, past)
        close(found, output.logits[:, -1:])


@pytest.mark.parametrize(("fewest", "most"), [(1, 12), (2, 6), (1, 1)])
def test_grids_are_in_the_processors_order(fewest: int, most: int) -> None:
    assert list(grids(fewest, most)) == [
        (rows, columns) for columns, rows in get_all_supported_aspect_ratios(fewest, most)
    ]


def changed(path: Path, folder: Path, file: str, values: dict[str, Any]) -> Source:
    """A copy of the checkpoint with other values in one of its files, those of an object inside of it merged."""
    shutil.copytree(path, folder)
    content = json.loads((folder / file).read_text())
    for key, value in values.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    (folder / file).write_text(json.dumps(content))
    return source(folder)


@pytest.mark.parametrize(
    ("file", "values", "error", "message"),
    [
        ("config.json", {"vision_feature_select_strategy": "full"}, UnsupportedModel, "expected default"),
        ("config.json", {"downsample_ratio": 0.3}, UnsupportedModel, "downsample_ratio = 0.3"),
        ("config.json", {"downsample_ratio": 0.0625}, CheckpointError, "8 patches on a side do not divide"),
        ("config.json", {"vision_config": {"use_mean_pooling": False}}, UnsupportedModel, "use_mean_pooling"),
        (
            "config.json",
            {"vision_config": {"use_absolute_position_embeddings": False}},
            UnsupportedModel,
            "use_absolute_position_embeddings",
        ),
        ("config.json", {"vision_config": {"norm_type": "batch_norm"}}, UnsupportedModel, "norm_type = 'batch_norm'"),
        ("config.json", {"text_config": {"model_type": "gemma"}}, UnsupportedModel, "expected qwen2 or llama"),
        ("preprocessor_config.json", {"min_patches": 13}, CheckpointError, "min_patches=13, max_patches=12"),
        ("preprocessor_config.json", {"size": {"height": 64, "width": 64}}, CheckpointError, "the encoder takes 56x56"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_is_not_carried_is_named(
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    file: str,
    values: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    other = changed(make_checkpoint(SHAPES[0]), tmp_path / "other", file, values)
    with pytest.raises(error, match=message):
        open_family("internvl", other, "image").image()


def test_neighbours(make_checkpoint: MakeCheckpoint) -> None:
    """What the family does not serve: video, and methods that have their own form of CLIP's encoder."""
    path = make_checkpoint(SHAPES[0])
    assert family_of(path) == "internvl"
    with pytest.raises(UsageError, match="internvl takes image"):
        open_family("internvl", source(path), "video")
    with pytest.raises(UsageError, match="InternViT"):
        open_family("internvl", source(path), "image").encoder(torch.nn.Identity, False)
