"""Which methods a checkpoint can carry, and what is said where it cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeprune.bundle.sizes import Vision
from edgeprune.checkpoint.config import read_config
from edgeprune.checkpoint.source import resolve
from edgeprune.checkpoint.weights import Weights
from edgeprune.errors import UsageError
from edgeprune.estimate.find import find_model
from edgeprune.estimate.survey import carried
from edgeprune.export.bundle import load_methods, obstacle
from edgeprune.families.family import Family, family_of, open_family
from edgeprune.families.video_llava import VideoLlava
from edgeprune.methods import method
from tests.conftest import MakeCheckpoint


@pytest.fixture(scope="module")
def tiny(checkpoint_tiny: Path) -> Family:
    """Its encoder has one layer up to the selected one, its decoder four."""
    return open_family("llava", resolve(str(checkpoint_tiny)), "image")


def test_an_encoder_too_shallow_to_prune_inside(tiny: Family) -> None:
    with pytest.raises(UsageError, match=r"this model cannot carry flowcut: .*layer"):
        load_methods(["flowcut"], tiny, "llava")


def test_no_text_tower(tiny: Family) -> None:
    with pytest.raises(UsageError, match=r"cannot carry cdpruner: .*--clip .*or take cdpruner-llm"):
        load_methods(["cdpruner"], tiny, "llava")


@pytest.mark.parametrize(
    ("shape", "encoder"),
    [("tiny-internvl", "InternViT"), ("tiny-qwen2.5-vl", "Qwen2.5-VL's own"), ("tiny-onevision", "SigLIP's")],
)
def test_no_clip_checkpoint_is_asked_for_where_none_would_do(
    shape: str, encoder: str, make_checkpoint: MakeCheckpoint
) -> None:
    checkpoint = make_checkpoint(shape)
    family = family_of(checkpoint)
    model = open_family(family, resolve(str(checkpoint)), "image")
    with pytest.raises(UsageError, match=f"cannot carry cdpruner: .* the model's encoder is {encoder}: ") as caught:
        load_methods(["cdpruner"], model, family)
    assert "--clip" not in str(caught.value)


class OnePatch(VideoLlava):
    """Of a frame: its class row is the other one."""

    @property
    def vision_facts(self) -> Vision:
        return replace(super().vision_facts, grid=(1, 1))


@pytest.mark.parametrize("name", ["random", "cdpruner-llm", "vispruner"])
def test_frames_of_one_patch_cannot_be_pruned(name: str, make_checkpoint: MakeCheckpoint) -> None:
    """As `edgeprune list methods --for` has it, which counts class rows apart."""
    folder = make_checkpoint("tiny-video")
    model = OnePatch(read_config(folder, "video_llava"), Weights(folder), "video")
    reason = obstacle(method.load(name), model, "video_llava")
    found = find_model(str(folder))
    told = carried(replace(found, shape=replace(found.shape, vision=model.vision_facts, rows=None)), name)
    assert reason is not None and "too few to prune" in reason
    assert told.carried == "no" and "too few to prune" in told.why


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["costa"], r"unknown method 'costa'; methods: .*; did you mean 'coast'\?"),
        (["coast", "sts", "coast"], "names a method twice"),
        ([], "no method is named; edgeprune list methods"),
        ([""], "unknown method ''"),
    ],
)
def test_words_that_name_no_method(tiny: Family, names: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_methods(names, tiny, "llava")


def test_the_others_can(tiny: Family) -> None:
    names = ["coast", "fastv", "pyramiddrop", "sparsevlm", "sts", "visiondrop", "visionzip", "vispruner", "vscan"]
    assert [method.name for method in load_methods(names, tiny, "llava")] == names
