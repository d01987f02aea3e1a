"""A family's bundle answers as Hugging Face's class does: pixels, token ids, positions, logits, greedy tokens.

Unpruned, for pictures of several shapes, several in one prompt, text before, between and behind them, and video.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from edgeprune.runtime.assembly import assemble, place
from edgeprune.runtime.chain import Clock, Text
from edgeprune.runtime.layout import whole
from edgeprune.runtime.mrope import positions, time_interval
from tests.families.conformance.case import KINDS, QUESTION, Case, MakeCase, frames, noise, theirs

LIMIT = 1e-4  # of the reference's range


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, make_case: MakeCase) -> Case:
    return make_case(request.param)


def pictures(case: Case, prompt: str) -> list[Image.Image]:
    """The prompt's pictures: the number of one of the family's sizes, or two of them."""
    sizes = KINDS[case.name].sizes
    if case.medium == "video":
        return frames(case, sizes[int(prompt) % len(sizes)])
    return [noise(sizes[int(number) % len(sizes)], seed) for seed, number in enumerate(prompt.split("+"))]


@pytest.mark.parametrize("prompt", ["0", "1", "2", "0+1"])
def test_the_same_answer(case: Case, prompt: str) -> None:
    if case.medium == "video" and "+" in prompt:
        pytest.skip("one video a prompt")
    shown = pictures(case, prompt)
    encoded = case.vlm.prompt.encode(QUESTION, 1 if case.medium == "video" else len(shown))
    check(case, shown, ["", *[""] * (len(shown) - 1), QUESTION], Text(encoded.parts, encoded.question))


def test_a_prompt_in_pieces(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments read 20 rows at a time."""
    monkeypatch.setattr(case.vlm.backend, "chunk", 20)
    encoded = case.vlm.prompt.encode(QUESTION, 1)
    check(case, pictures(case, "0"), ["", QUESTION], Text(encoded.parts, encoded.question))


def test_words_between_pictures(case: Case) -> None:
    """As far as the chat template leaves them there."""
    if case.medium == "video":
        pytest.skip("one video a prompt")
    check(case, pictures(case, "1+0"), ["Look at", "beside", "and say what it is."], None)


def test_pictures_named_in_the_question(case: Case) -> None:
    question, shown = f"Of {case.vlm.prompt.marker} say what it is.", pictures(case, "0")
    inputs = case.written(question, shown)
    assert case.text(inputs, case.pixels(shown)).parts == case.vlm.prompt.encode(question, 1).parts


def check(case: Case, shown: Sequence[Image.Image], words: Sequence[str], text: Text | None) -> None:
    """Everything of a prompt; ``text`` is the runtime's, None for Hugging Face's own."""
    facts = case.vlm.manifest
    inputs = case.inputs(shown, *(words[-1:] if case.medium == "video" else words))
    pixels = case.pixels(shown)
    np.testing.assert_allclose(pixels.feeds["pixel_values"], theirs(inputs, pixels), rtol=0, atol=1e-6)
    if case.medium == "video" and pixels.pictures[0].grid is not None:
        assert 2 * pixels.pictures[0].grid[0] == len(shown) + 1  # the last pair is one frame twice
    text = text or case.text(inputs, pixels)
    assert text.parts == case.text(inputs, pixels).parts
    rows = whole(facts.layout, facts.vision, pixels.pictures)
    laid = assemble(text.parts, [rows], pixels.runs * max(facts.vision.tokens, 1), facts.layout.taps > 1)
    visual = case.eager.visual(inputs["input_ids"])[0].numpy()
    assert np.flatnonzero(visual).tolist() == laid.visual_rows[0].tolist()
    counted = case.eager.positions(inputs)
    assert (counted is not None) == (facts.decoder.axes == 3)
    if counted is not None:
        grids = [picture.grid for picture in pixels.pictures if picture.grid is not None]
        video = facts.image.native.video if facts.image.native else None
        interval = 1.0 if video is None else time_interval(video.tokens_per_second, pixels.pictures[0].seconds)
        found = positions([len(part) for part in text.parts], grids, interval)
        assert np.array_equal(place(laid, found.text, found.visual), counted.numpy())

    expected, tokens = case.generate(inputs)
    prefill = case.vlm.chain.prefill(pixels, text, None, None, Clock())
    logits, answer = prefill.logits, []
    for step in range(len(tokens)):
        np.testing.assert_allclose(logits[0], expected[step], rtol=0, atol=LIMIT * float(np.ptp(expected[step])))
        answer.append(int(logits.argmax()))
        logits = case.vlm.chain.decode(np.array(answer[-1:]), prefill.cache, Clock())
    assert answer == tokens
