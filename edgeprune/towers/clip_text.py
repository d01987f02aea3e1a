"""CLIP's text transformer with its projection: one vector per text, in the space that patches are projected into.

The layers are those of the vision tower under a causal mask. Padding needs no mask of its own: it lies behind the end
token, where the text is read.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from edgeprune.layers.attention import causal_mask
from edgeprune.layers.linear import Linear
from edgeprune.layers.norm import LayerNorm
from edgeprune.towers.clip import Layer, LayerSettings, Positions


class TextSettings(LayerSettings, Protocol):
    """What the tower needs to know of a checkpoint's text configuration."""

    @property
    def layers(self) -> int: ...
    @property
    def vocab(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def end_id(self) -> int | None: ...


class Words(nn.Module):
    """The token embedding table."""

    def __init__(self, vocab: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab, width), requires_grad=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Map [B, n] int64 to [B, n, D]."""
        return nn.functional.embedding(ids, self.weight)


class ClipText(nn.Module):
    """All layers, the last norm and the projection; parameters carry the checkpoint's own names.

    Args:
        config: the tower's sizes.
        embed: width E of the space that text and patches share.
        fused: dialect.
    """

    def __init__(self, config: TextSettings, embed: int, fused: bool) -> None:
        super().__init__()
        self.end_id, self.fused = config.end_id, fused
        layers = nn.ModuleList(Layer(config, fused) for _ in range(config.layers))
        embeddings = {
            "token_embedding": Words(config.vocab, config.hidden),
            "position_embedding": Positions(config.length, config.hidden),
        }
        self.text_model = nn.ModuleDict(
            {
                "embeddings": nn.ModuleDict(embeddings),
                "encoder": nn.ModuleDict({"layers": layers}),
                "final_layer_norm": LayerNorm(config.hidden, config.norm_eps),
            }
        )
        self.text_projection = Linear(config.hidden, embed, bias=False)

    def forward(self, text_ids: torch.Tensor) -> torch.Tensor:
        """Encode texts.

        Args:
            text_ids: [B, n] int64, n the tower's length: start token, text, end token, padding.

        Returns:
            [B, E] fp32.
        """
        x = text_ids
        for embedding in self.text_model["embeddings"].children():
            x = embedding(x)
        mask = causal_mask(x, x[:, None, :0], self.fused)  # nothing is cached
        for layer in self.text_model.get_submodule("encoder.layers").children():
            x, _, _ = layer(x, mask)
        pooled = x.gather(1, self._end(text_ids)[:, None, None].expand(-1, 1, x.shape[2]))[:, 0]
        embeds: torch.Tensor = self.text_projection(self.text_model["final_layer_norm"](pooled))
        return embeds.float()

    def _end(self, ids: torch.Tensor) -> torch.Tensor:
        """The place [B] int64 of the first end token, and 0 where there is none, as in Hugging Face's."""
        ids = ids.to(torch.int32)
        # Checkpoints from before the id was recorded: it is the highest of the vocabulary.
        end = ids.amax(dim=1, keepdim=True) if self.end_id is None else self.end_id
        place = torch.arange(ids.shape[1], device=ids.device, dtype=torch.int32)
        first = torch.where(ids == end, place, ids.shape[1]).amin(dim=1)
        return (first % ids.shape[1]).to(torch.int64)
