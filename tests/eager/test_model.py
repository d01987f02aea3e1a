"""The stages of the eager model, one after another, are Hugging Face's own forward pass, for every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from edgeprune.eager.model import EagerModel
from edgeprune.eager.processor import Part, open_processor
from edgeprune.errors import UnsupportedModel
from edgeprune.verify.probes import watch
from tests.conftest import MakeCheckpoint

SHAPES = ("tiny", "tiny-next", "tiny-video", "tiny-onevision", "tiny-internvl", "tiny-qwen2.5-vl")


@pytest.fixture(scope="module", params=SHAPES)
def eager(request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint) -> EagerModel:
    model = EagerModel(make_checkpoint(request.param), "fp32")
    model.model.requires_grad_(False)
    return model


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def prompts(eager: EagerModel) -> list[tuple[Part, ...]]:
    """One picture, two with words around them, and a video where there is video."""
    found: list[tuple[Part, ...]] = [
        (picture(90, 130), "What?"),
        ("First ", picture(90, 130), " and ", picture(40, 140, 1), "?"),
    ]
    if eager.model.config.model_type in ("video_llava", "llava_onevision"):
        found.append(([picture(60, 80, seed) for seed in range(4)], "What?"))
    return found


def test_stages_make_the_forward_pass(eager: EagerModel) -> None:
    for parts in prompts(eager):
        inputs = eager.prompt(*parts)
        seen, positions = eager.see(inputs), eager.positions(inputs)
        assert len(seen.rows) == int(eager.visual(inputs["input_ids"]).sum())
        assert seen.vision_s > 0 and seen.project_s > 0
        torch.testing.assert_close(eager.project(seen.features), seen.projected)
        logits, cache = eager.prefill(eager.embed(inputs["input_ids"], seen.rows), positions)
        found = eager.model.generate(
            **inputs,
            max_new_tokens=2,
            min_new_tokens=2,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        torch.testing.assert_close(logits, found.logits[0])
        tokens = found.sequences[:, -2]
        at = None if positions is None else positions.amax(dim=(0, 2), keepdim=True).expand(3, -1, 1) + 1
        torch.testing.assert_close(eager.decode(tokens, cache, at)[0], found.logits[1])


def test_prompts_with_a_picture_each(eager: EagerModel) -> None:
    inputs = eager.preprocess([picture(90, 130), picture(90, 130, 1)], "What?")
    assert inputs["input_ids"].shape[0] == 2
    alone = eager.see(eager.prompt(picture(90, 130, 1), "What?")).rows
    torch.testing.assert_close(eager.see(inputs).rows[len(alone) :], alone)


def test_probes_are_of_the_shapes_that_a_vision_graph_gives(eager: EagerModel) -> None:
    """What they hold is compared where graphs are (``verify``)."""
    seen, found = watch(eager, eager.prompt(picture(90, 130), "What?"), ["cls_attention_1", "key_1"])
    tokens = seen.features.shape[1]
    assert found["cls_attention_1"].shape == (len(seen.features), tokens)
    assert found["key_1"].shape[1] - tokens in (0, 1)
    heads = found["cls_attention_1"].sum(dim=1)
    assert bool((heads > 0).all())


def test_an_unknown_family(make_checkpoint: MakeCheckpoint) -> None:
    with pytest.raises(UnsupportedModel, match="model_type 'llava_next_video'; expected one of llava, llava_next"):
        open_processor(make_checkpoint("tiny"), "llava_next_video")
