"""The LLaVA family's modules, run eagerly with a checkpoint's weights, are Hugging Face's model."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edgeprune.checkpoint.config import read_config
from edgeprune.checkpoint.weights import Weights
from edgeprune.eager.model import EagerModel
from edgeprune.families.llava import Llava
from tests.conftest import MakeCheckpoint

SHAPES = ("tiny", "tiny-gqa", "tiny-qwen2", "tiny-llama3", "tiny-linear")
LIMIT = 1e-4  # of the reference's range


class Both:
    """One checkpoint, as Hugging Face runs it and as the family's parts."""

    def __init__(self, path: Path) -> None:
        self.family = Llava(read_config(path), Weights(path))
        self.eager = EagerModel(path, "fp32")
        rng = np.random.default_rng(3)
        images = [Image.fromarray(rng.integers(0, 256, (90, 130, 3), dtype=np.uint8)) for _ in range(2)]
        self.inputs = self.eager.preprocess(images, "What?")
        self.features = self.eager.vision(self.inputs["pixel_values"])
        self.visual = self.eager.project(self.features)
        self.hidden = self.eager.embed(self.inputs["input_ids"], self.visual)

    def segment(self, first: int, last: int, fused: bool, *inputs: Any) -> tuple[torch.Tensor, ...]:
        output: tuple[torch.Tensor, ...] = self.family.segment(first, last, fused).load(torch.float32)(*inputs)
        return output


@pytest.fixture(scope="module", params=SHAPES)
def both(request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint) -> Both:
    return Both(make_checkpoint(request.param))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    spread = float(expected.max() - expected.min())
    assert float((found - expected).abs().max()) <= LIMIT * spread


@pytest.mark.parametrize("fused", [False, True])
def test_vision(both: Both, fused: bool) -> None:
    (features,) = both.family.vision((), fused).load(torch.float32)(both.inputs["pixel_values"])
    close(features, both.features)


@pytest.mark.parametrize("fused", [False, True])
def test_probes(both: Both, fused: bool) -> None:
    """Against attention weights and keys inside Hugging Face's tower."""
    tower, layer = both.eager.model.model.vision_tower, both.family.feature_layer
    keys: list[torch.Tensor] = []
    hook = tower.encoder.layers[layer].self_attn.k_proj.register_forward_hook(lambda _, __, out: keys.append(out))
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        output = tower(both.inputs["pixel_values"], output_hidden_states=True, output_attentions=True)
    tower.set_attn_implementation("sdpa")
    hook.remove()

    part = both.family.vision((("key", layer), ("cls_attention", layer), ("cls_feature", layer)), fused)
    _, key, cls_attention, cls_feature = part.load(torch.float32)(both.inputs["pixel_values"])
    close(cls_feature, output.hidden_states[layer + 1][:, :1])
    close(cls_attention, output.attentions[layer].sum(dim=1)[:, 0, 1:])
    heads = tower.config.num_attention_heads
    close(key, keys[0].unflatten(2, (heads, -1)).mean(dim=2))


def test_projector(both: Both) -> None:
    close(both.family.project().load(torch.float32)(both.features), both.visual)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("cuts", [(), (1, 3)])
def test_decoder(both: Both, fused: bool, cuts: tuple[int, ...]) -> None:
    """Prefill and two decode steps, whole and in segments."""
    facts, rows = both.family.decoder_facts, both.hidden.shape[0]
    edges = [0, *cuts, facts.layers]
    segments = list(pairwise(edges))
    empty = torch.zeros(rows, facts.kv_heads, 0, facts.head_dim)
    past = {segment: [empty] * 2 * (segment[1] - segment[0]) for segment in segments}

    def forward(hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        for segment in segments:
            hidden, *past[segment] = both.segment(*segment, fused, hidden, positions, past[segment])
        return hidden[:, 0]

    expected, cache = both.eager.prefill(both.hidden)
    length = both.hidden.shape[1]
    close(forward(both.hidden, torch.arange(length).expand(rows, -1)), expected)
    for step in range(2):
        tokens = expected.argmax(dim=1)
        expected, cache = both.eager.decode(tokens, cache)
        embedded = both.family.embedding()[tokens][:, None]
        close(forward(embedded, torch.full((rows, 1), length + step)), expected)
    for index, layer in enumerate(cache.layers):
        segment = next(segment for segment in segments if segment[0] <= index < segment[1])
        close(past[segment][2 * (index - segment[0])], layer.keys)
        close(past[segment][2 * (index - segment[0]) + 1], layer.values)
