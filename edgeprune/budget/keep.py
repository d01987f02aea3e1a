"""What a user may ask for: a number of tokens, a percentage, a paper's own label, or all of them."""

from __future__ import annotations

import re

from edgeprune.errors import BudgetError

_EXPECTED = "expected a number of tokens (64), a percentage (11.1%), a paper's label (paper:128) or all"


def parse_keep(text: str | int, tokens: int) -> int | str | None:
    """Read ``--keep``.

    Args:
        text: "64", "11.1%", "paper:128", "all", or a number.
        tokens: visual tokens that there are without pruning: of the prompt, or the most that a picture can have.

    Returns:
        The average number of visual tokens over the decoder layers, "paper:<label>" as it stands, or None for all of
        them, unpruned.

    Raises:
        BudgetError: the text has another form, or the number is below 1 or above ``tokens``.
    """
    word = str(text).strip().lower()
    if word == "all":
        return None
    if word.startswith("paper:") and word != "paper:":
        return word
    if not re.fullmatch(r"[+-]?\d+(\.\d+)?%|[+-]?\d+", word):
        raise BudgetError(f"--keep {text!r} is no budget; {_EXPECTED}")
    if word.endswith("%"):
        percent = float(word[:-1])
        if not 0 < percent <= 100:
            raise BudgetError(f"--keep {text!r} is out of range; a percentage is above 0% and at most 100%")
        return None if percent == 100 else max(1, round(tokens * percent / 100))
    keep = int(word)
    if not 1 <= keep <= tokens:
        raise BudgetError(f"--keep {text!r} is out of range; there are {tokens} visual tokens: 1..{tokens}, or all")
    return None if keep == tokens else keep
