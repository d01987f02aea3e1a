"""A question whose prompt has exactly so many text tokens, whatever the tokenizer."""

from __future__ import annotations

from collections.abc import Callable

from edgeprune.errors import UsageError

# From long to short: the first that still fits is added, in turn, so that the text varies. The last ones are for
# tokenizers of characters, and for those that have no short words.
_WORDS = (" picture", " describe", " what", " colour", " where", " the", " and", " is", " a", "a", "?", ".", "1")


def make_question(text_tokens: int, count: Callable[[str], int]) -> str:
    """Repeat words until the prompt has the wanted length.

    Args:
        text_tokens: of the whole prompt without the picture: template, special tokens and question.
        count: text tokens of a question's prompt.

    Raises:
        UsageError: it cannot be reached; the message says from where on it can.
    """
    question = "What"
    have = count(question)
    if have > text_tokens:
        raise UsageError(
            f"--text-tokens {text_tokens} is too few: expected {have} or more, this model's shortest prompt"
        )
    turn = 0
    while have < text_tokens:
        order = (*_WORDS[turn % 7 : 7], *_WORDS[: turn % 7], *_WORDS[7:])
        for word in order:
            longer = count(question + word)
            if have < longer <= text_tokens:
                question, have, turn = question + word, longer, turn + 1
                break
        else:
            raise UsageError(
                f"--text-tokens {text_tokens} cannot be met by repeating words: the nearest below is {have}"
            )
    return question
