"""The rule of methods that keep one count before the decoder, and how long the sequence is after a cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.budget import encoder
from edgeprune.budget.schedule import Site, Stage, make_schedule
from edgeprune.bundle.manifest import Place
from edgeprune.errors import BudgetError

METHODS = ("uniform", "random")


@given(st.integers(2, 2880), st.integers(1, 80), st.sampled_from(["encoder", "vision", "projected"]), st.data())
def test_every_reachable_budget_is_met(tokens: int, layers: int, place: Place, data: st.DataObject) -> None:
    site = Site(tokens, (place,), layers)
    low, high = encoder.reach(site)
    keep = data.draw(st.integers(low, high))
    assert encoder.stages(keep, site) == (Stage(place, keep, 0, layers),)


@pytest.mark.parametrize("method", METHODS)
def test_the_average_is_what_enters_the_decoder(method: str) -> None:
    schedule = make_schedule(method, 64, Site(576, ("vision",), 32))
    assert schedule.average == schedule.first == 64
    assert schedule.label is None


@pytest.mark.parametrize("method", METHODS)
def test_beyond_the_range_names_the_range(method: str) -> None:
    with pytest.raises(BudgetError, match=r"cannot keep 64 .* reaches 1\.\.63 of 64"):
        make_schedule(method, 64, Site(64, ("vision",), 4))
