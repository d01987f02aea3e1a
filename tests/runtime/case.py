"""A bundle opened beside its checkpoint, and what must hold between them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

import edgeprune
from edgeprune.eager.model import EagerModel
from edgeprune.runtime.chain import Clock, Prefill, Text
from edgeprune.runtime.preprocess import batch
from edgeprune.runtime.request import Pictures
from tests.reference import visiondrop
from tests.reference.llava import Weights
from tests.reference.visiondrop import Stage

QUESTION = "Which shape is left of the red one?"
LIMIT = 1e-4  # of the reference's range


@dataclass(frozen=True)
class Case:
    """A bundle, opened, and the checkpoint it came from."""

    vlm: edgeprune.VLM
    checkpoint: Path

    @property
    def weights(self) -> Weights:
        config = json.loads((self.checkpoint / "config.json").read_text())
        return Weights(load_file(self.checkpoint / "model.safetensors"), config)

    def prefill(self, images: Sequence[Any], keep: int | str) -> Prefill:
        """As many prompts as there are pictures, or videos."""
        return self.ask(QUESTION, [[image] for image in images], keep)

    def ask(self, question: str, prompts: Sequence[Sequence[Any]], keep: int | str) -> Prefill:
        """One question about the pictures, or the video, of every prompt."""
        pictures = Pictures(prompts, self.vlm.manifest)
        method, schedule = self.vlm.plan(keep, None, pictures.tokens, pictures.pixels.runs)
        if method is not None:
            self.vlm.chain.open_method(method)
        prompt = self.vlm.prompt.encode(question, len(prompts[0]))
        text = Text(prompt.parts, prompt.question)
        return self.vlm.chain.prefill(pictures.pixels, text, method, schedule, Clock())

    def decode(self, tokens: list[int], prefill: Prefill) -> NDArray[np.float32]:
        return self.vlm.chain.decode(np.array(tokens), prefill.cache, Clock())


def picture(seed: int) -> Image.Image:
    """Noise with a bright patch, not square."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (100, 140, 3), dtype=np.uint8)
    pixels[20:50, 30 + seed : 80] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


def close(found: NDArray[np.float32], expected: NDArray[np.floating]) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=LIMIT * float(np.ptp(expected)))


def check_against_hugging_face(case: Case, *seen: Any, question: str = QUESTION) -> None:
    """Logits of one prompt and of 31 decode steps, each side on its own greedy tokens.

    Pictures, or a video as a list of its frames, stand before the question, or where it says ``<image>``.
    """
    eager = EagerModel(case.checkpoint, "fp32")
    inputs = theirs(case, eager, question, seen)
    positions = eager.positions(inputs)
    expected, cache = eager.prefill(eager.embed(inputs["input_ids"], eager.see(inputs).rows), positions)
    prefill = case.ask(question, [seen], "all")
    assert prefill.stages == ()
    logits, tokens = prefill.logits, []
    for _ in range(31):
        close(logits, expected.numpy())
        tokens.append(int(expected.argmax()))
        assert int(logits.argmax()) == tokens[-1]
        logits = case.decode([int(logits.argmax())], prefill)
        position = None if positions is None else positions.max().expand(3, 1, 1) + len(tokens)
        expected, cache = eager.decode(torch.tensor([tokens[-1]]), cache, position)
    close(logits, expected.numpy())


def theirs(case: Case, eager: EagerModel, question: str, seen: Sequence[Any]) -> dict[str, torch.Tensor]:
    """What Hugging Face's model takes; its processor reads the places of pictures from the text, as we do."""
    if "<image>" not in question:
        return eager.prompt(*seen, question)
    (left, right), token = case.vlm.manifest.prompt.wrap, case.vlm.manifest.prompt.image_token
    text = case.vlm.prompt.render(question, len(seen)).replace(f"{left}{token}{right}", token)
    return dict(eager.processor(text=[text], images=[list(seen)], return_tensors="pt"))


def check_against_reference(case: Case, image: Image.Image, keep: int) -> None:
    """Kept rows of every stage, logits, cache lengths and positions, and eight decode steps."""
    method, schedule = case.vlm.plan(keep)
    assert method is not None and schedule is not None
    prompt, weights = case.vlm.prompt.encode(QUESTION), case.weights
    stages = [Stage(stage.keep - stage.merge, stage.merge) for stage in schedule.stages]
    pixels = batch([image], case.vlm.manifest.image)
    expected = visiondrop.prefill(weights, pixels, prompt.before, prompt.after, stages, method.decoder_cuts)
    found = case.prefill([image], keep)

    origin = expected.kept[0] - 1
    for index, stage in enumerate(found.stages):
        origin = origin if index == 0 else origin[expected.kept[index]]
        assert stage.kept[0].tolist() == origin.tolist()
        counts = schedule.stages[index].keep, schedule.stages[index].merge
        assert (stage.tokens_out, int(stage.merged[0].sum())) == counts
    close(found.logits[0], expected.logits)

    lengths = [prompt.text_tokens + stage.keep for stage in schedule.stages]
    check_cache(found, lengths)
    tokens = [int(token) for token in np.random.default_rng(keep).integers(3, case.vlm.manifest.decoder.vocab, 8)]
    decoded = visiondrop.decode(weights, expected, tokens)
    for step, token in enumerate(tokens):
        assert [found.cache.position(index) for index in range(len(lengths))] == decoded.positions[step].tolist()
        close(case.decode([token], found)[0], decoded.logits[step])
        check_cache(found, [length + step + 1 for length in lengths])


def check_cache(prefill: Prefill, lengths: list[int]) -> None:
    """Every segment has its own length."""
    assert [segment.length for segment in prefill.cache.segments] == lengths
    for segment, length in zip(prefill.cache.segments, lengths, strict=True):
        assert {array.shape()[2] for array in segment.arrays.values()} == {length}
