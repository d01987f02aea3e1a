"""Questions from JSON lines and from scenes; every malformed line is named by its number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from edgeprune.demo.scenes import HELD_OUT_SEED, draw_scene
from edgeprune.errors import ImageError, UsageError
from edgeprune.eval.data import demo_samples, read_samples, scene_samples

GOOD = {"image": "a.png", "question": "What?"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


def write(folder: Path, *lines: object) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    return path


def test_what_a_line_says(folder: Path) -> None:
    path = write(
        folder,
        GOOD,
        "",
        GOOD | {"answer": "red"},
        GOOD | {"image": "b.png", "answer": ["red", "crimson"], "kind": "color", "id": 7},
        GOOD | {"image": str(folder / "a.png"), "choices": ["red", "green"], "answer": "B"},
    )
    plain, known, several, chosen = read_samples(path)
    assert (plain.kind, plain.accepted, plain.choices, plain.question) == ("all", (), (), "What?")
    assert plain.picture() == folder / "a.png"
    assert known.accepted == ("red",)
    assert (several.kind, several.accepted) == ("color", ("red", "crimson"))
    assert chosen.question == "What?\nA. red\nB. green\nAnswer with the option's letter."
    assert (chosen.accepted, chosen.choices) == (("green",), ("red", "green"))
    assert [sample.index for sample in (plain, known, several, chosen)] == [0, 0, 1, 0]
    assert several.where == "questions.jsonl line 4 (id 7)"


@pytest.mark.parametrize("answer", ["green", "Green.", "B", "b", 1])
def test_a_choice_has_three_names(folder: Path, answer: object) -> None:
    (sample,) = read_samples(write(folder, GOOD | {"choices": ["red", "green"], "answer": answer}))
    assert sample.accepted == ("green",)


def test_a_byte_order_mark_and_other_line_ends(folder: Path) -> None:
    path = folder / "questions.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n" + json.dumps(GOOD).encode() + b"\r\n")
    assert len(read_samples(path)) == 2
    path.write_text(json.dumps(GOOD | {"question": "one\u2028line?"}, ensure_ascii=False), "utf-8")
    assert read_samples(path)[0].question == "one\u2028line?"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is no JSON: Expecting property name .* at column 2; expected one JSON object per line"),
        ("[1]", r"line 2 is \[1\]; expected one JSON object per line"),
        ("[" * 100_000, "line 2 cannot be read as JSON"),
        ('{"image": "\\ud800", "question": "What?"}', "line 2 holds half of a surrogate pair"),
        ({"question": "What?"}, "line 2: key 'image' is missing"),
        ({"image": "a.png"}, "line 2: key 'question' is missing"),
        (GOOD | {"anwser": "red"}, "line 2: unknown key 'anwser'; did you mean 'answer'?"),
        (GOOD | {"zzz": 1}, "line 2: unknown key 'zzz'; known keys: image, question, answer, choices, kind, id"),
        (GOOD | {"question": " "}, 'line 2: question is " "; expected a text'),
        (GOOD | {"image": 3}, "line 2: image is 3; expected a text"),
        (GOOD | {"kind": None}, "line 2: kind is null; expected a text"),
        (GOOD | {"id": True}, "line 2: id is true; expected a text or a whole number"),
        (GOOD | {"answer": 3}, "line 2: answer is 3; expected a text, or a list of texts that count"),
        (GOOD | {"answer": []}, r"line 2: answer is \[\]"),
        (GOOD | {"answer": ["red", ""]}, "line 2: answer is"),
        (GOOD | {"choices": ["red"]}, r'line 2: choices is \["red"\]; expected a list of 2 to 26 texts'),
        (GOOD | {"choices": ["red", 3]}, "line 2: choices holds 3"),
        (GOOD | {"choices": ["red", "Red."]}, "two of them cannot be told apart"),
        (GOOD | {"choices": ["x", "y"], "answer": "z"}, "line 2: answer \"z\" is not among the choices; .* 'x', 'y'"),
        (GOOD | {"choices": ["x", "y"], "answer": 2}, "answer 2 is not among .* a letter A..B, or an index 0..1"),
        (GOOD | {"choices": ["x", "y"], "answer": True}, "answer true is not among the choices"),
        (GOOD | {"choices": ["x", "y"], "answer": ["x"]}, "is not among the choices"),
        (GOOD | {"choices": ["B", "A"], "answer": "A"}, "is one choice and the letter of another; give its index"),
    ],
)
def test_malformed_lines(folder: Path, line: object, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_samples(write(folder, GOOD, line))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nowhere.png", "line 2: image .*nowhere.png is not found; paths are relative"),
        (".", "line 2: image .* is no file"),
        ("x" * 5000, "line 2: image .* cannot be looked up: File name too long"),
    ],
)
def test_missing_images(folder: Path, image: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_samples(write(folder, GOOD, GOOD | {"image": image}))


def test_files_that_hold_no_questions(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"questions\.jsonl is empty; expected one JSON object per line"):
        read_samples(write(folder, "", "  "))
    with pytest.raises(UsageError, match=r"nowhere\.jsonl cannot be read: No such file"):
        read_samples(folder / "nowhere.jsonl")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_samples(folder)
    with pytest.raises(UsageError, match=r"a\.png is no text in UTF-8: invalid start byte at byte 0"):
        read_samples(folder / "a.png")


def test_scenes_are_drawn_when_asked_for() -> None:
    samples = demo_samples(2)
    drawn = [draw_scene(HELD_OUT_SEED + index) for index in range(2)]
    assert [(s.question, s.kind, s.accepted) for s in samples] == [
        (q.text, q.kind, (q.answer,)) for scene in drawn for q in scene.questions
    ]
    for sample in (samples[0], samples[-1], samples[0]):
        picture = sample.picture()
        assert isinstance(picture, Image.Image)
        assert picture.tobytes() == drawn[sample.index].image.tobytes()
    assert [s.index for s in scene_samples(drawn)] == [s.index for s in samples]
    assert scene_samples(drawn)[0].picture() is drawn[0].image
