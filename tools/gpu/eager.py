"""PyTorch eager on the GPU: Hugging Face's model as it stands, and its layers with the method's modules between them.

Both are given the visual rows on the GPU, embed the text themselves, and end with the first token on the host. The
pruned one runs the same attention kernels: with an empty cache causal attention needs no mask, one row needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.checkpoint.source import resolve
from edgeprune.eager.model import DTYPES, EagerModel
from edgeprune.families.family import family_of, open_family
from edgeprune.methods import method as methods
from edgeprune.verify.reference import LayerCache
from tools.gpu.cases import METHOD, Budget
from tools.gpu.machine import DeviceName
from tools.gpu.variant import Engine, Prompt, Variant


class Eager:
    """A loaded checkpoint on a device.

    Args:
        checkpoint: its folder.
        dtype: "fp16" or "fp32".
        device: where it runs.
    """

    def __init__(self, checkpoint: Path, dtype: str, device: DeviceName) -> None:
        self.device, self.dtype = device, DTYPES[dtype]
        self.model = EagerModel(checkpoint, dtype)
        self.model.model.requires_grad_(False).to(device)
        self._family = open_family(family_of(checkpoint), resolve(str(checkpoint)), "image")
        self._cuts: dict[int, torch.nn.Module] = {}

    @property
    def language(self) -> Any:
        """Hugging Face's decoder, without the head."""
        return self.model.model.model.language_model

    def cut(self, layer: int) -> torch.nn.Module:
        """The method's module before a decoder layer, with the checkpoint's weights."""
        if layer not in self._cuts:
            method = methods.load(METHOD)
            assert method.decoder_cut is not None  # VisionDrop cuts the decoder
            make = partial(method.decoder_cut, positions=method.positions)
            part = self._family.cut(make, layer, fused=False)
            self._cuts[layer] = part.load(self.dtype).to(self.device)
        return self._cuts[layer]

    def embed(self, before: torch.Tensor, visual: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Token ids [1, a], rows [1, V, D] and ids [1, t] to [1, a + V + t, D]."""
        embed = self.language.embed_tokens
        return torch.cat((embed(before), visual, embed(after)), dim=1)

    def variant(self, budget: Budget, prompt: Prompt) -> Variant:
        """What runs a prompt at a budget."""
        return _Full(self, budget, prompt) if budget.schedule is None else _Pruned(self, budget, prompt)


class _Prompted:
    """A prompt on the device."""

    def __init__(self, eager: Eager, budget: Budget, prompt: Prompt) -> None:
        device = eager.device
        self.before, self.after = (torch.tensor([ids], device=device) for ids in (prompt.before, prompt.after))
        self.visual = torch.from_numpy(prompt.visual[:, : budget.rows[0]]).to(device)
        self.pixels = None if prompt.pixels is None else torch.from_numpy(prompt.pixels)


class _Full:
    """All visual rows through Hugging Face's own forward pass."""

    engine: Engine = "eager"

    def __init__(self, eager: Eager, budget: Budget, prompt: Prompt) -> None:
        self.budget, self._eager, self._prompt = budget, eager, _Prompted(eager, budget, prompt)
        self._cache: Any = None
        self._logits = self._token = torch.empty(0)

    @property
    def from_pixels(self) -> Callable[[], None] | None:
        return None if self._prompt.pixels is None else self._from_pixels

    @torch.inference_mode()
    def prefill(self) -> None:
        self._read(self._prompt.visual)

    @torch.inference_mode()
    def step(self) -> None:
        logits, self._cache = self._eager.model.decode(self._token, self._cache)
        self._token = _to_host(logits)

    def logits(self) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self._logits[0].float().cpu().numpy()
        return found

    def kept(self) -> tuple[NDArray[np.int64], ...]:
        return ()

    def parts_ms(self) -> dict[str, float]:
        return {}

    @torch.inference_mode()
    def _from_pixels(self) -> None:
        model, pixels = self._eager.model, self._prompt.pixels
        assert pixels is not None  # asked before
        seen = model.see({"pixel_values": pixels.to(self._eager.device, self._eager.dtype)})
        self._read(seen.rows[None])

    def _read(self, visual: torch.Tensor) -> None:
        self._cache = None  # the last one's memory first
        embedded = self._eager.embed(self._prompt.before, visual, self._prompt.after)
        self._logits, self._cache = self._eager.model.prefill(embedded)
        self._token = _to_host(self._logits)


class _Pruned:
    """Hugging Face's layers, and between them the method's eager modules; from the projected rows on only."""

    engine: Engine = "eager"
    from_pixels: Callable[[], None] | None = None

    def __init__(self, eager: Eager, budget: Budget, prompt: Prompt) -> None:
        self.budget, self._eager, self._prompt = budget, eager, _Prompted(eager, budget, prompt)
        assert budget.schedule is not None  # the other class is for those
        self._stages: list[tuple[int, int, torch.Tensor, torch.Tensor]] = []
        first = 0
        for stage in budget.schedule.stages:
            last = first + stage.layers
            self._stages.append((first, last, torch.tensor(stage.keep), torch.tensor(stage.merge)))
            first = last
        for start, *_ in self._stages[1:]:
            eager.cut(start)  # loaded before anything is timed
        self._cache = LayerCache()
        self._kept: list[torch.Tensor] = []
        self._logits = self._token = torch.empty(0)

    @torch.inference_mode()
    def prefill(self) -> None:
        self._cache, self._kept = LayerCache(), []
        hidden = self._eager.embed(self._prompt.before, self._prompt.visual, self._prompt.after)
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        start, length = self._prompt.before.shape[1], self._prompt.visual.shape[1]
        visual = torch.arange(start, start + length, device=hidden.device)[None]
        for first, last, keep, merge in self._stages:
            if first:
                cut = self._eager.cut(first)
                hidden, positions, visual, kept = cut(hidden, positions, visual, keep, merge)
                self._kept.append(kept)
            hidden = self._layers(first, last, hidden, positions)
        self._answer(hidden)

    @torch.inference_mode()
    def step(self) -> None:
        hidden = self._eager.language.embed_tokens(self._token[:, None])
        for first, last, *_ in self._stages:
            # Positions are numbered anew after every cut, so each stage has its own.
            positions = torch.full((1, 1), self._cache.length(first), device=hidden.device)
            hidden = self._layers(first, last, hidden, positions)
        self._answer(hidden, first=False)

    def logits(self) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self._logits[0].float().cpu().numpy()
        return found

    def kept(self) -> tuple[NDArray[np.int64], ...]:
        origin = np.arange(self.budget.rows[0])
        found = []
        for kept in self._kept:
            origin = origin[kept[0].cpu().numpy()]
            found.append(origin)
        return tuple(found)

    def parts_ms(self) -> dict[str, float]:
        return {}

    def _layers(self, first: int, last: int, hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        language = self._eager.language
        angles = language.rotary_emb(hidden, position_ids=positions)
        for layer in language.layers[first:last]:
            hidden = layer(
                hidden,
                attention_mask=None,
                position_ids=positions,
                position_embeddings=angles,
                past_key_values=self._cache,
                use_cache=True,
            )
        return hidden

    def _answer(self, hidden: torch.Tensor, first: bool = True) -> None:
        model = self._eager.model.model
        logits = model.lm_head(self._eager.language.norm(hidden[:, -1:]))[:, 0]
        if first:
            self._logits = logits
        self._token = _to_host(logits)


def _to_host(logits: torch.Tensor) -> torch.Tensor:
    """The greedy token, known on the host, as a loop that looks for the end token needs it."""
    token = logits.argmax(dim=-1)
    token.tolist()
    return token
