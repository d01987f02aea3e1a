"""Which methods a checkpoint can carry, and what is said where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.errors import UsageError
from edgeprune.export.bundle import load_methods
from edgeprune.families.family import Family, open_family


@pytest.fixture(scope="module")
def tiny(checkpoint_tiny: Path) -> Family:
    """Its encoder has one layer up to the selected one, its decoder four."""
    return open_family("llava", checkpoint_tiny)


def test_an_encoder_too_shallow_to_prune_inside(tiny: Family) -> None:
    with pytest.raises(UsageError, match=r"this model cannot carry flowcut: .*layer"):
        load_methods(["flowcut"], tiny)


def test_no_text_tower(tiny: Family) -> None:
    with pytest.raises(UsageError, match=r"cannot carry cdpruner: .*--clip .*or take cdpruner-llm"):
        load_methods(["cdpruner"], tiny)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["costa"], r"unknown method 'costa'; methods: .*; did you mean 'coast'\?"),
        (["coast", "sts", "coast"], "names a method twice"),
        ([], "no method is named; edgeprune list methods"),
        ([""], "unknown method ''"),
    ],
)
def test_words_that_name_no_method(tiny: Family, names: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_methods(names, tiny)


def test_the_others_can(tiny: Family) -> None:
    names = ["coast", "fastv", "pyramiddrop", "sparsevlm", "sts", "visiondrop", "visionzip", "vispruner", "vscan"]
    assert [method.name for method in load_methods(names, tiny)] == names
