"""What methods read of an encoder, computed from what Hugging Face's modules hold while they run.

Nothing is taken from edgeprune's own towers: hooks read queries, keys and rows inside Hugging Face's, and the scores
are formed here. One class for every kind of tower; ``watch`` finds the one of a model.

Letters: C runs, N visual tokens of one, n patches, m patches of a visual token, H heads, d width of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import torch

from edgeprune.eager.model import EagerModel, Inputs, Seen

Found = dict[tuple[str, int], torch.Tensor]


class Tower(Protocol):
    """How a kind of tower is read."""

    def modules(self, layer: int) -> dict[str, Any]:
        """The modules whose outputs are read, by what they are: q, k, rows."""

    def read(self, kind: str, layer: int, held: dict[str, torch.Tensor], inputs: Inputs) -> torch.Tensor:
        """A probe from those outputs."""


def watch(eager: EagerModel, inputs: Inputs, names: Sequence[str]) -> tuple[Seen, dict[str, torch.Tensor]]:
    """Run the encoder and read probes, by the names of the vision graph's outputs ("key_22")."""
    tower = _tower(eager, inputs)
    wanted = {name: (name.rsplit("_", 1)[0], int(name.rsplit("_", 1)[1])) for name in names}
    held: dict[int, dict[str, torch.Tensor]] = {layer: {} for _, layer in wanted.values()}
    with ExitStack() as hooks:
        for layer, found in held.items():
            for name, module in tower.modules(layer).items():
                hooks.callback(module.register_forward_hook(_keep(found, name), with_kwargs=True).remove)
        seen = eager.see(inputs)
    return seen, {name: tower.read(kind, layer, held[layer], inputs) for name, (kind, layer) in wanted.items()}


def _keep(found: dict[str, torch.Tensor], name: str) -> Callable[..., None]:
    def hook(module: Any, given: Any, named: dict[str, Any], output: Any) -> None:
        found[name] = output[0] if isinstance(output, tuple) else output
        if "position_embeddings" in named:
            found["cos"], found["sin"] = named["position_embeddings"]

    return hook


def _tower(eager: EagerModel, inputs: Inputs) -> Tower:
    model, kind = eager.model.model, eager.model.config.model_type
    if kind == "qwen2_5_vl":
        return _Qwen(eager)
    if kind == "internvl":
        return _InternVit(model.vision_tower, int(1 / eager.model.config.downsample_ratio))
    if kind == "video_llava":  # a tower for each medium
        return _Clip(model.video_tower if "pixel_values_videos" in inputs else model.image_tower)
    return _Clip(model.vision_tower)


class _Clip:
    """CLIP's tower, and SigLIP's, which has no class row."""

    def __init__(self, tower: Any) -> None:
        self._layers, self._heads = tower.encoder.layers, tower.config.num_attention_heads
        self._class_row = tower.config.model_type == "clip_vision_model"

    def modules(self, layer: int) -> dict[str, Any]:
        """See ``Tower``."""
        found = self._layers[layer]
        return {"q": found.self_attn.q_proj, "k": found.self_attn.k_proj, "rows": found}

    def read(self, kind: str, layer: int, held: dict[str, torch.Tensor], inputs: Inputs) -> torch.Tensor:
        """See ``Tower``."""
        if kind == "cls_feature":
            return held["rows"][:, :1]
        q, k = (_heads(held[name], self._heads) for name in "qk")
        if kind == "key":
            return k.mean(dim=1)
        return _attention(q[:, :, :1], k)[:, 1:] if self._class_row else _attention(q, k)


class _InternVit:
    """InternVL's: rows of the class and of patches, ``merge`` x ``merge`` of which make a visual token."""

    def __init__(self, tower: Any, merge: int) -> None:
        self._layers, self._heads, self._merge = tower.encoder.layer, tower.config.num_attention_heads, merge

    def modules(self, layer: int) -> dict[str, Any]:
        """See ``Tower``."""
        attention = self._layers[layer].attention
        return {"q": attention.q_norm, "k": attention.k_norm, "rows": self._layers[layer]}

    def read(self, kind: str, layer: int, held: dict[str, torch.Tensor], inputs: Inputs) -> torch.Tensor:
        """See ``Tower``."""
        if kind == "cls_feature":
            return held["rows"][:, :1].repeat(1, 1, self._merge**2)
        q, k = (_heads(held[name], self._heads) for name in "qk")
        if kind == "key":
            key = k.mean(dim=1)
            return torch.cat((key[:, :1], self._merged(key[:, 1:])), dim=1)
        return self._merged(_attention(q[:, :, :1], k)[:, 1:, None])[:, :, 0]

    def _merged(self, patches: torch.Tensor) -> torch.Tensor:
        """The mean of each visual token's patches: [C, n, w] to [C, N, w]."""
        side = round(patches.shape[1] ** 0.5)
        squares: torch.Tensor = patches.unflatten(
            1, (side // self._merge, self._merge, side // self._merge, self._merge)
        )
        return squares.mean(dim=(2, 4)).flatten(1, 2)


class _Qwen:
    """Qwen2.5-VL's: one run of all pictures, patches window by window, attention within windows or pictures."""

    def __init__(self, eager: EagerModel) -> None:
        self._eager, self._tower = eager, eager.model.model.visual
        self._heads = self._tower.config.num_heads

    def modules(self, layer: int) -> dict[str, Any]:
        """See ``Tower``."""
        return {"qkv": self._tower.blocks[layer].attn.qkv, "attended": self._tower.blocks[layer].attn}

    def read(self, kind: str, layer: int, held: dict[str, torch.Tensor], inputs: Inputs) -> torch.Tensor:
        """See ``Tower``."""
        from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

        q, k, _ = held["qkv"].unflatten(1, (3, self._heads, -1)).unbind(1)
        if kind == "key":
            return self._merged(k.mean(dim=1), inputs)
        rotated: Any = apply_rotary_pos_emb_vision(q, k, held["cos"], held["sin"])
        sizes = self._seen_together(layer, inputs)
        parts = zip(sizes, *(part.split(sizes) for part in rotated), strict=True)
        # Rows of other pictures give 0 to the mean over all.
        shares = [_attention(*(one.transpose(0, 1)[None] for one in pair))[0] * size for size, *pair in parts]
        scores = [share / sum(sizes) for share in shares]
        return self._merged(torch.cat(scores)[:, None], inputs)[:, :, 0]

    def _seen_together(self, layer: int, inputs: Inputs) -> list[int]:
        """Patches of each window, or in some layers of each picture or frame pair."""
        facts, windows = self._tower.config, self._eager.windows(inputs)[1]
        if layer not in facts.fullatt_block_indexes:
            edges = torch.unique_consecutive(windows)
            return [int(size) for size in edges.diff()]
        grids = self._eager.grids(inputs).tolist()
        return [rows * columns for frames, rows, columns in grids for _ in range(frames)]

    def _merged(self, patches: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        """The mean of each visual token's patches, line by line: [n, w] to [1, N, w]."""
        tokens: torch.Tensor = self._eager.in_order(patches, inputs).unflatten(1, (-1, patches.shape[1]))
        return tokens.mean(dim=1)[None]


def _heads(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Map [C, n, H * d] to [C, H, n, d]."""
    split: torch.Tensor = rows.unflatten(2, (count, -1))
    return split.transpose(1, 2)


def _attention(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Softmax [C, n] that rows receive: the mean over the queries [C, H, q, d], summed over heads."""
    weights = [
        torch.softmax(q[:, head] @ k[:, head].transpose(1, 2) * q.shape[3] ** -0.5, dim=-1).mean(dim=1)
        for head in range(q.shape[1])
    ]
    return torch.stack(weights).sum(dim=0)
