"""What the keys of a TOML table must hold, and the check that refuses all else by name.

Knows types and tables, not what any key means; rules between keys are for the values that are made of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeprune.errors import RecipeError
from edgeprune.recipes import find


@dataclass(frozen=True)
class Rule:
    """What one key must hold.

    Attributes:
        holds: whether a value that TOML gave is right.
        expected: the same in words, for messages.
        required: whether the key must be there.
    """

    holds: Callable[[Any], bool]
    expected: str
    required: bool = True


def check(table: Mapping[str, Any], rules: Mapping[str, Rule], place: str) -> None:
    """Refuses a table that has an unknown key, lacks one, or holds a value of the wrong kind.

    Args:
        table: as TOML gave it.
        rules: for every key that is allowed.
        place: where the file has the table, for messages: "shapes", "stacks[1]", or "" for the file itself.

    Raises:
        RecipeError: the message names the key, and what was expected.
    """
    prefix, where = (f"{place}.", f" in {place}") if place else ("", "")
    known = tuple(rules)
    for key, value in table.items():
        if key not in rules:
            near = find.suggestion(key, known)
            raise RecipeError(f"unknown key {key!r}{where}; allowed: {', '.join(known)}{near}")
        if not rules[key].holds(value):
            raise RecipeError(f"{prefix}{key} = {value!r}; expected {rules[key].expected}")
    for key, rule in rules.items():
        if rule.required and key not in table:
            raise RecipeError(f"the key {key!r} is missing{where}; expected {rule.expected}")


def is_text(value: object) -> bool:
    """Whether it is a text that is not empty."""
    return isinstance(value, str) and value != ""


def is_table(value: object) -> bool:
    """Whether it is a table."""
    return isinstance(value, dict)


def is_number(value: object) -> bool:
    """Whether it is a figure of a data sheet: TOML also has booleans, nan and inf."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < 1e6 and math.isfinite(value)


def is_count(value: object) -> bool:
    """Whether it is a whole number that an axis can have: 1 to 2**31 - 1."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31


def one_of(known: tuple[str, ...]) -> Rule:
    """A key that must be there and hold one of these texts."""
    return Rule(lambda value: isinstance(value, str) and value in known, f"one of {', '.join(known)}")


def matches(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    """Whether it is a text of that form, from its beginning to its end."""
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def list_of(holds: Callable[[Any], bool], least: int, most: int | None = None) -> Callable[[Any], bool]:
    """Whether it is a list of so many of these; no upper bound where ``most`` is None."""

    def holds_all(value: object) -> bool:
        return isinstance(value, list) and least <= len(value) <= (most or len(value)) and all(map(holds, value))

    return holds_all
