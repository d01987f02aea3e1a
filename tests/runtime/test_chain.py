"""A bundle run on ONNX Runtime: unpruned it is Hugging Face's model, pruned it is the numpy reference."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

import edgeprune
from edgeprune.eager.model import EagerModel
from edgeprune.runtime.chain import Clock, Prefill
from edgeprune.runtime.ort import OrtBackend
from edgeprune.runtime.preprocess import batch
from tests.reference import visiondrop
from tests.reference.llava import Weights
from tests.reference.visiondrop import Stage

BUNDLES = {"bundle_tiny": "checkpoint_tiny", "bundle_gqa": "checkpoint_gqa", "bundle_gqa_fused": "checkpoint_gqa"}
QUESTION = "Which shape is left of the red one?"
BUDGETS = (40, 32, 20, 13)
LIMIT = 1e-4  # of the reference's range


@dataclass(frozen=True)
class Case:
    """A bundle, opened, and the checkpoint it came from."""

    vlm: edgeprune.VLM
    checkpoint: Path

    @property
    def weights(self) -> Weights:
        config = json.loads((self.checkpoint / "config.json").read_text())
        return Weights(load_file(self.checkpoint / "model.safetensors"), config)

    def prefill(self, images: list[Image.Image], keep: int | str) -> Prefill:
        method, schedule = self.vlm.plan(keep)
        if method is not None:
            self.vlm.chain.open_method(method)
        prompt = self.vlm.prompt.encode(QUESTION)
        pixels = batch(images, self.vlm.manifest.image)
        return self.vlm.chain.prefill(pixels, prompt.before, prompt.after, method, schedule, Clock())

    def decode(self, tokens: list[int], prefill: Prefill) -> NDArray[np.float32]:
        return self.vlm.chain.decode(np.array(tokens), prefill.cache, Clock())


@pytest.fixture(scope="module", params=BUNDLES)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    bundle = request.getfixturevalue(request.param)
    with edgeprune.open(bundle, backend=OrtBackend(1)) as vlm:
        yield Case(vlm, request.getfixturevalue(BUNDLES[request.param]))


def picture(seed: int) -> Image.Image:
    """Noise with a bright patch, not square."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (100, 140, 3), dtype=np.uint8)
    pixels[20:50, 30 + seed : 80] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


def close(found: NDArray[np.float32], expected: NDArray[np.floating]) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=LIMIT * float(np.ptp(expected)))


# --- unpruned ---------------------------------------------------------------------------------------------------


def test_keep_all_is_hugging_face(case: Case) -> None:
    """Logits of the prompt and of 31 decode steps, each side on its own greedy tokens."""
    eager = EagerModel(case.checkpoint, "fp32")
    inputs = eager.preprocess([picture(0)], QUESTION)
    visual = eager.project(eager.vision(inputs["pixel_values"]))
    expected, cache = eager.prefill(eager.embed(inputs["input_ids"], visual))
    prefill = case.prefill([picture(0)], "all")
    assert prefill.stages == ()
    logits, tokens = prefill.logits, []
    for _ in range(31):
        close(logits, expected.numpy())
        tokens.append(int(expected.argmax()))
        assert int(logits.argmax()) == tokens[-1]
        logits = case.decode([int(logits.argmax())], prefill)
        expected, cache = eager.decode(torch.tensor([tokens[-1]]), cache)
    close(logits, expected.numpy())


def test_generate_gives_hugging_faces_tokens(case: Case) -> None:
    eager = EagerModel(case.checkpoint, "fp32")
    inputs = eager.preprocess([picture(1)], QUESTION)
    visual = eager.project(eager.vision(inputs["pixel_values"]))
    logits, cache = eager.prefill(eager.embed(inputs["input_ids"], visual))
    tokens = [int(logits.argmax())]
    ends = case.vlm.manifest.prompt.eos_token_ids
    while len(tokens) < 32 and tokens[-1] not in ends:
        logits, cache = eager.decode(torch.tensor(tokens[-1:]), cache)
        tokens.append(int(logits.argmax()))
    answer = case.vlm.generate(QUESTION, [picture(1)], max_new_tokens=32)
    assert answer.token_ids == tuple(tokens)


# --- pruned -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", BUDGETS)
def test_visiondrop_is_the_reference(case: Case, keep: int) -> None:
    check_against_reference(case, picture(keep), keep)


@pytest.mark.parametrize("level", [0, 128])
def test_a_constant_picture(case: Case, level: int) -> None:
    """All patches are alike but for their position: scores lie close together."""
    check_against_reference(case, Image.new("RGB", (112, 112), (level, level, level)), 20)


def check_against_reference(case: Case, image: Image.Image, keep: int) -> None:
    """Kept rows of every stage, logits, cache lengths and positions, and eight decode steps."""
    method, schedule = case.vlm.plan(keep)
    assert method is not None and schedule is not None
    prompt, weights = case.vlm.prompt.encode(QUESTION), case.weights
    stages = [Stage(stage.keep - stage.merge, stage.merge) for stage in schedule.stages]
    pixels = batch([image], case.vlm.manifest.image)
    expected = visiondrop.prefill(weights, pixels, prompt.before, prompt.after, stages, method.decoder_cuts)
    found = case.prefill([image], keep)

    origin = expected.kept[0] - 1
    for index, stage in enumerate(found.stages):
        origin = origin if index == 0 else origin[expected.kept[index]]
        assert stage.kept[0].tolist() == origin.tolist()
        assert (stage.tokens_out, stage.merged) == (schedule.stages[index].keep, schedule.stages[index].merge)
    close(found.logits[0], expected.logits)

    lengths = [prompt.text_tokens + stage.keep for stage in schedule.stages]
    check_cache(found, lengths)
    tokens = [int(token) for token in np.random.default_rng(keep).integers(3, 90, 8)]
    decoded = visiondrop.decode(weights, expected, tokens)
    for step, token in enumerate(tokens):
        assert [found.cache.position(index) for index in range(len(lengths))] == decoded.positions[step].tolist()
        close(case.decode([token], found)[0], decoded.logits[step])
        check_cache(found, [length + step + 1 for length in lengths])


def check_cache(prefill: Prefill, lengths: list[int]) -> None:
    """Every segment has its own length."""
    assert [segment.length for segment in prefill.cache.segments] == lengths
    for segment, length in zip(prefill.cache.segments, lengths, strict=True):
        assert {array.shape()[2] for array in segment.arrays.values()} == {length}


# --- several pictures, two dialects -----------------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["all", 32, 13])
def test_two_pictures_at_once_are_two_runs(case: Case, keep: int | str) -> None:
    images = [picture(5), picture(6)]
    together, alone = case.prefill(images, keep), [case.prefill([image], keep) for image in images]
    close(together.logits, np.concatenate([prefill.logits for prefill in alone]))
    for index, stage in enumerate(together.stages):
        assert stage.kept.tolist() == [prefill.stages[index].kept[0].tolist() for prefill in alone]
    for tokens in ([7, 40], [11, 3]):
        steps = [case.decode([token], prefill) for token, prefill in zip(tokens, alone, strict=True)]
        close(case.decode(tokens, together), np.concatenate(steps))


def test_generate_batch_is_generate(case: Case) -> None:
    images = [picture(7), picture(8)]
    answers = case.vlm.generate_batch(QUESTION, images, keep=20, max_new_tokens=6)
    for image, answer in zip(images, answers, strict=True):
        single = case.vlm.generate(QUESTION, [image], keep=20, max_new_tokens=6)
        assert (answer.token_ids, answer.stages) == (single.token_ids, single.stages)


@pytest.mark.parametrize("keep", ["all", *BUDGETS])
def test_fused_is_base(bundle_gqa: Path, bundle_gqa_fused: Path, checkpoint_gqa: Path, keep: int | str) -> None:
    base, fused = (
        Case(edgeprune.open(bundle, backend=OrtBackend(1)), checkpoint_gqa) for bundle in (bundle_gqa, bundle_gqa_fused)
    )
    ours, theirs = base.prefill([picture(9)], keep), fused.prefill([picture(9)], keep)
    close(theirs.logits, ours.logits)
    assert [stage.kept.tolist() for stage in theirs.stages] == [stage.kept.tolist() for stage in ours.stages]
    for token in (5, 60, 33):
        close(fused.decode([token], theirs), base.decode([token], ours))
