"""Questions about pictures: read from a file of JSON lines, or about scenes the demo model has not seen.

A line is an object with ``image`` (a path, relative to the file), ``question`` and, where they are known,

    answer     a text, or a list of texts of which each counts; of a choice its text, its letter, or its index from 0
    choices    texts to choose from, which are put below the question under letters
    kind       what the question is counted under (default "all")
    id         a name for messages

Knows nothing of models, and opens no picture.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from PIL import Image

from edgeprune.demo.scenes import HELD_OUT_SEED, Scene, draw_scene
from edgeprune.errors import ImageError, UsageError
from edgeprune.eval.score import LETTERS, normalise

KEYS = ("image", "question", "answer", "choices", "kind", "id")
ANY_KIND = "all"
_BY_LETTER = "Answer with the option's letter."


@dataclass(frozen=True)
class Sample:
    """One question about one picture.

    Attributes:
        where: where it comes from, for messages ("questions.jsonl line 3").
        picture: gives the picture; a scene is drawn when it is asked for.
        index: number of the picture; questions about one picture share it.
        question: as it is asked, with its choices.
        kind: what it is counted under.
        accepted: answers that count; empty where none is known.
        choices: what can be chosen from; empty where the question is open.
    """

    where: str
    picture: Callable[[], Path | Image.Image]
    index: int
    question: str
    kind: str
    accepted: tuple[str, ...]
    choices: tuple[str, ...] = ()


def demo_samples(scenes: int) -> list[Sample]:
    """The questions of the first held-out scenes; each picture is drawn again when it is asked for."""
    found: list[Sample] = []
    for index in range(scenes):
        seed = HELD_OUT_SEED + index
        found.extend(_samples(_draw(seed), index, partial(_picture, seed)))
    return found


def scene_samples(scenes: Iterable[Scene]) -> list[Sample]:
    """The questions of scenes that are drawn already."""
    found: list[Sample] = []
    for index, scene in enumerate(scenes):
        found.extend(_samples(scene, index, partial(_same, scene.image)))
    return found


def read_samples(path: Path) -> list[Sample]:
    """All questions of a file, each checked.

    Raises:
        UsageError: the file is missing, empty or no UTF-8, or a line is malformed; the message has its number.
        ImageError: a picture is not there.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"--data {path} is no text in UTF-8: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise UsageError(f"--data {path} cannot be read: {error.strerror or error}") from error
    pictures: dict[Path, int] = {}
    found = []
    # Not splitlines(): it also splits at characters that JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            found.append(_read_line(line, f"{path.name} line {number}", path.parent, pictures))
    if not found:
        raise UsageError(f"--data {path} is empty; expected one JSON object per line, with image and question")
    return found


def _read_line(line: str, where: str, folder: Path, pictures: dict[Path, int]) -> Sample:
    entry = _entry(line, where)
    place = folder / _text(entry, "image", where)
    question = _text(entry, "question", where)
    kind = _text(entry, "kind", where) if "kind" in entry else ANY_KIND
    if "id" in entry:
        name = entry["id"]
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise UsageError(f"{where}: id is {_shown(name)}; expected a text or a whole number")
        where = f"{where} (id {name})"
    choices = _choices(entry["choices"], where) if "choices" in entry else ()
    accepted: tuple[str, ...] = ()
    if "answer" in entry:
        answer = entry["answer"]
        accepted = (_choice(answer, choices, where),) if choices else _answers(answer, where)
    if choices:
        options = (f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
        question = "\n".join([question, *options, _BY_LETTER])
    _check_file(place, where)
    index = pictures.setdefault(place, len(pictures))
    return Sample(where, partial(_same, place), index, question, kind, accepted, choices)


def _check_file(place: Path, where: str) -> None:
    try:
        problem = None if place.is_file() else "is no file" if place.exists() else "is not found"
    except OSError as error:  # a name too long, a folder that may not be searched
        problem = f"cannot be looked up: {error.strerror or error}"
    if problem is not None:
        raise ImageError(f"{where}: image {place} {problem}; paths are relative to the folder of the JSONL file")


def _entry(line: str, where: str) -> dict[str, Any]:
    expected = "expected one JSON object per line, with image and question"
    try:
        entry = json.loads(line)
        json.dumps(entry, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{where} holds half of a surrogate pair, which is no character; {expected}") from error
    except json.JSONDecodeError as error:
        raise UsageError(f"{where} is no JSON: {error.msg} at column {error.colno}; {expected}") from error
    except (RecursionError, ValueError) as error:  # nested without end; a number of thousands of digits
        raise UsageError(f"{where} cannot be read as JSON: {error}; {expected}") from error
    if not isinstance(entry, dict):
        raise UsageError(f"{where} is {_shown(entry)}; {expected}")
    for key in entry:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(KEYS)}"
            raise UsageError(f"{where}: unknown key {key!r}; {hint}")
    for key in ("image", "question"):
        if key not in entry:
            raise UsageError(f"{where}: key {key!r} is missing; {expected}")
    return entry


def _text(entry: dict[str, Any], key: str, where: str) -> str:
    value = entry[key]
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise UsageError(f"{where}: {key} is {_shown(value)}; expected a text")
    return value


def _answers(value: object, where: str) -> tuple[str, ...]:
    answers = value if isinstance(value, list) else [value]
    if not answers or not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise UsageError(f"{where}: answer is {_shown(value)}; expected a text, or a list of texts that count")
    return tuple(answers)


def _choices(value: object, where: str) -> tuple[str, ...]:
    expected = f"expected a list of 2 to {len(LETTERS)} texts"
    if not isinstance(value, list) or not 2 <= len(value) <= len(LETTERS):
        raise UsageError(f"{where}: choices is {_shown(value)}; {expected}")
    for choice in value:
        if not isinstance(choice, str) or not choice.strip():
            raise UsageError(f"{where}: choices holds {_shown(choice)}; {expected}")
    if len({normalise(choice) for choice in value}) < len(value):
        raise UsageError(f"{where}: choices is {_shown(value)}; two of them cannot be told apart")
    return tuple(value)


def _choice(value: object, choices: tuple[str, ...], where: str) -> str:
    """The choice that is the right one, given as its text, its letter, or its index."""
    letters = LETTERS[: len(choices)]
    known = f"{', '.join(map(repr, choices))}, a letter A..{letters[-1]}, or an index 0..{len(choices) - 1}"
    places: set[int] = set()
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
        places = {value}
    elif isinstance(value, str):
        places = {place for place, choice in enumerate(choices) if normalise(choice) == normalise(value)}
        if len(value.strip()) == 1 and value.strip().upper() in letters:
            places.add(letters.index(value.strip().upper()))
    if not places:
        raise UsageError(f"{where}: answer {_shown(value)} is not among the choices; expected one of {known}")
    if len(places) > 1:
        raise UsageError(f"{where}: answer {_shown(value)} is one choice and the letter of another; give its index")
    return choices[places.pop()]


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 60 else f"{text[:57]}..."


def _samples(scene: Scene, index: int, picture: Callable[[], Image.Image]) -> list[Sample]:
    return [
        Sample(f"scene {index}", picture, index, question.text, question.kind, (question.answer,))
        for question in scene.questions
    ]


@lru_cache(maxsize=1)  # the questions about a scene follow each other
def _draw(seed: int) -> Scene:
    return draw_scene(seed)


def _picture(seed: int) -> Image.Image:
    return _draw(seed).image


def _same(picture: Any) -> Any:
    return picture
