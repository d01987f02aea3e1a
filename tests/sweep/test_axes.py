"""The words of a sweep, and the cells they span."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.bench.picture import Visual
from edgeprune.errors import BudgetError, UsageError
from edgeprune.runtime.vlm import open_vlm
from edgeprune.sweep.axes import Axes, make_cells

VISUAL = Visual(64, 1)


def test_words() -> None:
    assert Axes.parse(["method=sts,visiondrop", "keep=all, 64"]) == Axes(("sts", "visiondrop"), ("all", "64"))
    assert Axes.parse(["keep=11.1%,paper:128", "method=all"]) == Axes(None, ("11.1%", "paper:128"))
    assert Axes.parse([]) == Axes(None, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["keeps=64"], "unknown axis 'keeps'; did you mean keep=?"),
        (["dtype=fp16"], "unknown axis 'dtype'; known axes: method, keep"),
        (["64"], "'64' is no axis; expected axes such as method="),
        (["keep="], "keep= has an empty value"),
        (["keep=64,,32"], "keep=64,,32 has an empty value"),
        (["keep=64,32,64"], "names '64' twice"),
        (["keep=64", "keep=32"], "axis 'keep' is given twice; write its values in one word: keep=a,b"),
        (["method=all,sts"], "names methods beside all"),
    ],
)
def test_words_that_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        Axes.parse(words)
    assert message in str(refused.value)
    assert str(refused.value).startswith("--sweep: ")


def test_cells(bundle_tiny: Path) -> None:
    with open_vlm(bundle_tiny, 1, False) as vlm:
        cells = make_cells(vlm, Axes(("visiondrop",), ("all", "40", "7")), VISUAL)
        assert [cell.name for cell in cells] == ["all", "visiondrop 40", "visiondrop 7"]
        unpruned, within, beyond = cells
        assert (unpruned.method, unpruned.entry, unpruned.schedule, unpruned.unreachable) == (None, None, None, None)
        assert within.schedule is not None
        assert within.schedule.average == 40
        assert beyond.unreachable is not None
        assert "13..42 of 64" in beyond.unreachable
        # All 64 are the unpruned model by another name; the usual budgets are those below 64.
        assert [cell.name for cell in make_cells(vlm, Axes(None, ("64", "40")), VISUAL)] == ["all", "visiondrop 40"]
        assert [cell.name for cell in make_cells(vlm, Axes(), VISUAL)] == ["all"]


def test_cells_that_are_refused(bundle_tiny: Path) -> None:
    with open_vlm(bundle_tiny, 1, False) as vlm:
        with pytest.raises(UsageError, match="the bundle has no method 'fastv'; it has visiondrop"):
            make_cells(vlm, Axes(("fastv",), ("40",)), VISUAL)
        with pytest.raises(UsageError, match="method=visiondrop has no effect at keep=all"):
            make_cells(vlm, Axes(("visiondrop",), ("all",)), VISUAL)
        with pytest.raises(BudgetError, match="'abc' is no budget"):
            make_cells(vlm, Axes(None, ("abc",)), VISUAL)
        with pytest.raises(BudgetError, match="no cell is within reach; the first: "):
            make_cells(vlm, Axes(None, ("all", "7", "8")), VISUAL)
