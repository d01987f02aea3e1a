"""A checkpoint as Hugging Face runs it and as its family's parts, and what both must agree on.

For the families of LLaVA's build over CLIP's tower: tower, projector and decoder are compared one by one.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from edgeprune.bundle.prompt import Medium
from edgeprune.checkpoint.source import resolve
from edgeprune.eager.model import EagerModel, Seen
from edgeprune.families.family import family_of, open_family

LIMIT = 1e-4  # of the reference's range


def noise(height: int, width: int, seed: int = 3) -> Image.Image:
    """A picture of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Both are alike to within ``LIMIT`` of the reference's range."""
    assert found.shape == expected.shape
    spread = float(expected.max() - expected.min())
    assert float((found - expected).abs().max()) <= LIMIT * spread


class Both:
    """One checkpoint, twice.

    Args:
        path: its folder.
        medium: which tower is compared.
        tower: Hugging Face's name of it.
    """

    def __init__(self, path: Path, medium: Medium = "image", tower: str = "vision_tower") -> None:
        self.family: Any = open_family(family_of(path), resolve(str(path)), medium)
        self.eager = EagerModel(path, "fp32")
        self.tower: Any = getattr(self.eager.model.model, tower)
        self.seen: Seen
        self.pixels = self.hidden = torch.empty(0)

    def see(self, inputs: dict[str, torch.Tensor]) -> None:
        """Take prepared prompts: what the tower is given, what Hugging Face makes of it, what enters the decoder."""
        hook = self.tower.register_forward_pre_hook(lambda _, given: taken.append(given[0]))
        taken: list[torch.Tensor] = []
        self.seen = self.eager.see(inputs)
        hook.remove()
        (self.pixels,) = taken
        self.hidden = self.eager.embed(inputs["input_ids"], self.seen.rows)

    def segment(self, first: int, last: int, fused: bool, *inputs: Any) -> tuple[torch.Tensor, ...]:
        """The outputs of decoder layers first..last-1."""
        output: tuple[torch.Tensor, ...] = self.family.segment(first, last, fused).load(torch.float32)(*inputs)
        return output

    def check_vision(self, fused: bool) -> None:
        """The features [C, N, Dv] of runs [C, 3, h, w]."""
        (found,) = self.family.vision((), fused).load(torch.float32)(self.pixels)
        close(found, self.seen.features)
        facts = self.family.vision_facts
        assert found.shape[1:] == (facts.tokens, facts.width)

    def check_probes(self, fused: bool) -> None:
        """Against attention weights and keys inside Hugging Face's tower."""
        layer = self.family.feature_layer
        keys: list[torch.Tensor] = []
        attention = self.tower.encoder.layers[layer].self_attn
        hook = attention.k_proj.register_forward_hook(lambda _, __, out: keys.append(out))
        self.tower.set_attn_implementation("eager")
        with torch.no_grad():
            output = self.tower(self.pixels, output_hidden_states=True, output_attentions=True)
        self.tower.set_attn_implementation("sdpa")
        hook.remove()

        part = self.family.vision((("key", layer), ("cls_attention", layer), ("cls_feature", layer)), fused)
        _, key, cls_attention, cls_feature = part.load(torch.float32)(self.pixels)
        close(cls_feature, output.hidden_states[layer + 1][:, :1])
        close(cls_attention, output.attentions[layer].sum(dim=1)[:, 0, 1:])
        heads = self.tower.config.num_attention_heads
        close(key, keys[0].unflatten(2, (heads, -1)).mean(dim=2))

    def check_projector(self) -> None:
        """Rows [C, N, Dv] to [C, N, D]."""
        close(self.family.project().load(torch.float32)(self.seen.features), self.seen.projected)

    def check_decoder(self, cuts: tuple[int, ...], fused: bool) -> None:
        """Prefill of [B, S, D] and two decode steps, whole and in segments."""
        facts, (rows, length, _) = self.family.decoder_facts, self.hidden.shape
        segments = list(pairwise([0, *cuts, facts.layers]))
        empty = torch.zeros(rows, facts.kv_heads, 0, facts.head_dim)
        past = {segment: [empty] * 2 * (segment[1] - segment[0]) for segment in segments}

        def forward(hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            for segment in segments:
                hidden, *past[segment] = self.segment(*segment, fused, hidden, positions, past[segment])
            return hidden[:, 0]

        expected, cache = self.eager.prefill(self.hidden)
        close(forward(self.hidden, torch.arange(length).expand(rows, -1)), expected)
        for step in range(2):
            tokens = expected.argmax(dim=1)
            expected, cache = self.eager.decode(tokens, cache)
            embedded = self.family.embedding()[tokens][:, None]
            close(forward(embedded, torch.full((rows, 1), length + step)), expected)
        for index, layer in enumerate(cache.layers):
            segment = next(segment for segment in segments if segment[0] <= index < segment[1])
            close(past[segment][2 * (index - segment[0])], layer.keys)
            close(past[segment][2 * (index - segment[0]) + 1], layer.values)
