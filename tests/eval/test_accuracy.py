"""Rows, counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from edgeprune.demo.scenes import HELD_OUT_SEED, draw_scene
from edgeprune.errors import BundleError
from edgeprune.eval.accuracy import Accuracy, Reply, Report, measure, table, tally
from edgeprune.eval.data import Sample
from edgeprune.eval.score import Share


def sample(kind: str, *accepted: str, choices: tuple[str, ...] = ()) -> Sample:
    return Sample("line 1", lambda: Path("a.png"), 0, "What?", kind, accepted, choices)


SAMPLES = [
    sample("shape", "circle"),
    sample("color", "red", "crimson"),
    sample("color", "blue"),
    sample("free"),
    sample("pick", "green", choices=("red", "green")),
]
UNPRUNED = [
    Reply(text, 10.0 * index, 576.0) for index, text in enumerate(["A circle.", "crimson", "red", "a dog", "B"])
]
PRUNED = [Reply(text, 2.0, 64.5) for text in ["square", "Red", "red.", "dog", "A"]]


def test_a_row_by_hand() -> None:
    row = tally("all", SAMPLES, UNPRUNED, UNPRUNED, None, "all")
    assert row.kinds == {"color": Share.of(1, 2), "pick": Share.of(1, 1), "shape": Share.of(1, 1)}
    assert row.overall == Share.of(3, 4)  # "free" has no answer
    assert row.asked == {"color": 2, "pick": 1, "shape": 1}
    assert row.percent("color") == 50
    assert (row.agreement, row.average, row.ttft_ms_median) == (1.0, 576.0, 20.0)


def test_agreement_is_over_all_questions() -> None:
    row = tally("x 64", SAMPLES, PRUNED, UNPRUNED, "x", "64")
    assert row.overall is not None and (row.overall.right, row.overall.asked) == (1, 4)
    assert row.agreement == pytest.approx(2 / 5)  # "red." is "red", "dog" is "a dog"
    assert row.average == 64.5


def test_without_answers_there_is_agreement_alone() -> None:
    row = tally("all", [sample("free")] * 2, UNPRUNED[:2], UNPRUNED[:2])
    assert row.kinds == {} and row.overall is None and row.agreement == 1
    assert " ".join(table([row]).split()) == "as unpruned visual tokens TTFT ms all 100.0% 576.0 5.0"


def test_the_table() -> None:
    rows = [
        tally("all", SAMPLES, UNPRUNED, UNPRUNED, None, "all"),
        tally("x 64", SAMPLES, PRUNED, UNPRUNED, "x", "64"),
    ]
    assert table(rows).splitlines() == [
        "      color (2)  pick (1)  shape (1)   overall (4)  as unpruned  visual tokens  TTFT ms",
        "all       50.0%    100.0%     100.0%  75.0% ± 32.7       100.0%          576.0     20.0",
        "x 64      50.0%      0.0%       0.0%  25.0% ± 32.7        40.0%           64.5      2.0",
    ]


def test_scenes_are_measured_and_judged() -> None:
    scenes = [draw_scene(HELD_OUT_SEED + index) for index in range(2)]
    known = {(id(scene.image), q.text): q.answer for scene in scenes for q in scene.questions}
    asked = []

    def ask(image: Image.Image, question: str) -> tuple[str, float]:
        return known[id(image), question].upper(), 3.0

    row = measure("oracle", ask, scenes, lambda: asked.append(1))
    assert len(asked) == sum(row.asked.values()) == len(known)
    assert all(row.percent(kind) == 100 for kind in row.asked)
    assert (row.agreement, row.average, row.ttft_ms_median) == (None, None, 3.0)
    assert "as unpruned" not in table([row])


def test_a_report_is_read_again() -> None:
    rows: tuple[Accuracy, ...] = (
        tally("all", SAMPLES, UNPRUNED, UNPRUNED, None, "all"),
        tally("free", [sample("free")], UNPRUNED[:1]),
    )
    report = Report(
        "m", None, "fp32", "ort", "demo", 5, 1, 0, 16, 576, ("all", "64"), rows, ("x: left out",), {"a": "1"}
    )
    assert Report.from_json(report.to_json()) == report
    row = json.loads(report.to_json())["rows"][0]
    assert row["kinds"]["color"] == {"right": 1, "asked": 2, "low": 0.094531, "high": 0.905469}
    assert set(row) >= {"method", "keep", "average", "agreement", "ttft_ms_median", "overall"}
    with pytest.raises(BundleError, match="eval: key 'model' is missing"):
        Report.from_json("{}")
