"""What tells one sweep from another."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import edgeprune
from edgeprune.bench.run import Settings
from edgeprune.bundle.manifest import NAME
from edgeprune.bundle.store import open_bundle
from edgeprune.eval.data import read_samples
from edgeprune.sweep.axes import Axes
from edgeprune.sweep.plan import Asked, Plan, hash_code, identity

SETTINGS = Settings(threads=2)


@pytest.fixture
def plan(bundle_gqa: Path, tmp_path: Path) -> Plan:
    Image.new("RGB", (40, 30), "navy").save(tmp_path / "a.png")
    lines = tmp_path / "questions.jsonl"
    lines.write_text(json.dumps({"image": "a.png", "question": "what?", "answer": "navy"}) + "\n")
    asked = Asked(lines.name, read_samples(lines), suited=True)
    return Plan(bundle_gqa, Axes(None, ("40",)), SETTINGS, asked, tmp_path / "a.png")


def of(plan: Plan) -> dict[str, object]:
    return identity(plan, open_bundle(plan.bundle, check_hashes=False))


def test_what_changes_a_value_is_another_sweep(plan: Plan, tmp_path: Path) -> None:
    base = of(plan)
    assert of(plan) == base
    settings = [
        replace(SETTINGS, threads=1),
        replace(SETTINGS, warmup=2),
        replace(SETTINGS, repeats=6),
        replace(SETTINGS, text_tokens=61),
        replace(SETTINGS, new_tokens=17),
        replace(SETTINGS, memory=False),
    ]
    assert plan.asked is not None
    (question,) = plan.asked.samples
    others = [replace(plan, settings=each) for each in settings]
    others += [replace(plan, axes=Axes(("visiondrop",), ("40",))), replace(plan, axes=Axes(None, ("16",)))]
    others += [replace(plan, image=None), replace(plan, asked=None)]
    others += [
        replace(plan, asked=replace(plan.asked, samples=[replace(question, **change)]))
        for change in ({"question": "which?"}, {"accepted": ("olive",)}, {"choices": ("navy", "olive")})
    ]
    for other in others:
        assert of(other) != base, other
    picture = tmp_path / "a.png"
    os.utime(picture, ns=(1, 1))
    assert of(plan)["questions"] != base["questions"]
    assert of(plan)["image"] == base["image"]  # the picture of the timing is known by its content
    Image.new("RGB", (40, 30), "olive").save(picture)
    assert of(plan)["image"] != base["image"]


def test_what_only_changes_the_report_is_the_same_sweep(plan: Plan) -> None:
    base = of(plan)
    for other in (
        replace(plan, draw=True),
        replace(plan, command="edgeprune bench"),
        replace(plan, check_hashes=False),
        replace(plan, settings=replace(SETTINGS, progress=False)),
    ):
        assert of(other) == base


def test_another_bundle_and_other_code_are_another_sweep(plan: Plan, tmp_path: Path) -> None:
    base = of(plan)
    assert base["code"] == hash_code(Path(edgeprune.__file__).parent)
    folder = tmp_path / "bundle"
    shutil.copytree(plan.bundle, folder)
    assert of(replace(plan, bundle=folder)) == base  # wherever it lies
    (folder / NAME).write_text((plan.bundle / NAME).read_text() + "\n")
    assert of(replace(plan, bundle=folder))["bundle"] != base["bundle"]


def test_code_is_known_by_names_and_content(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.py").write_text("x = 1")
    (tmp_path / "sub" / "card.toml").write_text("x = 1")
    base = hash_code(tmp_path)
    os.utime(tmp_path / "a.py", ns=(1, 1))
    (tmp_path / "notes.txt").write_text("no code")
    assert hash_code(tmp_path) == base
    seen = {base}
    (tmp_path / "a.py").write_text("x = 2")
    seen.add(hash_code(tmp_path))
    (tmp_path / "sub" / "card.toml").write_text("x = 2")
    seen.add(hash_code(tmp_path))
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    seen.add(hash_code(tmp_path))
    assert len(seen) == 4
