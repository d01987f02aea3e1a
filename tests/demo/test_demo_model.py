"""The model that ships: Hugging Face's logits unpruned, the numpy reference's choices pruned, and its accuracy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import edgeprune as api
from edgeprune import demo
from edgeprune.demo.scenes import HELD_OUT_SEED, draw_scene
from edgeprune.eval.accuracy import measure
from edgeprune.runtime.ort import OrtBackend
from tests.cli.conftest import Command
from tests.cli.conftest import edgeprune as edgeprune
from tests.runtime.case import Case, check_against_hugging_face, check_against_reference


@pytest.fixture(scope="module")
def case(bundle_demo: Path) -> Iterator[Case]:
    with api.open(bundle_demo, backend=OrtBackend(1)) as vlm:
        yield Case(vlm, demo.CHECKPOINT)


@pytest.mark.parametrize("seed", [0, 1])
def test_keep_all_is_hugging_face(case: Case, seed: int) -> None:
    check_against_hugging_face(case, draw_scene(HELD_OUT_SEED + seed).image)


@pytest.mark.parametrize("keep", [192, 128, 64, 32])
def test_visiondrop_is_the_reference(case: Case, keep: int) -> None:
    check_against_reference(case, draw_scene(HELD_OUT_SEED + keep).image, keep)


def test_it_answers_and_careless_pruning_costs(case: Case) -> None:
    """On a small sample; the card has the numbers of a large one."""
    scenes = [draw_scene(HELD_OUT_SEED + 500 + index) for index in range(12)]

    def percent(keep: int | str) -> dict[str, float]:
        def ask(image: Image.Image, question: str) -> tuple[str, float]:
            answer = case.vlm.generate(question, [image], keep, max_new_tokens=8)
            return answer.text, answer.ttft_ms

        row = measure(str(keep), ask, scenes, lambda: None)
        return {kind: row.percent(kind) for kind in row.asked}

    unpruned, tight = percent("all"), percent(13)
    assert min(unpruned["color"], unpruned["shape"], unpruned["exist"]) >= 90
    assert unpruned["relation"] >= 75
    assert sum(tight.values()) < sum(unpruned.values())


def test_the_demo_command(edgeprune: Command, bundle_demo: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle_demo, tmp_path / "demo/bundle")
    result = edgeprune("demo", "-o", tmp_path / "demo", "--scenes", 1, "-q")
    assert result.code == 0
    for part in ("PyTorch eager", "edgeprune --keep all", "edgeprune --keep 32", "TTFT ms", "color ("):
        assert part in result.out
    with Image.open(tmp_path / "demo/kept-64.png") as picture:
        assert picture.size[0] > 1000
