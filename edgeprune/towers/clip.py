"""CLIP's vision transformer up to the layer a model reads, with its scoring head.

It stops after the selected layer: later layers and the final norm feed nothing in LLaVA and its kin. Attention is
computed once for all rows; the scoring head adds one softmax row per head and one mean, never an N x N map. It does not
know which method asks for a probe.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from edgeprune.layers.activation import activate
from edgeprune.layers.attention import attend
from edgeprune.layers.linear import Linear
from edgeprune.layers.norm import LayerNorm

PROBES = ("cls_feature", "cls_attention", "key")
"""Kinds of probes; ``ClipTower.forward`` says what they are."""


class LayerSettings(Protocol):
    """What a layer needs to know of a checkpoint's configuration; CLIP's text layers are the same."""

    @property
    def hidden(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def intermediate(self) -> int: ...
    @property
    def activation(self) -> str: ...
    @property
    def norm_eps(self) -> float: ...


class ClipSettings(LayerSettings, Protocol):
    """What the tower needs to know of a checkpoint's vision configuration."""

    @property
    def image_size(self) -> int: ...
    @property
    def patch_size(self) -> int: ...


class Positions(nn.Module):
    """A learned position per row, added."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, N + 1, Dv] to the same shape."""
        return x + self.weight


class Embeddings(nn.Module):
    """Patches, a class row in front, and learned positions."""

    def __init__(self, config: ClipSettings) -> None:
        super().__init__()
        rows = (config.image_size // config.patch_size) ** 2 + 1
        self.class_embedding = nn.Parameter(torch.empty(config.hidden), requires_grad=False)
        self.patch_embedding = nn.Conv2d(3, config.hidden, config.patch_size, config.patch_size, bias=False)
        self.patch_embedding.requires_grad_(False)
        self.position_embedding = Positions(rows, config.hidden)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Map [B, 3, h, w] to [B, N + 1, Dv], the class row first."""
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        cls = self.class_embedding.expand(patches.shape[0], 1, -1)
        rows: torch.Tensor = self.position_embedding(torch.cat((cls, patches), dim=1))
        return rows


class Attention(nn.Module):
    """Full attention among all rows, or as a mask says."""

    def __init__(self, config: LayerSettings, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = config.heads, fused
        self.q_proj = Linear(config.hidden, config.hidden, bias=True)
        self.k_proj = Linear(config.hidden, config.hidden, bias=True)
        self.v_proj = Linear(config.hidden, config.hidden, bias=True)
        self.out_proj = Linear(config.hidden, config.hidden, bias=True)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the output [B, N + 1, Dv] and queries and keys [B, H, N + 1, d] (biases in, unscaled)."""
        q, k, v = (self.split(proj(x)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(attend(q, k, v, mask, self.fused)), q, k

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, N + 1, Dv] to [B, H, N + 1, d]."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, x.shape[2] // self.heads).transpose(1, 2)


class Mlp(nn.Module):
    """Two linear maps around the activation."""

    def __init__(self, config: LayerSettings) -> None:
        super().__init__()
        self.activation = config.activation
        self.fc1 = Linear(config.hidden, config.intermediate, bias=True)
        self.fc2 = Linear(config.intermediate, config.hidden, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, N + 1, Dv] to the same shape."""
        mapped: torch.Tensor = self.fc2(activate(self.activation, self.fc1(x)))
        return mapped


class Layer(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual."""

    def __init__(self, config: LayerSettings, fused: bool) -> None:
        super().__init__()
        self.layer_norm1 = LayerNorm(config.hidden, config.norm_eps)
        self.self_attn = Attention(config, fused)
        self.layer_norm2 = LayerNorm(config.hidden, config.norm_eps)
        self.mlp = Mlp(config)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the layer's output and the queries and keys it used; ``mask`` as of ``attend``."""
        attended, q, k = self.self_attn(self.layer_norm1(x), mask)
        x = x + attended
        return x + self.mlp(self.layer_norm2(x)), q, k


class ClipTower(nn.Module):
    """Layers 0..``feature_layer`` and the probes asked for.

    Args:
        config: the tower's sizes.
        feature_layer: 0-based index of the layer whose output is selected (22 of 24 in LLaVA-1.5).
        probes: (kind out of ``PROBES``, layer up to ``feature_layer``), in the order of the outputs.
        fused: dialect.
        keeps_class_row: whether the class row is one of the features, their first (Video-LLaVA's frames).
    """

    def __init__(
        self,
        config: ClipSettings,
        feature_layer: int,
        probes: tuple[tuple[str, int], ...],
        fused: bool,
        keeps_class_row: bool = False,
    ) -> None:
        super().__init__()
        self.probes, self.keeps_class_row = probes, keeps_class_row
        self.embeddings = Embeddings(config)
        self.pre_layrnorm = LayerNorm(config.hidden, config.norm_eps)  # the checkpoint's own spelling
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(Layer(config, fused) for _ in range(feature_layer + 1))})

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Encode [C, 3, h, w].

        Returns:
            features [C, N, Dv], the patches, which is what LLaVA reads, with the class row before them where it is
            kept; then per probe, in its layer: ``cls_feature`` [C, 1, Dv], the class row of the layer's output;
            ``cls_attention`` [C, n] fp32, the class row's softmax over all n + 1 keys summed over heads, for the n
            patches; ``key`` [C, n + 1, d] fp32, the keys' mean over heads, the class row's first.
        """
        x = self.pre_layrnorm(self.embeddings(pixel_values))
        found: dict[tuple[str, int], torch.Tensor] = {}
        for index, layer in enumerate(self.encoder["layers"].children()):
            x, q, k = layer(x)
            found |= {(kind, at): read_probe(kind, x, q, k) for kind, at in self.probes if at == index}
        features = x if self.keeps_class_row else x[:, 1:]
        return features, *(found[probe] for probe in self.probes)


def read_probe(kind: str, x: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """One output of the scoring head, from a layer's output, queries and keys."""
    if kind == "cls_feature":
        return x[:, :1]
    if kind == "key":
        return k.float().mean(dim=1)
    query = q[:, :, :1].float() * (q.shape[-1] ** -0.5)
    row = torch.softmax(torch.matmul(query, k.float().transpose(2, 3)), dim=-1)
    return row.sum(dim=1)[:, 0, 1:]
