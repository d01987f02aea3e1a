"""LLaVA-1.5: CLIP's tower, a two-layer projector, a Llama or Qwen2 decoder; one image of a fixed size.

The parts come empty (see ``part``), one per graph of the bundle. This file knows no pruning method: a cut's
module is handed in by whoever exports it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from edgeprune.bundle.sizes import Decoder, Vision
from edgeprune.checkpoint.config import LlavaConfig, read_config
from edgeprune.checkpoint.weights import Weights
from edgeprune.decoders.llama import Segment
from edgeprune.errors import UnsupportedModel
from edgeprune.families.part import Part
from edgeprune.layers.activation import activate
from edgeprune.layers.linear import Linear
from edgeprune.layers.rotary import rotary_tables
from edgeprune.towers.clip import ClipTower


class Projector(nn.Module):
    """Two linear maps with an activation between, from encoder width to decoder width."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        bias = config.projector.bias
        self.activation = config.projector.activation
        self.linear_1 = Linear(config.vision.hidden, config.decoder.hidden, bias)
        self.linear_2 = Linear(config.decoder.hidden, config.decoder.hidden, bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map [B, K, Dv] to [B, K, D]."""
        projected: torch.Tensor = self.linear_2(activate(self.activation, self.linear_1(features)))
        return projected


def open_family(checkpoint: Path) -> Llava:
    """Open a checkpoint's folder.

    Raises:
        CheckpointError: it cannot be read, or is of another architecture.
    """
    return Llava(read_config(checkpoint), Weights(checkpoint))


class Llava:
    """A checkpoint's parts (see ``family.Family``).

    Args:
        config: its sizes.
        weights: its tensors.
    """

    def __init__(self, config: LlavaConfig, weights: Weights) -> None:
        if config.feature_select != "default":
            raise UnsupportedModel(
                f"vision_feature_select_strategy {config.feature_select!r} is not supported; supported: 'default'"
            )
        self.config, self.weights = config, weights

    @property
    def vision_facts(self) -> Vision:
        """The encoder's facts for the manifest."""
        v = self.config.vision
        side = v.image_size // v.patch_size
        return Vision((side, side), v.hidden, self.config.feature_layer + 1, v.heads, v.intermediate, v.patch_size)

    @property
    def image_size(self) -> int:
        """Side of the encoder's picture in pixels."""
        return self.config.vision.image_size

    @property
    def decoder_facts(self) -> Decoder:
        """The decoder's facts for the manifest."""
        d = self.config.decoder
        return Decoder(d.layers, d.hidden, d.heads, d.kv_heads, d.head_dim, d.intermediate, d.vocab, d.context)

    @property
    def feature_layer(self) -> int:
        """The encoder layer whose output is selected and whose attention scores patches."""
        return self.config.feature_layer

    def vision(self, probes: tuple[tuple[str, int], ...], fused: bool) -> Part:
        """The encoder with a scoring head; ``probes`` are kinds and layers."""
        config = self.config
        tower = ClipTower(config.vision, config.feature_layer, probes, fused)
        return Part(tower, self.weights, lambda name: f"vision.{name}")

    def encoder(self, make: Callable[..., nn.Module], fused: bool) -> Part:
        """A method's own form of the encoder, with the same weights."""
        module = make(self.config.vision, self.config.feature_layer, fused)
        return Part(module, self.weights, lambda name: f"vision.{name}")

    def project(self) -> Part:
        """The projector."""
        return Part(Projector(self.config), self.weights, lambda name: f"projector.{name}")

    def segment(self, first: int, last: int, fused: bool, shows_query: bool = False) -> Part:
        """Decoder layers first..last-1, with norm and head where they end the decoder."""
        module = Segment(self.config.decoder, first, last, fused, shows_query)
        return Part(module, self.weights, self._decoder_name, self._rotary())

    def cut(self, make: Callable[..., nn.Module], layer: int, fused: bool) -> Part:
        """A method's cut before ``layer``, whose norm and projections it borrows."""
        module = make(self.config.decoder, fused)
        return Part(module, self.weights, lambda name: f"decoder.layers.{layer}.{name}", self._rotary())

    def embedding(self) -> torch.Tensor:
        """The token embedding table [vocab, D]."""
        return self.weights.tensor("decoder.embed_tokens.weight")

    def _decoder_name(self, name: str) -> str:
        if name.startswith("lm_head."):
            return "decoder.embed_tokens.weight" if self.config.decoder.tied else name
        return f"decoder.{name}"

    def _rotary(self) -> dict[str, Callable[[], torch.Tensor]]:
        d = self.config.decoder
        return {
            f"rotary.{name}": partial(self._rotary_table, index, d.head_dim, d.context)
            for index, name in enumerate(("cos", "sin"))
        }

    def _rotary_table(self, index: int, head_dim: int, context: int) -> torch.Tensor:
        return rotary_tables(self.config.decoder.rope, head_dim, context)[index]
