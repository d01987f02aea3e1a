"""A bundle run on ONNX Runtime: unpruned it is Hugging Face's model, pruned it is the numpy reference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import edgeprune
from edgeprune.eager.model import EagerModel
from edgeprune.runtime.ort import OrtBackend
from tests.runtime.case import (
    QUESTION,
    Case,
    check_against_hugging_face,
    check_against_reference,
    close,
    picture,
)

BUNDLES = {"bundle_tiny": "checkpoint_tiny", "bundle_gqa": "checkpoint_gqa", "bundle_gqa_fused": "checkpoint_gqa"}
BUDGETS = (40, 32, 20, 13)


@pytest.fixture(scope="module", params=BUNDLES)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    bundle = request.getfixturevalue(request.param)
    with edgeprune.open(bundle, backend=OrtBackend(1)) as vlm:
        yield Case(vlm, request.getfixturevalue(BUNDLES[request.param]))


# --- unpruned ---------------------------------------------------------------------------------------------------


def test_keep_all_is_hugging_face(case: Case) -> None:
    check_against_hugging_face(case, picture(0))


def test_generate_gives_hugging_faces_tokens(case: Case) -> None:
    eager = EagerModel(case.checkpoint, "fp32")
    inputs = eager.preprocess([picture(1)], QUESTION)
    visual = eager.see(inputs).rows
    logits, cache = eager.prefill(eager.embed(inputs["input_ids"], visual))
    tokens = [int(logits.argmax())]
    ends = case.vlm.manifest.prompt.eos_token_ids
    while len(tokens) < 32 and tokens[-1] not in ends:
        logits, cache = eager.decode(torch.tensor(tokens[-1:]), cache)
        tokens.append(int(logits.argmax()))
    answer = case.vlm.generate(QUESTION, [picture(1)], max_new_tokens=32)
    assert answer.token_ids == tuple(tokens)


@pytest.mark.parametrize("question", [QUESTION, "Is it <image> or <image>?", "<image>: what is it? And <image>"])
def test_several_pictures_in_a_prompt_are_hugging_face(case: Case, question: str) -> None:
    check_against_hugging_face(case, picture(3), picture(4), question=question)


# --- pruned -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", BUDGETS)
def test_visiondrop_is_the_reference(case: Case, keep: int) -> None:
    check_against_reference(case, picture(keep), keep)


@pytest.mark.parametrize("level", [0, 128])
def test_a_constant_picture(case: Case, level: int) -> None:
    """All patches are alike but for their position: scores lie close together."""
    check_against_reference(case, Image.new("RGB", (112, 112), (level, level, level)), 20)


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
