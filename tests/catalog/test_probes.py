"""Which outputs of the encoder's scoring head a card names, at any depth of the encoder."""

from __future__ import annotations

import pytest

from edgeprune import catalog
from edgeprune.catalog import Probe
from edgeprune.catalog.card import parse_probe
from edgeprune.errors import EdgePruneError


@pytest.mark.parametrize(("selected", "early"), [(22, 5), (11, 3), (4, 1), (3, 1), (2, 0), (0, 0)])
def test_probes_lie_at_the_same_fraction_of_other_encoders(selected: int, early: int) -> None:
    assert catalog.card("vscan").probes_at(selected) == {
        "cls_attention": Probe("cls_attention", selected),
        "local_attention": Probe("cls_attention", early),
    }


def test_most_methods_read_the_selected_layer_or_none() -> None:
    named = {name: catalog.card(name).probes_at(7) for name in catalog.names()}
    assert named["visiondrop"] == {kind: Probe(kind, 7) for kind in ("cls_feature", "cls_attention", "key")}
    assert named["visionzip"] == named["visiondrop"]
    assert {name for name, probes in named.items() if not probes} == {
        *("cdpruner", "cdpruner-llm", "coast", "coast-rest", "fastv", "flowcut", "pyramiddrop"),
        *("random", "sparsevlm", "sparsevlm-plus", "uniform"),
    }


@pytest.mark.parametrize("name", ["key", "key_", "value_3", "key_-1", "key_12345", "mykey_3", "key_3 "])
def test_anything_else_is_no_probe(name: str) -> None:
    with pytest.raises(EdgePruneError, match="is no output of the scoring head; expected a kind and a layer"):
        parse_probe(name)
