"""InternViT up to the layer a model reads, its patches side by side in squares, with its scoring head.

CLIP's plan with three differences: every branch is scaled by a learned vector (``lambda_1``, ``lambda_2``), the norms
are layer norms or root-mean-square norms, and queries and keys may be normalised over all heads together. InternVL
then puts the rows of ``merge`` x ``merge`` neighbouring patches into one ("pixel shuffle"): that is a visual token.
Everything this tower gives is per visual token, so the shuffle is part of it.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from edgeprune.layers.attention import attend
from edgeprune.layers.linear import Linear
from edgeprune.layers.norm import LayerNorm, RMSNorm
from edgeprune.towers.clip import ClipSettings, Mlp

PROBES = ("cls_feature", "cls_attention", "key")
"""Kinds of probes; ``InternVit.forward`` says what they are."""

_QK_NORM_EPS = 1e-6
"""Hugging Face's default, which no configuration reaches."""


class InternVitSettings(ClipSettings, Protocol):
    """What the tower needs to know of a checkpoint's vision configuration."""

    @property
    def norm(self) -> str: ...
    @property
    def qkv_bias(self) -> bool: ...
    @property
    def qk_norm(self) -> bool: ...
    @property
    def merge(self) -> int: ...


def make_norm(config: InternVitSettings, fused: bool) -> LayerNorm | RMSNorm:
    """The norm of a layer, "layer_norm" or "rms_norm"."""
    if config.norm == "rms_norm":
        return RMSNorm(config.hidden, config.norm_eps, fused)
    return LayerNorm(config.hidden, config.norm_eps)


class PatchEmbeddings(nn.Module):
    """A patch of pixels to a row."""

    def __init__(self, config: InternVitSettings) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, config.hidden, config.patch_size, config.patch_size).requires_grad_(False)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Map [C, 3, h, w] to [C, n, D]."""
        rows: torch.Tensor = self.projection(pixel_values).flatten(2).transpose(1, 2)
        return rows


class Embeddings(nn.Module):
    """Patches, a class row in front, and learned positions."""

    def __init__(self, config: InternVitSettings) -> None:
        super().__init__()
        rows = (config.image_size // config.patch_size) ** 2 + 1
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden), requires_grad=False)
        self.patch_embeddings = PatchEmbeddings(config)
        self.position_embeddings = nn.Parameter(torch.empty(1, rows, config.hidden), requires_grad=False)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Map [C, 3, h, w] to [C, n + 1, D], the class row first."""
        patches = self.patch_embeddings(pixel_values)
        cls = self.cls_token.expand(patches.shape[0], -1, -1)
        return torch.cat((cls, patches), dim=1) + self.position_embeddings


class Attention(nn.Module):
    """Full attention among all rows."""

    def __init__(self, config: InternVitSettings, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = config.heads, fused
        self.q_proj = Linear(config.hidden, config.hidden, bias=config.qkv_bias)
        self.k_proj = Linear(config.hidden, config.hidden, bias=config.qkv_bias)
        self.v_proj = Linear(config.hidden, config.hidden, bias=config.qkv_bias)
        self.projection_layer = Linear(config.hidden, config.hidden, bias=True)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.hidden, _QK_NORM_EPS, fused)
            self.k_norm = RMSNorm(config.hidden, _QK_NORM_EPS, fused)
        self.qk_norm = config.qk_norm

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the output [C, n + 1, D] and queries and keys [C, H, n + 1, d], normalised and unscaled."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)  # over all heads together
        q, k, v = self.split(q), self.split(k), self.split(v)
        return self.projection_layer(attend(q, k, v, None, self.fused)), q, k

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """Map [C, n + 1, D] to [C, H, n + 1, d]."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, x.shape[2] // self.heads).transpose(1, 2)


class Layer(nn.Module):
    """Pre-norm attention and feed-forward, each scaled and with a residual."""

    def __init__(self, config: InternVitSettings, fused: bool) -> None:
        super().__init__()
        self.layernorm_before = make_norm(config, fused)
        self.attention = Attention(config, fused)
        self.lambda_1 = nn.Parameter(torch.empty(config.hidden), requires_grad=False)
        self.layernorm_after = make_norm(config, fused)
        self.mlp = Mlp(config)
        self.lambda_2 = nn.Parameter(torch.empty(config.hidden), requires_grad=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the layer's output and the queries and keys it used."""
        attended, q, k = self.attention(self.layernorm_before(x))
        x = x + self.lambda_1 * attended
        return x + self.lambda_2 * self.mlp(self.layernorm_after(x)), q, k


class InternVit(nn.Module):
    """Layers 0..``feature_layer``, the pixel shuffle, and the probes asked for.

    Args:
        config: the tower's sizes.
        feature_layer: 0-based index of the layer whose output is selected (23 of 24 in InternVL3-1B).
        probes: (kind out of ``PROBES``, layer up to ``feature_layer``), in the order of the outputs.
        fused: dialect.
    """

    def __init__(
        self, config: InternVitSettings, feature_layer: int, probes: tuple[tuple[str, int], ...], fused: bool
    ) -> None:
        super().__init__()
        self.probes, self.merge = probes, config.merge
        self.side = config.image_size // config.patch_size
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(config, fused) for _ in range(feature_layer + 1))})

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Encode [C, 3, h, w].

        Returns:
            features [C, N, Dv], N visual tokens of ``merge`` x ``merge`` patches each, side by side (Dv = merge^2 x D);
            then per probe, in its layer: ``cls_feature`` [C, 1, Dv], the class row of the layer's output, repeated as
            often as patches make a token, so that a method that keeps the class row can hand it to the projector (no
            publication says how; this is ours); ``cls_attention`` [C, N] fp32, the class row's softmax over all n + 1
            keys summed over heads, averaged over a token's patches; ``key`` [C, N + 1, d] fp32, the keys' mean over
            heads and over a token's patches, the class row's first.
        """
        x = self.embeddings(pixel_values)
        found: dict[tuple[str, int], torch.Tensor] = {}
        for index, layer in enumerate(self.encoder["layer"].children()):
            x, q, k = layer(x)
            found |= {(kind, at): self.read_probe(kind, x, q, k) for kind, at in self.probes if at == index}
        return self.tokens(x[:, 1:]).flatten(2), *(found[probe] for probe in self.probes)

    def tokens(self, patches: torch.Tensor) -> torch.Tensor:
        """Sort the patches of a token together: [C, n, W] to [C, N, merge^2, W].

        Tokens and the patches of one are in rows from the top; Hugging Face's ``pixel_shuffle`` in one step.
        """
        side, m = self.side // self.merge, self.merge
        squares = patches.reshape(patches.shape[0], side, m, side, m, patches.shape[2]).transpose(2, 3)
        return squares.reshape(patches.shape[0], side * side, m * m, patches.shape[2])

    def read_probe(self, kind: str, x: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """One output of the scoring head, from a layer's output, queries and keys."""
        if kind == "cls_feature":
            return x[:, :1].repeat(1, 1, self.merge**2)
        if kind == "key":
            key = k.float().mean(dim=1)
            return torch.cat((key[:, :1], self.tokens(key[:, 1:]).mean(dim=2)), dim=1)
        query = q[:, :, :1].float() * (q.shape[-1] ** -0.5)
        row = torch.softmax(torch.matmul(query, k.float().transpose(2, 3)), dim=-1)
        return self.tokens(row.sum(dim=1)[:, 0, 1:, None]).mean(dim=2)[:, :, 0]
