"""A checkpoint's own modules from Hugging Face, run station by station in fp32, with the methods' eager modules.

What happens inside a station is Hugging Face's code. This file adds what lies between them: the causal mask, and a
cache in which every layer has a length of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from edgeprune.bundle.manifest import Graph, Place
from edgeprune.bundle.prompt import Medium
from edgeprune.checkpoint.source import Source
from edgeprune.eager.clip_text import EagerClipText
from edgeprune.eager.model import EagerModel, Inputs, Seen
from edgeprune.eager.processor import Patches
from edgeprune.export.clip import open_clip
from edgeprune.families.family import family_of, open_family
from edgeprune.methods import method as methods
from edgeprune.runtime.assembly import Assembly
from edgeprune.verify.probes import watch
from edgeprune.verify.sample import QUESTION, Sample

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
        medium: pictures or video.
        clip: the CLIP checkpoint beside it, for methods that need one.
    """

    def __init__(self, path: Path, medium: Medium, clip: Source | None = None) -> None:
        self._medium = medium
        self.clip = None if clip is None else open_clip(clip)
        self.clip_text = None if clip is None else EagerClipText(clip.path)
        self.eager = EagerModel(path, "fp32")
        self.eager.model.requires_grad_(False)
        self.family = open_family(family_of(path), Source(path, path.name or "checkpoint", None), medium)
        self._language = self.eager.model.model.language_model
        self._modules: dict[tuple[str, Station], nn.Module] = {}
        self.query = torch.empty(0)

    def inputs(self, sample: Sample) -> Inputs:
        """What Hugging Face's processor makes of a sample's pictures, or of its video, and the question."""
        if self._medium == "image":
            return self.eager.prompt(*sample.pictures, QUESTION)
        return self.eager.prompt(sample.pictures, QUESTION, patches=self._patches(sample))

    def _patches(self, sample: Sample) -> Patches | None:
        """A video of native resolution, as the runtime prepared it: Hugging Face's processor needs torchvision."""
        native, one = self.family.image().native, sample.pixels.pictures[0]
        if native is None or one.grid is None:
            return None
        frames, rows, columns = one.grid
        values = torch.from_numpy(sample.pixels.feeds["pixel_values"])
        flat = values.reshape(frames * rows * columns * native.merge**2, -1)
        return Patches(flat, (frames, rows * native.merge, columns * native.merge), one.seconds)

    def vision(self, inputs: Inputs, probes: Sequence[str]) -> tuple[Seen, Values]:
        """What the encoder and the projector give, and probes by the names of the vision graph's outputs."""
        with torch.inference_mode():
            return watch(self.eager, inputs, probes)

    def embed(self, parts: Sequence[Sequence[int]], visual: Sequence[torch.Tensor]) -> torch.Tensor:
        """Token embeddings with the visual rows of each picture [V, D] between the parts: [1, S, D]."""
        placeholder = self.eager.placeholders[0]
        ids: list[int] = list(parts[0])
        for rows, part in zip(visual, parts[1:], strict=True):
            ids += [placeholder] * len(rows)
            ids += part
        return self.eager.embed(torch.tensor([ids]), torch.cat(tuple(visual)))

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

    def _positions(self, record: methods.Method) -> Literal["repack", "keep"]:
        return "keep" if self.family.decoder_facts.axes > 1 else record.positions

    def _make(self, record: methods.Method, station: Station) -> nn.Module:
        if isinstance(station, int):
            assert record.decoder_cut is not None  # the manifest has the cut from there
            # Positions of three axes are never numbered anew.
            make = partial(record.decoder_cut, positions=self._positions(record))
            return self.family.cut(make, station, fused=False).load(torch.float32)
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
        stage = {"vision": record.vision, "projected": record.projected, "kernel": record.kernel}[station]
        assert stage is not None
        return stage(self.family.vision_facts).eval()


def call(module: nn.Module, graph: Graph, values: Values) -> Values:
    """Run an eager module on the values that its graph reads; its results by the names of the graph's outputs."""
    results = module(*(values[tensor.name] for tensor in graph.inputs))
    results = (results,) if isinstance(results, torch.Tensor) else results
    return dict(zip((tensor.name for tensor in graph.outputs), results, strict=True))


def laid_out(laid: Assembly) -> Values:
    """Where the rows of a prompt come from, by the names that graphs call them."""
    weight = {} if laid.weight is None else {"weight": torch.from_numpy(laid.weight)}
    return {
        "order": torch.from_numpy(laid.order),
        "visual_rows": torch.from_numpy(laid.visual_rows),
        **weight,
    }
