"""A checkpoint's own modules from Hugging Face, run station by station in fp32, with the methods' eager modules.

What happens inside a station is Hugging Face's code. This file adds what lies between them: the causal mask, and a
cache in which every layer has a length of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from edgeprune.bundle.manifest import Graph, Place
from edgeprune.checkpoint.config import read_config
from edgeprune.checkpoint.source import Source
from edgeprune.checkpoint.weights import Weights
from edgeprune.eager.clip_text import EagerClipText
from edgeprune.eager.model import EagerModel
from edgeprune.export.clip import open_clip
from edgeprune.families.llava import Llava
from edgeprune.methods import method as methods

Values = dict[str, torch.Tensor]
Station = Place | int | Literal["kernel", "prepare"]


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
        clip: the CLIP checkpoint beside it, for methods that need one.
    """

    def __init__(self, path: Path, clip: Source | None = None) -> None:
        self.clip = None if clip is None else open_clip(clip)
        self.clip_text = None if clip is None else EagerClipText(clip.path)
        self.eager = EagerModel(path, "fp32")
        self.eager.model.requires_grad_(False)
        self.family = Llava(read_config(path), Weights(path))
        self._language = self.eager.model.model.language_model
        self._modules: dict[tuple[str, Station], nn.Module] = {}
        self.query = torch.empty(0)

    def vision(self, pixel_values: torch.Tensor, probes: Sequence[str]) -> Values:
        """The selected layer's output, and probes by the names of the vision graph's outputs ("key_22")."""
        tower = self.eager.model.model.vision_tower
        wanted = [(name, *name.rsplit("_", 1)) for name in probes]
        keys: dict[int, torch.Tensor] = {}

        def remember(layer: int) -> Callable[..., None]:
            return lambda module, args, out: keys.update({layer: out})

        hooks = [
            tower.get_submodule(f"encoder.layers.{layer}.self_attn.k_proj").register_forward_hook(remember(int(layer)))
            for _, kind, layer in wanted
            if kind == "key"
        ]
        tower.set_attn_implementation("eager")  # the others do not return attention weights
        try:
            output = tower(pixel_values, output_hidden_states=True, output_attentions=True)
        finally:
            tower.set_attn_implementation("sdpa")
            for hook in hooks:
                hook.remove()
        values = {"features": output.hidden_states[self.eager.model.config.vision_feature_layer][:, 1:]}
        for name, kind, text in wanted:
            layer = int(text)
            if kind == "key":
                values[name] = keys[layer].unflatten(2, (tower.config.num_attention_heads, -1)).mean(dim=2)
            elif kind == "cls_feature":
                values[name] = output.hidden_states[layer + 1][:, :1]
            else:
                values[name] = output.attentions[layer].sum(dim=1)[:, 0, 1:]
        return values

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
        """Decoder layers first..last-1 on new rows [B, S, D] after the cached ones.

        ``query`` holds the rotated queries [B, H, S, d] of the last of them afterwards.
        """
        past, rows = cache.length(first), hidden.shape[1]
        seen = torch.arange(past + rows)[None, :] <= torch.arange(rows)[:, None] + past
        mask = torch.where(seen, 0.0, torch.finfo(hidden.dtype).min).expand(hidden.shape[0], 1, -1, -1)
        angles = self._language.rotary_emb(hidden, position_ids=positions)
        attention = self._language.layers[last - 1].self_attn
        hook = attention.q_proj.register_forward_hook(lambda module, args, out: self._remember(out, attention, angles))
        try:
            for layer in self._language.layers[first:last]:
                hidden = layer(
                    hidden,
                    attention_mask=mask,
                    position_ids=positions,
                    position_embeddings=angles,
                    past_key_values=cache,
                    use_cache=True,
                )
        finally:
            hook.remove()
        return hidden

    def _remember(self, out: torch.Tensor, attention: Any, angles: tuple[torch.Tensor, torch.Tensor]) -> None:
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        heads = out.unflatten(2, (-1, attention.head_dim)).transpose(1, 2)
        self.query, _ = apply_rotary_pos_emb(heads, heads, *angles)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The last row's logits [B, 1, vocab] of the last layer's output [B, S, D]."""
        found: torch.Tensor = self.eager.model.lm_head(self._language.norm(hidden[:, -1:]))
        return found

    def module(self, method: str, station: Station) -> nn.Module:
        """A method's eager module, with the checkpoint's weights.

        Args:
            method: its name.
            station: where a cut lies, or "kernel" or "prepare" for what runs before one.
        """
        if (method, station) not in self._modules:
            self._modules[method, station] = self._make(methods.load(method), station)
        return self._modules[method, station]

    def _make(self, record: methods.Method, station: Station) -> nn.Module:
        if isinstance(station, int):
            assert record.decoder_cut is not None  # the manifest has the cut from there
            return self.family.cut(record.decoder_cut, station, fused=False).load(torch.float32)
        if station == "encoder":
            assert record.encoder is not None
            return self.family.encoder(record.encoder, fused=False).load(torch.float32)
        if station == "prepare" and record.needs_clip:
            assert self.clip_text is not None  # callers look
            return self.clip_text
        if station == "prepare":
            assert record.prepare is not None
            return record.prepare().eval()
        if station == "kernel" and record.needs_clip:
            assert record.kernel is not None and self.clip is not None  # callers look
            return self.clip.part(record.kernel(self.family.vision_facts, self.clip.config)).load(torch.float32)
        make = {"vision": record.vision, "projected": record.projected, "kernel": record.kernel}[station]
        assert make is not None
        return make(self.family.vision_facts).eval()


def call(module: nn.Module, graph: Graph, values: Values) -> Values:
    """Run an eager module on the values that its graph reads; its results by the names of the graph's outputs."""
    results = module(*(values[tensor.name] for tensor in graph.inputs))
    results = (results,) if isinstance(results, torch.Tensor) else results
    return dict(zip((tensor.name for tensor in graph.outputs), results, strict=True))
