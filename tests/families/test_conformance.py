"""What every family file promises, for every family and medium: parts that fit each other, facts that fit the parts."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edgeprune.bundle.prompt import Medium
from edgeprune.checkpoint.architecture import MEDIA
from edgeprune.checkpoint.source import Source, resolve
from edgeprune.checkpoint.weights import Weights, canonical
from edgeprune.errors import RecipeError, UnsupportedModel, UsageError
from edgeprune.families.family import Family, family_of, names, open_family
from edgeprune.layers.linear import Linear
from edgeprune.recipes.architecture import FAMILIES
from edgeprune.runtime.layout import whole
from edgeprune.runtime.pixels import Pixels, prepare
from edgeprune.runtime.prompt import Prompt
from tests.conftest import MakeCheckpoint

CASES: dict[str, tuple[str, Medium]] = {
    "llava": ("tiny-gqa", "image"),
    "llava_next": ("tiny-next", "image"),
    "video_llava": ("tiny-video", "video"),
    "video_llava-image": ("tiny-video", "image"),
    "llava_onevision": ("tiny-onevision", "image"),
    "llava_onevision-video": ("tiny-onevision", "video"),
    "qwen2_5_vl": ("tiny-qwen2.5-vl", "image"),
    "qwen2_5_vl-video": ("tiny-qwen2.5-vl", "video"),
    "internvl": ("tiny-internvl", "image"),
}
"""A name that begins with the family's: a shape of ``tools.random_checkpoint`` and a medium."""

ONE_MEDIUM = [name for name, media in MEDIA.items() if media == ("image",)]

UNUSED = {
    "llava": r"vision\.(post_layernorm|encoder\.layers\.1)\.",
    "llava_next": r"vision\.(post_layernorm|encoder\.layers\.1)\.",
    "video_llava": r"image_tower\.|video_tower\.(post_layernorm|encoder\.layers\.1)\.",
    "video_llava-image": r"video_tower\.|image_tower\.(post_layernorm|encoder\.layers\.1)\.",
    "llava_onevision": r"vision\.post_layernorm\.",
    "llava_onevision-video": r"vision\.post_layernorm\.",
}
"""Tensors that no graph reads: the tower behind the selected layer (the first of two), and the other medium's tower."""

REWRITTEN = {"qwen2_5_vl": {"vision.patch_embed.proj.weight"}}
"""Tensors that a graph holds in another layout than the checkpoint's."""


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def source(case: str, make_checkpoint: MakeCheckpoint) -> Source:
    return resolve(str(make_checkpoint(CASES[case][0])))


@pytest.fixture
def family(case: str, source: Source) -> Family:
    return open_family(case.split("-")[0], source, CASES[case][1])


@pytest.fixture
def pixels(case: str, family: Family) -> Pixels:
    """What the family's vision graph takes of a picture, or of a video of eight frames."""
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (90, 130, 3), dtype=np.uint8)) for _ in range(8)]
    return prepare([frames] if CASES[case][1] == "video" else frames[:1], family.image())


def test_every_family_is_here_with_all_its_media_and_has_a_file() -> None:
    assert set(FAMILIES.values()) == set(names()) == set(MEDIA)
    expected = {(name, medium) for name, media in MEDIA.items() for medium in media}
    assert {(case.split("-")[0], medium) for case, (_, medium) in CASES.items()} == expected
    for name in names():
        assert callable(importlib.import_module(f"edgeprune.families.{name}").open_family)


def test_protocol(family: Family) -> None:
    """The same methods with the same parameters, and every attribute."""
    wanted = {name: member for name, member in vars(Family).items() if not name.startswith("_")}
    assert len(wanted) > 10
    for name, member in wanted.items():
        if isinstance(member, property):
            assert getattr(family, name) is not None
        else:
            theirs = inspect.signature(getattr(type(family), name)).parameters
            assert list(theirs) == list(inspect.signature(member).parameters), name


def test_the_checkpoint_says_its_family(case: str, source: Source, family: Family) -> None:
    name = case.split("-")[0]
    assert family_of(source.path) == name
    assert FAMILIES[family.architecture] == name


def test_another_family_is_named(case: str, source: Source) -> None:
    name = case.split("-")[0]
    other = next(known for known in names() if known != name)
    with pytest.raises(UnsupportedModel, match=rf"is of the family {name}, and it is opened as {other}"):
        open_family(other, source, "image")


def test_an_unknown_family(source: Source) -> None:
    with pytest.raises(RecipeError, match="unknown family 'blip'; families: internvl, llava, "):
        open_family("blip", source, "image")


@pytest.mark.parametrize("name", ONE_MEDIUM)
def test_a_medium_that_the_family_does_not_take(name: str, make_checkpoint: MakeCheckpoint) -> None:
    source = resolve(str(make_checkpoint(CASES[name][0])))
    with pytest.raises(UsageError, match=rf"--input video: a model of the family {name} takes image"):
        open_family(name, source, "video")


def test_pixels_are_what_the_vision_graph_takes(family: Family, pixels: Pixels) -> None:
    letters: dict[str, int] = {}
    assert [name for name, _, _ in family.pixel_inputs] == list(pixels.feeds)
    for name, kind, axes in family.pixel_inputs:
        found = pixels.feeds[name]
        assert found.dtype == (np.float32 if kind == "real" else np.int64)
        for axis, length in zip(axes, found.shape, strict=True):
            assert length == (axis if isinstance(axis, int) else letters.setdefault(axis, length)), (name, axes)


@pytest.mark.parametrize("fused", [False, True])
def test_facts_fit_the_parts(family: Family, pixels: Pixels, fused: bool) -> None:
    """From pixels to the rows that enter the decoder, and through the decoder to logits."""
    vision, decoder = family.vision_facts, family.decoder_facts
    feeds = [torch.from_numpy(pixels.feeds[name]) for name, _, _ in family.pixel_inputs]
    (features,) = family.vision((), fused).load(torch.float32)(*feeds)
    rows = features.shape[1] if vision.grid is None else vision.tokens
    assert features.shape == (pixels.runs, rows, vision.width)
    projected = family.project().load(torch.float32)(features)
    assert projected.shape == (pixels.runs, rows, decoder.hidden)

    newline = family.newline()
    assert (newline is not None) == family.layout.newline
    if newline is not None:
        assert newline.shape == (decoder.hidden,)
    packed = whole(family.layout, vision, pixels.pictures)
    assert {part.source.shape[1] for part in packed} <= {1, family.layout.taps}
    assert max(part.source.max() for part in packed) < pixels.runs * rows

    hidden = projected[:1]
    count = hidden.shape[1]
    positions = torch.arange(count).expand(*([3] if decoder.axes == 3 else []), 1, -1)
    past = [torch.zeros(1, decoder.kv_heads, 0, decoder.head_dim)] * 2 * decoder.layers
    logits, *present = family.segment(0, decoder.layers, fused).load(torch.float32)(hidden, positions, past)
    assert logits.shape == (1, 1, decoder.vocab)
    assert {tuple(cache.shape) for cache in present} == {(1, decoder.kv_heads, count, decoder.head_dim)}
    assert family.embedding().shape == (decoder.vocab, decoder.hidden)


def test_probes_fit_the_facts(family: Family, pixels: Pixels) -> None:
    vision, layer = family.vision_facts, family.feature_layer
    assert vision.layers == layer + 1
    feeds = [torch.from_numpy(pixels.feeds[name]) for name, _, _ in family.pixel_inputs]
    features, received, key = family.vision((("cls_attention", layer), ("key", layer)), False).load(torch.float32)(
        *feeds
    )
    runs, cells = pixels.runs, vision.cells or features.shape[1]
    assert received.shape == (runs, cells)
    assert key.shape == (runs, cells + (vision.class_row != "none"), vision.head_dim)
    assert received.dtype == key.dtype == torch.float32
    assert float(received.min()) > 0
    if vision.class_row == "none":
        return
    _, row = family.vision((("cls_feature", layer),), False).load(torch.float32)(*feeds)
    assert row.shape == (runs, 1, vision.width)
    if vision.class_row == "inside":
        assert row.equal(features[:, :1])


def test_a_method_has_its_own_encoder_where_the_tower_is_clips(family: Family) -> None:
    class Whole(torch.nn.Module):
        """A method's form of the encoder, of one layer's weights."""

        def __init__(self, config: Any, feature_layer: int, fused: bool) -> None:
            super().__init__()
            self.pre_layrnorm = torch.nn.LayerNorm(config.hidden)
            assert isinstance(feature_layer, int)

    if family.architecture.startswith(("Llava", "VideoLlava")) and "Onevision" not in family.architecture:
        assert [name.split(".", 1)[1] for name in family.encoder(Whole, False).stored] == [
            "pre_layrnorm.weight",
            "pre_layrnorm.bias",
        ]
    else:
        with pytest.raises(UsageError, match="encoder"):
            family.encoder(Whole, False)


def test_a_cut_gets_the_weights_of_the_layer_behind_it(family: Family) -> None:
    class Cut(torch.nn.Module):
        """A module of a method."""

        def __init__(self, config: Any, fused: bool) -> None:
            super().__init__()
            self.self_attn = torch.nn.ModuleDict(
                {"o_proj": Linear(config.heads * config.head_dim, config.hidden, False)}
            )

    assert family.cut(Cut, 2, False).stored == ["decoder.layers.2.self_attn.o_proj.weight"]


def test_the_prompt_is_written_with_the_placeholder(family: Family, source: Source, case: str) -> None:
    facts = family.prompt()
    assert facts.medium == CASES[case][1]
    assert facts.context == family.decoder_facts.context
    assert facts.image_token_id < family.decoder_facts.vocab
    encoded = Prompt(facts, source.path / "tokenizer.json").encode("What is it?")
    assert len(encoded.parts) == 2
    assert all(encoded.parts)


def test_every_tensor_is_used_or_named_here(case: str, family: Family) -> None:
    parts = (family.vision((), False), family.project(), family.segment(0, family.decoder_facts.layers, False))
    used = {name for part in parts for name in part.stored} | {"decoder.embed_tokens.weight"}
    used |= {"image_newline"} if family.layout.newline else set()
    used |= REWRITTEN.get(case.split("-")[0], set())
    left = set(family.weights.names) - used
    assert used <= set(family.weights.names)
    pattern = UNUSED.get(case)
    assert left == {name for name in family.weights.names if pattern and re.match(pattern, name)}


def test_weights_as_transformers_saves_and_names_them_now(source: Source, tmp_path: Path) -> None:
    """Read from a file that it wrote, and by the names that its modules have, which later files may have."""
    import transformers
    from safetensors.torch import save_file

    ours = Weights(source.path)
    model: Any = transformers.AutoModelForImageTextToText.from_pretrained(source.path)
    model.save_pretrained(tmp_path / "saved")
    assert Weights(tmp_path / "saved").names == ours.names
    newer = {name: value.contiguous() for name, value in model.state_dict().items()}
    tied = "lm_head.weight" not in ours
    newer = {name: value for name, value in newer.items() if not (tied and name == "lm_head.weight")}
    (tmp_path / "newer").mkdir()
    save_file(newer, tmp_path / "newer" / "model.safetensors")
    theirs = Weights(tmp_path / "newer")
    assert theirs.names == ours.names
    assert all(canonical(name) == name or canonical(name) in ours for name in newer)
    assert all(ours.tensor(name).equal(theirs.tensor(name)) for name in ours.names)
