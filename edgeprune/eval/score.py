"""Whether an answer is right, and how far a share of right answers can be trusted. Knows neither models nor files."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_Z = 1.959963984540054  # of the normal distribution: 95% lie within
_ARTICLES = ("a", "an", "the")
_BEFORE = " \"'“‘«‚„([{<*_`¿¡"
_AFTER = " \"'”’»)]}>*_`.,;:!?…"
_WORDS = ("A", "I")  # letters that also begin a sentence: behind them a blank does not end the choice's letter
_LETTER = re.compile(r"[\s\"'“‘(\[*]*([A-Za-z])([\"'”’)\]*]*)(.?)", re.DOTALL)


@dataclass(frozen=True)
class Share:
    """So many right of so many asked, with a 95% interval.

    Attributes:
        right, asked: questions; at least one was asked.
        low, high: ends of the Wilson score interval, within 0..1.
    """

    right: int
    asked: int
    low: float
    high: float

    @classmethod
    def of(cls, right: int, asked: int) -> Share:
        """With its interval."""
        low, high = wilson(right, asked)
        return cls(right, asked, round(low, 6), round(high, 6))

    @property
    def percent(self) -> float:
        """Right answers in percent."""
        return 100 * self.right / self.asked

    @property
    def half_percent(self) -> float:
        """Half the interval's width in percentage points."""
        return 50 * (self.high - self.low)


def wilson(right: int, asked: int, z: float = _Z) -> tuple[float, float]:
    """Wilson's score interval of a share: honest at few questions and near 0% and 100%, where p +- z s/sqrt(n) is not.

    Raises:
        ValueError: nothing was asked, or more was right than asked.
    """
    if asked < 1 or not 0 <= right <= asked:
        raise ValueError(f"{right} right of {asked} asked is no share")
    p, spread = right / asked, z * z / asked
    middle = (p + spread / 2) / (1 + spread)
    half = z * math.sqrt(p * (1 - p) / asked + spread / (4 * asked)) / (1 + spread)
    # The ends at 0 and 1 are exact; rounding would leave them a hair inside.
    return 0.0 if right == 0 else middle - half, 1.0 if right == asked else middle + half


def normalise(text: str) -> str:
    """A form in which answers that mean the same are the same string.

    Lower case; runs of white space become one blank; punctuation at both ends and articles at the beginning are
    dropped. A sign, a currency or a percent sign stays, and so does what would leave nothing.
    """
    text = " ".join(unicodedata.normalize("NFC", text).lower().split())
    while True:
        shorter = text.lstrip(_BEFORE).rstrip(_AFTER)
        first, _, rest = shorter.partition(" ")
        if first in _ARTICLES and rest:
            shorter = rest
        if not shorter or shorter == text:
            return text
        text = shorter


def is_right(text: str, accepted: Sequence[str], choices: Sequence[str] = ()) -> bool:
    """Whether an answer is one of those accepted.

    Args:
        text: what was answered.
        accepted: texts that count; with choices, some of these.
        choices: what could be chosen from; empty where the question was open.
    """
    if choices:
        place = chosen(text, choices)
        return place is not None and choices[place] in accepted
    return normalise(text) in {normalise(answer) for answer in accepted}


def chosen(text: str, choices: Sequence[str]) -> int | None:
    """Which choice an answer begins with, as a letter or in words; None if with neither.

    "B", "(b)" and "B. red" are letters. "Red, I think" is the choice "red"; of two that fit, the longer.
    """
    match = _LETTER.match(text)
    if match is None:
        return _spelled(text, choices)
    letter, closed, behind = match.groups()
    bare = not behind.strip() and not text[match.end() :].strip()  # nothing else was said
    if bare or (behind and behind in ".:,;") or (closed and not behind.isalnum()):  # not "I'm"
        return _place(letter.upper(), choices)
    spelled = _spelled(text, choices)
    if spelled is None and behind.isspace() and letter.isupper() and (behind == "\n" or letter not in _WORDS):
        return _place(letter, choices)
    return spelled


def _place(letter: str, choices: Sequence[str]) -> int | None:
    place = LETTERS.index(letter)
    return place if place < len(choices) else None


def _spelled(text: str, choices: Sequence[str]) -> int | None:
    said = normalise(text)
    found: tuple[int, int] | None = None
    for place, choice in enumerate(choices):
        wanted = normalise(choice)
        more = re.match(r"\w|[.,]\d", said[len(wanted) :])  # "redder" is not red, 5.3 is not 5
        if said.startswith(wanted) and not more and (found is None or len(wanted) > found[0]):
            found = len(wanted), place
    return None if found is None else found[1]
