"""Matching of answers, and Wilson's interval against known values."""

from __future__ import annotations

import pytest

from edgeprune.eval.score import Share, chosen, is_right, normalise, wilson


@pytest.mark.parametrize(
    ("right", "asked", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),  # roots of (p - 0.8)^2 = 1.96^2 p (1 - p) / 10
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 1, 0.2065, 1.0),
        (50, 100, 0.4038, 0.5962),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_known_values(right: int, asked: int, low: float, high: float) -> None:
    found = wilson(right, asked)
    assert found == pytest.approx((low, high), abs=5e-5)
    assert 0 <= found[0] <= right / asked <= found[1] <= 1


@pytest.mark.parametrize(("right", "asked"), [(0, 0), (3, 2), (-1, 5)])
def test_no_share(right: int, asked: int) -> None:
    with pytest.raises(ValueError, match="is no share"):
        wilson(right, asked)


def test_share_in_percent() -> None:
    share = Share.of(8, 10)
    assert share.percent == 80
    assert share.half_percent == pytest.approx(22.656, abs=5e-3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Red", "red"),
        ("  red\n", "red"),
        ("Red.", "red"),
        ('"The red  one!"', "red one"),
        ("**Yes**", "yes"),
        ("a cat", "cat"),
        ("The", "the"),  # nothing else is left
        ("A", "a"),
        ("the a cat", "cat"),
        ("vitamin A", "vitamin a"),
        ("-5", "-5"),
        ("5%", "5%"),
        (".5", ".5"),
        ("...", "..."),
        ("", ""),
        ("cafe\u0301", "café"),
        ("top  left", "top left"),
        ("anthem", "anthem"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected
    assert normalise(expected) == expected


def test_open_questions_are_matched_whole() -> None:
    assert is_right("The Red.", ["red"])
    assert is_right("crimson", ["red", "Crimson"])
    assert not is_right("red circle", ["red"])
    assert not is_right("", ["red"])
    assert not is_right("5", ["-5"])


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("B", 1),
        ("b", 1),
        (" B.", 1),
        ("(B)", 1),
        ("(b) red", 1),
        ("B: red", 1),
        ("B. green", 1),  # the letter comes first
        ("B\nred", 1),
        ("B because", 1),
        ("red", 0),
        ("Red, I think", 0),
        ("the red one", 0),
        ("red car", 2),  # the longer of two
        ("redder", None),
        ("A", 0),
        ("A red car", 2),  # an article
        ("A thing", None),
        ("a thing", None),
        ("I'm not sure", None),
        ("E", None),  # there are four choices
        ("blue", None),
        ("", None),
        ("...", None),
        ("5", 3),
        ("5.3", None),
        ("5.", 3),
    ],
)
def test_choices_count_from_the_start(text: str, place: int | None) -> None:
    choices = ("red", "green", "red car", "5")
    assert chosen(text, choices) == place
    assert is_right(text, ("red car",), choices) == (place == 2)
