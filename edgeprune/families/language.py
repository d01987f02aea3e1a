"""The decoder of every family: layers of Llama's shape, cut where methods prune, under the weights' canonical names.

It knows no tower and no pruning method: a cut's module is handed in by whoever exports it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from edgeprune.bundle.sizes import Decoder
from edgeprune.checkpoint.decoder import DecoderConfig
from edgeprune.checkpoint.weights import Weights
from edgeprune.decoders.llama import Segment
from edgeprune.families.part import Part
from edgeprune.layers.rotary import rotary_tables


class Language:
    """The part of a family's checkpoint that reads and writes text, one ``part`` per graph; a family adds what sees.

    Args:
        decoder: its sizes.
        weights: the checkpoint's tensors.
    """

    def __init__(self, decoder: DecoderConfig, weights: Weights) -> None:
        self.decoder, self.weights = decoder, weights

    @property
    def decoder_facts(self) -> Decoder:
        """The decoder's facts for the manifest."""
        d = self.decoder
        axes = 3 if d.rope.sections else 1
        return Decoder(d.layers, d.hidden, d.heads, d.kv_heads, d.head_dim, d.intermediate, d.vocab, d.context, axes)

    def segment(self, first: int, last: int, fused: bool, shows_query: bool = False) -> Part:
        """Decoder layers first..last-1, with norm and head where they end the decoder."""
        module = Segment(self.decoder, first, last, fused, shows_query)
        return Part(module, self.weights, self._name, self._rotary())

    def cut(self, make: Callable[..., nn.Module], layer: int, fused: bool) -> Part:
        """A method's cut before ``layer``, whose norm and projections it borrows."""
        module = make(self.decoder, fused)
        return Part(module, self.weights, lambda name: f"decoder.layers.{layer}.{name}", self._rotary())

    def newline(self) -> torch.Tensor | None:
        """The row [D] that ends a line of a picture; None, where the family does not say otherwise: there is none."""
        return None

    def embedding(self) -> torch.Tensor:
        """The token embedding table [vocab, D]."""
        return self.weights.tensor("decoder.embed_tokens.weight")

    def _name(self, name: str) -> str:
        if name.startswith("lm_head."):
            return "decoder.embed_tokens.weight" if self.decoder.tied else name
        return f"decoder.{name}"

    def _rotary(self) -> dict[str, Callable[[], torch.Tensor]]:
        return {f"rotary.{name}": partial(self._rotary_table, index) for index, name in enumerate(("cos", "sin"))}

    def _rotary_table(self, index: int) -> torch.Tensor:
        return rotary_tables(self.decoder.rope, self.decoder.head_dim, self.decoder.context)[index]
