"""A checkpoint's own modules from Hugging Face, run station by station in fp32, with the methods' eager modules.

What happens inside a station is Hugging Face's code. This file adds what lies between them: the causal mask, and a
cache in which every layer has a length of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeprune.checkpoint.config import read_config
from edgeprune.checkpoint.weights import Weights
from edgeprune.eager.model import EagerModel
from edgeprune.families.llava import Llava
from edgeprune.methods import method as methods


class LayerCache:
    """Keys and values per decoder layer, [B, G, T, d]; Hugging Face's attention calls ``update``."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append rows to a layer and return all of its rows."""
        if layer in self.layers:
            past_key, past_value = self.layers[layer]
            key, value = torch.cat((past_key, key), dim=2), torch.cat((past_value, value), dim=2)
        self.layers[layer] = (key, value)
        return key, value

    def length(self, layer: int) -> int:
        """Rows of a layer."""
        return self.layers[layer][0].shape[2] if layer in self.layers else 0

    def named(self, first: int, last: int, prefix: str) -> dict[str, torch.Tensor]:
        """Layers first..last-1 under the names of a segment's tensors, ``<prefix>_key_<l>``, ``<prefix>_value_<l>``."""
        return {
            f"{prefix}_{kind}_{layer}": self.layers[layer][index]
            for layer in range(first, last)
            for index, kind in enumerate(("key", "value"))
        }


class Reference:
    """A loaded checkpoint.

    Args:
        path: its folder.
    """

    def __init__(self, path: Path) -> None:
        self.eager = EagerModel(path, "fp32")
        self.eager.model.requires_grad_(False)
        self.family = Llava(read_config(path), Weights(path))
        self._language = self.eager.model.model.language_model
        self._stages: dict[tuple[str, str | int], nn.Module] = {}

    def vision(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """The selected layer's output and every probe, under the names of the vision graph's outputs."""
        tower, layer = self.eager.model.model.vision_tower, self.family.feature_layer
        keys: list[torch.Tensor] = []
        projection = tower.get_submodule(f"encoder.layers.{layer}.self_attn.k_proj")
        hook = projection.register_forward_hook(lambda module, args, out: keys.append(out))
        tower.set_attn_implementation("eager")  # the others do not return attention weights
        try:
            output = tower(pixel_values, output_hidden_states=True, output_attentions=True)
        finally:
            tower.set_attn_implementation("sdpa")
            hook.remove()
        rows = output.hidden_states[self.eager.model.config.vision_feature_layer]
        heads = tower.config.num_attention_heads
        return {
            "features": rows[:, 1:],
            f"cls_feature_{layer}": rows[:, :1],
            f"cls_attention_{layer}": output.attentions[layer].sum(dim=1)[:, 0, 1:],
            f"key_{layer}": keys[0].unflatten(2, (heads, -1)).mean(dim=2),
        }

    def embed(self, before: tuple[int, ...], visual: torch.Tensor, after: tuple[int, ...]) -> torch.Tensor:
        """Token embeddings with the visual rows [B, V, D] between them: [B, S, D]."""
        placeholders = (self.eager.model.config.image_token_id,) * visual.shape[1]
        ids = torch.tensor([[*before, *placeholders, *after]]).expand(visual.shape[0], -1)
        return self.eager.embed(ids, visual)

    def embed_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """One token per row [B] to [B, 1, D]."""
        embedded: torch.Tensor = self._language.embed_tokens(tokens[:, None])
        return embedded

    def layers(
        self, first: int, last: int, hidden: torch.Tensor, positions: torch.Tensor, cache: LayerCache
    ) -> torch.Tensor:
        """Decoder layers first..last-1 on new rows [B, S, D] after the cached ones."""
        past, rows = cache.length(first), hidden.shape[1]
        seen = torch.arange(past + rows)[None, :] <= torch.arange(rows)[:, None] + past
        mask = torch.where(seen, 0.0, torch.finfo(hidden.dtype).min).expand(hidden.shape[0], 1, -1, -1)
        angles = self._language.rotary_emb(hidden, position_ids=positions)
        for layer in self._language.layers[first:last]:
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_ids=positions,
                position_embeddings=angles,
                past_key_values=cache,
                use_cache=True,
            )
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The last row's logits [B, 1, vocab] of the last layer's output [B, S, D]."""
        found: torch.Tensor = self.eager.model.lm_head(self._language.norm(hidden[:, -1:]))
        return found

    def stage(self, method: str, at: str | int) -> nn.Module:
        """A method's eager module for a cut, with the checkpoint's weights."""
        if (method, at) not in self._stages:
            record = methods.load(method)
            if isinstance(at, int):
                module = self.family.cut(record.decoder_cut, at, fused=False).load(torch.float32)
            else:
                module = record.vision_stage()
            self._stages[method, at] = module
        return self._stages[method, at]
