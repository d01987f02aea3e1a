"""Prompts of an exact length, whatever the tokenizer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgeprune.bench.question import make_question
from edgeprune.errors import UsageError

COUNTS: dict[str, Callable[[str], int]] = {
    "characters": lambda text: 12 + len(text),
    "words": lambda text: 12 + len(text.split()),
    "pairs": lambda text: 12 + -(-len(text) // 2),
}


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("tokens", [16, 17, 59, 60, 300])
def test_the_prompt_has_exactly_so_many_tokens(name: str, tokens: int) -> None:
    count = COUNTS[name]
    assert count(make_question(tokens, count)) == tokens


def test_too_few_says_how_many_are_needed() -> None:
    with pytest.raises(UsageError, match="--text-tokens 5 is too few: expected 13 or more"):
        make_question(5, COUNTS["words"])


def test_a_length_that_cannot_be_met_is_refused() -> None:
    with pytest.raises(UsageError, match="--text-tokens 21 cannot be met by repeating words"):
        make_question(21, lambda text: 12 + 2 * len(text.split()))
