"""What a weight takes in every precision."""

from __future__ import annotations

import pytest

from edgeprune.errors import UsageError
from edgeprune.estimate.precision import PRECISIONS, precision


def test_bits_per_weight_with_scales() -> None:
    bits = {name: 8 * known.weight for name, known in PRECISIONS.items()}
    assert bits == {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4.125, "fp8": 8, "nvfp4": 4.5}


def test_weights_alone_are_quantised_where_products_run_in_fp16() -> None:
    assert {name: known.math for name, known in PRECISIONS.items()} == {
        "fp32": "fp32",
        "fp16": "fp16",
        "int8": "fp16",
        "int4": "fp16",
        "fp8": "fp8",
        "nvfp4": "fp4",
    }
    assert all(known.element == (4 if name == "fp32" else 2) for name, known in PRECISIONS.items())


def test_by_name() -> None:
    assert precision("int4") is PRECISIONS["int4"]


@pytest.mark.parametrize(("name", "hint"), [("fp-16", "; did you mean 'fp16'?"), ("bfloat", "")])
def test_an_unknown_one_names_the_others(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        precision(name)
    assert str(error.value) == f"unknown precision {name!r}; precisions: fp32, fp16, int8, int4, fp8, nvfp4{hint}"
