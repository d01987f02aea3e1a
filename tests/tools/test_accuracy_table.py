"""The README's table of accuracy is that of the committed report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeprune.eval.accuracy import Accuracy, Report
from edgeprune.eval.score import Share
from tools.accuracy_table import END, START, main


def row(method: str | None, keep: str, right: int) -> Accuracy:
    share = Share.of(right, 100)
    label = f"{method} {keep}" if method else "all"
    return Accuracy(label, method, keep, 1.0, {"color": share}, share, 0.5, 12.3)


REPORT = Report(
    model="edgeprune/demo",
    revision=None,
    dtype="fp32",
    backend="onnxruntime-cpu",
    data="demo",
    n=100,
    images=12,
    seed=0,
    max_new_tokens=16,
    tokens=576,
    keeps=("all", "192", "64", "8"),
    rows=(row(None, "all", 96), row("late", "192", 90), row("early", "192", 94), row("early", "64", 50)),
    left_out=("late: left out --keep 64, 8: late cannot keep 8",),
    versions={"python": "3.11.7", "edgeprune": "0.1.0"},
)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    source, readme = tmp_path / "accuracy.json", tmp_path / "README.md"
    source.write_text("the table\n" + REPORT.to_json() + "\n", "utf-8")
    readme.write_text(f"# Title\n\n{START}\nold\n{END}\n\nThe end.\n", "utf-8")
    return ["--json", str(source), "--readme", str(readme)]


def test_writes_between_the_markers_and_nothing_else(arguments: list[str]) -> None:
    readme = Path(arguments[3])
    with pytest.raises(SystemExit, match=r"README\.md is stale, line 4 is 'old', the file says '\| visual tokens"):
        main([*arguments, "--check"])
    main(arguments)
    lines = readme.read_text("utf-8").splitlines()
    assert lines[:8] == [
        "# Title",
        "",
        START,
        "| visual tokens on average | 192 | 64 |",
        "| --- | --: | --: |",
        "| unpruned (576) | 96.0 ± 4.1 | 96.0 ± 4.1 |",
        "| late | 90.0 ± 6.0 | — |",
        "| early | 94.0 ± 4.8 | 50.0 ± 9.6 |",
    ]
    assert "100 questions (100 color) about 12 held-out scenes of the demo model, answers of up to 16" in lines[9]
    assert lines[9].endswith("seed 0; python 3.11.7, edgeprune 0.1.0")
    assert lines[10:] == [END, "", "The end."]
    main([*arguments, "--check"])


def test_check_sees_a_number_edited_by_hand(arguments: list[str]) -> None:
    main(arguments)
    readme = Path(arguments[3])
    readme.write_text(readme.read_text("utf-8").replace("50.0 ±", "90.0 ±"), "utf-8")
    with pytest.raises(SystemExit, match=r"90\.0 ± 9\.6"):
        main([*arguments, "--check"])


def test_what_is_missing_is_named(arguments: list[str]) -> None:
    source, readme = Path(arguments[1]), Path(arguments[3])
    readme.write_text(f"{END} {START}")
    with pytest.raises(SystemExit, match="must hold <!-- accuracy:start -->"):
        main(arguments)
    source.write_text(replace(REPORT, rows=(replace(REPORT.rows[0], overall=None),)).to_json())
    with pytest.raises(SystemExit, match="holds no accuracy"):
        main(arguments)
    source.write_text("{}")
    with pytest.raises(SystemExit, match=r"no report of edgeprune eval --json.*'model' is missing"):
        main(arguments)
    source.write_text("not json")
    with pytest.raises(SystemExit, match="no report of edgeprune eval"):
        main(arguments)
    source.write_text("\n")
    with pytest.raises(SystemExit, match="is empty"):
        main(arguments)
    source.unlink()
    with pytest.raises(SystemExit, match="is missing: make it with edgeprune eval"):
        main(arguments)
    source.write_text(REPORT.to_json())
    readme.unlink()
    with pytest.raises(SystemExit, match="the table goes there"):
        main(arguments)


def test_help_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert "edgeprune eval BUNDLE -n 300 --json > tools/accuracy.json" in out
    assert "half its 95% interval" in out
