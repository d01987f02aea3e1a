"""What --keep accepts."""

import pytest

from edgeprune.budget.keep import parse_keep
from edgeprune.errors import BudgetError


@pytest.mark.parametrize(
    ("text", "keep"),
    [("64", 64), (64, 64), ("all", None), ("ALL", None), ("576", None), ("100%", None), ("11.1%", 64), ("33.3%", 192)],
)
def test_accepted(text: str | int, keep: int | None) -> None:
    assert parse_keep(text, 576) == keep


@pytest.mark.parametrize(
    ("text", "label"),
    [("paper:128", "paper:128"), (" PAPER:128 ", "paper:128"), ("paper:half", "paper:half"), ("paper:0", "paper:0")],
)
def test_a_papers_label_is_left_to_the_method(text: str, label: str) -> None:
    """A label is a name, no number: whether there is such a one, the method's card says."""
    assert parse_keep(text, 576) == label
    assert parse_keep(text, 64) == label


@pytest.mark.parametrize("text", ["0", "-3", "577", "600", "0%", "101%", "-5%"])
def test_out_of_range_is_named(text: str) -> None:
    with pytest.raises(BudgetError, match="out of range") as caught:
        parse_keep(text, 576)
    assert repr(text) in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "text", ["abc", "", "6.4", "1e3", "64 tokens", "%", "nan", "٦٤%%", "paper", "paper:", "paper: ", "128:paper"]
)
def test_malformed_says_what_is_expected(text: str) -> None:
    expected = r"expected a number of tokens \(64\), a percentage \(11.1%\), a paper's label \(paper:128\) or all"
    with pytest.raises(BudgetError, match=expected):
        parse_keep(text, 576)
