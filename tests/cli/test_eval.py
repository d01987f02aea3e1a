"""``edgeprune eval`` on a small bundle: the table, its JSON, and every wrong input in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Command

FIELDS = [
    "model",
    "revision",
    "dtype",
    "backend",
    "data",
    "n",
    "images",
    "seed",
    "max_new_tokens",
    "tokens",
    "keeps",
    "rows",
    "left_out",
    "versions",
]
ROW = ["label", "method", "keep", "average", "kinds", "overall", "agreement", "ttft_ms_median", "spared"]
SHORT = ["--max-new-tokens", 2, "-q"]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Three questions about two pictures; nobody knows what a random model answers to the last."""
    Image.new("RGB", (40, 30), "navy").save(tmp_path / "a.png")
    Image.new("RGB", (30, 40), "olive").save(tmp_path / "b.png")
    return write(
        tmp_path / "questions.jsonl",
        {"image": "a.png", "question": "what?", "answer": "navy", "kind": "color"},
        {"image": "b.png", "question": "which?", "choices": ["navy", "olive"], "answer": "B", "kind": "pick"},
        {"image": "b.png", "question": "and?"},
    )


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def test_rows_in_words_and_in_json(edgeprune: Command, bundle_tiny: Path, questions: Path) -> None:
    words = ["eval", bundle_tiny, "--data", questions, "--keep", "32,20", *SHORT]
    result = edgeprune(*words, "--json")
    assert result.code == 0, result.err
    *lines, last = result.out.splitlines()
    assert lines[0].split()[:4] == ["color", "(1)", "pick", "(1)"]
    assert lines[0].endswith("overall (2)  as unpruned  visual tokens  TTFT ms")
    assert [line.split("  ")[0].strip() for line in lines[1:]] == ["all", "visiondrop 32", "visiondrop 20"]
    report = json.loads(last)
    assert list(report) == FIELDS
    assert (report["data"], report["n"], report["images"], report["tokens"]) == ("questions.jsonl", 3, 2, 64)
    assert report["keeps"] == ["32", "20"]
    unpruned, first, second = report["rows"]
    assert list(unpruned) == ROW
    assert (unpruned["method"], unpruned["keep"], unpruned["average"], unpruned["agreement"]) == (None, "all", 64, 1)
    assert (first["method"], first["keep"], first["average"]) == ("visiondrop", "32", 32)
    assert second["average"] == pytest.approx(20, abs=0.5)
    for row in report["rows"]:
        assert {kind: share["asked"] for kind, share in row["kinds"].items()} == {"color": 1, "pick": 1}
        assert row["overall"]["low"] <= row["overall"]["right"] / 2 <= row["overall"]["high"]
        assert row["ttft_ms_median"] > 0
    assert edgeprune(*words).out.splitlines()[0] == lines[0]  # without --json there is no last line


def test_questions_without_answers_give_agreement_alone(edgeprune: Command, bundle_tiny: Path, questions: Path) -> None:
    path = write(questions, {"image": "a.png", "question": "what?"}, {"image": "b.png", "question": "what?"})
    result = edgeprune("eval", bundle_tiny, "--data", path, "--keep", "all,40", "-n", 1, *SHORT, "--json")
    report = json.loads(result.out.splitlines()[-1])
    assert [row["keep"] for row in report["rows"]] == ["all", "40"]
    assert report["n"] == 1
    assert all(row["overall"] is None and row["kinds"] == {} for row in report["rows"])
    assert "overall" not in result.out.splitlines()[0]


def test_the_usual_budgets_and_questions(edgeprune: Command, bundle_tiny: Path) -> None:
    """Of a bundle that is not the demo model's, with 64 visual tokens: both are told, neither stops it."""
    result = edgeprune("eval", bundle_tiny, "-n", 1, "--max-new-tokens", 1, "-q")
    assert result.code == 0, result.err
    assert [line.split("  ")[0].strip() for line in result.out.splitlines()[1:]] == ["all", "visiondrop 32"]
    told, left_out = result.err.strip().splitlines()
    assert told == "the questions were made for the demo model, not for tiny: see --data"
    assert left_out.startswith("visiondrop: left out --keep 192, 128: ")


def test_progress_is_told_unless_quiet(edgeprune: Command, bundle_tiny: Path, questions: Path) -> None:
    words = ["eval", bundle_tiny, "--data", questions, "--keep", "all", "--max-new-tokens", 1]
    assert "3/3" in edgeprune(*words).err
    assert edgeprune(*words, "-q").err == ""


# --- wrong input


def refuse(edgeprune: Command, code: int, *arguments: object) -> str:
    result = edgeprune("eval", *arguments, "-q")
    assert result.code == code, result
    assert result.out == ""
    return result.line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "visiondrop", "--keep", "32,7"], "it reaches 13..42 of 64, or all"),
        (["--keep", "7"], "it reaches 13..42 of 64, or all"),
        (["--keep", "abc"], "'abc' is no budget; expected a number of tokens"),
        (["--keep", "32,"], "'' is no budget"),
        (["--keep", "32,32"], "--keep names '32' twice"),
        (["--method", "visiondrop", "--keep", "all"], "has no effect at --keep all"),
        (["--method", "visiondrop,visiondrop"], "--method names 'visiondrop' twice"),
        (["--method", "fastv"], "has no method 'fastv'; it has visiondrop"),
        (["-n", "0"], "'-n'"),
    ],
)
def test_options(edgeprune: Command, bundle_tiny: Path, questions: Path, options: list[str], message: str) -> None:
    assert message in refuse(edgeprune, 2, bundle_tiny, "--data", questions, *options)


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ({"image": "a.png"}, 2, "questions.jsonl line 2: key 'question' is missing"),
        (
            {"image": "a.png", "question": "x?", "anwser": "y"},
            2,
            "line 2: unknown key 'anwser'; did you mean 'answer'?",
        ),
        ({"image": "a.png", "question": "x?", "choices": ["p", "q"], "answer": "r"}, 2, "is not among the choices"),
        ({"image": "c.png", "question": "x?"}, 1, "c.png is not found; paths are relative"),
        ({"image": "a.png", "question": "what </s> now"}, 2, "questions.jsonl line 2: the question holds '</s>'"),
        ({"image": "a.png", "question": "word " * 600}, 2, "questions.jsonl line 2: the question takes"),
        ({"image": "questions.jsonl", "question": "x?"}, 1, "questions.jsonl is not a picture"),
    ],
)
def test_lines(
    edgeprune: Command, bundle_tiny: Path, questions: Path, line: dict[str, object], code: int, message: str
) -> None:
    path = write(questions, {"image": "a.png", "question": "what?"}, line)
    told = refuse(edgeprune, code, bundle_tiny, "--data", path, *SHORT)
    assert message in told
    assert "questions.jsonl line 2" in told


def test_files(edgeprune: Command, bundle_tiny: Path, questions: Path, tmp_path: Path) -> None:
    assert "cannot be read" in refuse(edgeprune, 2, bundle_tiny, "--data", tmp_path / "nowhere.jsonl")
    questions.write_text("\n")
    assert "questions.jsonl is empty" in refuse(edgeprune, 2, bundle_tiny, "--data", questions)
    questions.write_text('{"image": "a.png",\n')
    assert "questions.jsonl line 1 is no JSON" in refuse(edgeprune, 2, bundle_tiny, "--data", questions)


def test_not_a_bundle(edgeprune: Command, questions: Path, tmp_path: Path) -> None:
    assert "make one with edgeprune export" in refuse(edgeprune, 1, tmp_path, "--data", questions)


def test_interrupted_it_shows_the_rows_that_are_finished(
    edgeprune: Command, bundle_tiny: Path, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeprune.runtime.vlm import VLM

    generate = VLM.generate
    answers: list[int] = []

    def interrupt(*arguments: object, **options: object) -> object:
        if len(answers) == 4:  # in the second row
            raise KeyboardInterrupt
        answers.append(1)
        return generate(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(VLM, "generate", interrupt)
    result = edgeprune("eval", bundle_tiny, "--data", questions, "--keep", "32", *SHORT, "--json")
    assert result.code == 130
    assert result.line == "edgeprune: interrupted"
    assert [line.split()[0] for line in result.out.splitlines()[1:]] == ["all"]
