"""Which names reach a rule."""

import pytest

from edgeprune.budget.schedule import make_schedule, reach
from edgeprune.errors import BudgetError


@pytest.mark.parametrize("name", ["keep", "schedule", "visiondrop.os", "..x", "", "antigravity"])
def test_a_name_that_is_no_rule_is_never_imported(name: str) -> None:
    with pytest.raises(BudgetError, match="has no budget rule here; known: visiondrop"):
        reach(name, 576, (8, 16, 24), 32)
    with pytest.raises(BudgetError, match="has no budget rule"):
        make_schedule(name, 64, 576, (8, 16, 24), 32)


def test_what_was_asked_is_kept() -> None:
    assert make_schedule("visiondrop", 65, 576, (8, 16, 24), 32).asked == 65
