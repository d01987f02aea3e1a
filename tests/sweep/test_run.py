"""Real sweeps of a tiny bundle: complete, with cells that fail, and interrupted at every phase."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.bench.run import Settings
from edgeprune.errors import ImageError, OutputError, QuestionError
from edgeprune.eval.data import read_samples
from edgeprune.power.command import Output
from edgeprune.power.device import open_device
from edgeprune.sweep import run
from edgeprune.sweep.axes import Axes
from edgeprune.sweep.journal import Journal
from edgeprune.sweep.page import render_page
from edgeprune.sweep.plan import Asked, Plan
from edgeprune.sweep.report import SweepReport
from edgeprune.sweep.run import run_sweep
from edgeprune.sweep.table import render_text
from tests.power import recorded
from tests.sweep.broken import break_bundle

QUICK = Settings(
    threads=1, warmup=1, repeats=2, text_tokens=60, new_tokens=3, memory=False, progress=False, host_size=(64, 1),
    predict=False,
)  # fmt: skip
AXES = Axes(None, ("all", "40", "16"))


@pytest.fixture(autouse=True)
def journals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "edgeprune" / "sweeps"


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    """Four questions about two pictures, three with an answer."""
    lines: list[dict[str, object]] = []
    for name, colour in (("a", "navy"), ("b", "olive")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / f"{name}.png")
        lines.append({"image": f"{name}.png", "question": "what?", "answer": colour})
        lines.append({"image": f"{name}.png", "question": "which?", "choices": ["navy", "olive"], "answer": colour})
    del lines[2]["answer"]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Asked(path.name, read_samples(path), suited=True)


@pytest.fixture
def broken(bundle_gqa: Path, tmp_path: Path) -> Path:
    """The bundle with a graph of the method that loads, and fails when it runs."""
    break_bundle(bundle_gqa, tmp_path / "broken")
    return tmp_path / "broken"


def sweep(plan: Plan, told: list[str] | None = None, fresh: bool = False) -> SweepReport:
    with run_sweep(plan, fresh, (told if told is not None else []).append) as report:
        return report


def test_every_cell_is_timed_asked_and_weighed(bundle_gqa: Path, asked: Asked, journals: Path) -> None:
    told: list[str] = []
    settings = replace(QUICK, memory=True)
    report = sweep(Plan(bundle_gqa, AXES, settings, asked, draw=True, command="edgeprune bench"), told)
    assert told == []
    assert [row.name for row in report.rows] == ["all", "visiondrop 40", "visiondrop 16"]
    for row in report.rows:
        assert row.failures == ()
        assert row.variant is not None
        assert len(row.samples) == 2
        assert row.variant.ttft.median_ms == pytest.approx(np.median([s.ttft for s in row.samples]) * 1e3, rel=1e-3)
        assert row.memory is not None
        assert row.memory.peak_bytes > 20e6
        assert row.accuracy is not None
        assert row.accuracy.overall is not None
        assert row.accuracy.overall.asked == 3
    every, large, small = report.rows
    assert every.variant and large.variant and small.variant
    assert (every.variant.average, large.variant.average) == (64, 40)
    assert small.variant.tokens == (24, 18, 13, 9)
    assert every.accuracy is not None
    assert every.accuracy.agreement == 1
    assert report.sittings == 1
    assert report.questions is not None
    assert (report.questions.count, report.questions.images) == (4, 2)
    assert set(report.front) <= {row.name for row in report.rows}
    assert [[panel.name for panel in kept.panels] for kept in report.kept] in (
        [["picture", "visiondrop 40"]] * 2,
        [["picture", "visiondrop 16"]] * 2,
    )
    assert report.kept[0].panels[1].jpeg.startswith(b"\xff\xd8")
    assert report.worked
    assert list(journals.iterdir()) == []  # the report is complete


def test_a_device_with_sensors_gives_energy_and_state(
    bundle_gqa: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = recorded.lay_out(tmp_path / "board", recorded.ORIN_NANO_FILES)
    mode = Output(0, "NV Power Mode: 15W\n0\n")
    monkeypatch.setattr(run, "open_device", lambda on_gpu: open_device(board, lambda words: mode, on_gpu))
    report = sweep(Plan(bundle_gqa, AXES, QUICK))
    for row in report.rows:
        assert row.variant is not None
        assert row.variant.energy is not None
        assert row.variant.energy.watts == pytest.approx(4.984, rel=0.3)
        assert len(row.variant.energy.samples) == 2
    assert report.conditions.device is not None
    assert report.conditions.device.power_mode == "15W"
    assert "the GPU's clock is not locked, so times may vary: sudo jetson_clocks" in report.notes
    text = render_text(report)
    assert "J/answer" in text
    assert "power mode 15W; energy by INA3221 (VDD_IN); clocks not locked" in text


def test_budgets_out_of_reach_are_kept_with_the_reason(bundle_gqa: Path, asked: Asked) -> None:
    told: list[str] = []
    report = sweep(Plan(bundle_gqa, Axes(None, ("40", "2")), QUICK, asked), told)
    failed = report.rows[2]
    assert (failed.name, failed.variant, failed.accuracy) == ("visiondrop 2", None, None)
    assert [failure.phase for failure in failed.failures] == ["budget"]
    assert "cannot keep 2 visual tokens" in failed.failures[0].reason
    assert told == [f"failed: visiondrop 2, budget: {failed.failures[0].reason}"]
    assert report.rows[1].accuracy is not None
    assert report.worked


def test_a_graph_that_fails_while_it_runs_does_not_stop_the_others(broken: Path, asked: Asked) -> None:
    told: list[str] = []
    report = sweep(Plan(broken, AXES, replace(QUICK, memory=True), asked, draw=True), told)
    unpruned, *others = report.rows
    assert unpruned.variant is not None
    assert unpruned.accuracy is not None
    assert unpruned.memory is not None
    for row in others:
        assert (row.variant, row.memory, row.accuracy, row.samples) == (None, None, None, ())
        assert [failure.phase for failure in row.failures] == ["time"]
        assert "prune_visiondrop_vision" in row.failures[0].reason
    assert len(told) == 2
    assert not report.worked
    assert report.kept == ()
    assert report.advice.recommended is None  # of random weights no answer is right
    assert "the unpruned model answers no question right (3 asked)" in report.advice.reason


class _Killed(BaseException):
    """Stands for a signal: nothing in the program catches it."""


@pytest.fixture
def kill_after(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Ends the program after so many more lines of the journal; 0 is never."""
    add = Journal.add
    left, reason = 0, BaseException()

    def count(self: Journal, kind: str, cell: str, number: int, value: object) -> None:
        nonlocal left
        add(self, kind, cell, number, value)
        left -= 1
        if left == 0:
            raise reason

    def arm(lines: int, error: BaseException | None = None) -> None:
        nonlocal left, reason
        left, reason = lines, error or _Killed()

    monkeypatch.setattr(Journal, "add", count)
    return arm


def test_interrupted_in_every_phase_it_goes_on_where_it_stopped(
    bundle_gqa: Path, asked: Asked, journals: Path, kill_after: Callable[..., None]
) -> None:
    plan = Plan(bundle_gqa, AXES, replace(QUICK, memory=True), asked)
    seen: list[str] = []
    for lines in (4, 6, 9, 3):  # in the second round, among the answers twice, while memory is measured
        kill_after(lines)
        with pytest.raises(_Killed):
            sweep(plan, seen)
        (path,) = journals.iterdir()
        before = path.read_text().splitlines()
    kill_after(0)
    report = sweep(plan, seen)
    assert seen == [
        "resuming: 2 timed runs finished before; --fresh begins again",
        "resuming: 6 timed runs, 1 answer finished before; --fresh begins again",
        "resuming: 6 timed runs, 9 answers finished before; --fresh begins again",
        "resuming: 6 timed runs, 11 answers finished before; --fresh begins again",
    ]
    assert report.sittings == 5
    entries = [json.loads(line) for line in before[1:]]
    for row in report.rows:
        kept = [entry["value"]["ttft"] for entry in entries if (entry["kind"], entry["cell"]) == ("round", row.name)]
        assert [sample.ttft for sample in row.samples] == kept  # measured once, and no more
        assert row.accuracy is not None
        assert row.memory is not None
    assert list(journals.iterdir()) == []


def test_a_full_disk_is_no_fault_of_a_cell(
    bundle_gqa: Path, asked: Asked, kill_after: Callable[..., None], journals: Path
) -> None:
    """It ends the sweep, which goes on when there is room."""
    kill_after(10, OutputError("no space left"))
    with pytest.raises(OutputError, match="no space left"):
        sweep(Plan(bundle_gqa, AXES, QUICK, asked))
    assert len(list(journals.iterdir())) == 1
    kill_after(0)
    assert sweep(Plan(bundle_gqa, AXES, QUICK, asked)).failed == ()


def test_questions_without_answers_give_agreement_alone(bundle_gqa: Path, asked: Asked) -> None:
    report = sweep(Plan(bundle_gqa, AXES, QUICK, replace(asked, samples=[asked.samples[2]])))
    assert report.advice.recommended is None
    for row in report.rows:
        assert row.accuracy is not None
        assert (row.accuracy.overall, row.accuracy.agreement) in ((None, 0), (None, 1))
    page = render_page(report)
    assert "as unpruned %" in page
    assert "Tokens against time to first token" in page
    assert "accuracy %" not in page


def test_fresh_and_other_settings_begin_again(
    bundle_gqa: Path, journals: Path, kill_after: Callable[..., None]
) -> None:
    plan = Plan(bundle_gqa, AXES, QUICK)
    told: list[str] = []
    for other, fresh in ((plan, False), (plan, True), (replace(plan, settings=replace(QUICK, repeats=3)), False)):
        kill_after(4)
        with pytest.raises(_Killed):
            sweep(other, told, fresh)
    assert told == []
    assert len(list(journals.iterdir())) == 2


def test_what_is_wrong_is_told_before_anything_is_measured(
    bundle_gqa: Path, asked: Asked, tmp_path: Path, journals: Path
) -> None:
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(ImageError, match=r"text\.png is not a picture"):
        sweep(Plan(bundle_gqa, AXES, QUICK, image=text))
    long = replace(asked, samples=[replace(asked.samples[0], question="word " * 600)])
    with pytest.raises(QuestionError, match=r"questions.jsonl line 1: the question takes"):
        sweep(Plan(bundle_gqa, AXES, QUICK, long))
    with pytest.raises(ImageError, match=r"questions.jsonl line 3: .*b.png is not a picture"):
        (tmp_path / "b.png").write_text("no picture any more")
        sweep(Plan(bundle_gqa, AXES, QUICK, asked))
    assert list(journals.iterdir()) == []
    journals.rmdir()
    journals.write_text("a file")
    with pytest.raises(OutputError, match="cannot write the sweep's journal"):
        sweep(Plan(bundle_gqa, AXES, QUICK))
