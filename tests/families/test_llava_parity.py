"""The LLaVA family's modules, run eagerly with a checkpoint's weights, are Hugging Face's model."""

from __future__ import annotations

import pytest

from tests.conftest import MakeCheckpoint
from tests.families.parity import Both, close, noise

SHAPES = ("tiny", "tiny-gqa", "tiny-qwen2", "tiny-llama3", "tiny-linear")


@pytest.fixture(scope="module", params=SHAPES)
def both(request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint) -> Both:
    """A checkpoint, and two prompts about one picture each."""
    made = Both(make_checkpoint(request.param))
    made.see(made.eager.preprocess([noise(90, 130, 1), noise(90, 130, 2)], "What?"))
    return made


@pytest.mark.parametrize("fused", [False, True])
def test_vision(both: Both, fused: bool) -> None:
    both.check_vision(fused)


@pytest.mark.parametrize("fused", [False, True])
def test_probes(both: Both, fused: bool) -> None:
    both.check_probes(fused)


def test_projector(both: Both) -> None:
    both.check_projector()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("cuts", [(), (1, 3)])
def test_decoder(both: Both, fused: bool, cuts: tuple[int, ...]) -> None:
    both.check_decoder(cuts, fused)


def test_rows_enter_as_they_are(both: Both) -> None:
    close(both.seen.projected.flatten(0, 1), both.seen.rows)
    assert both.family.newline() is None
