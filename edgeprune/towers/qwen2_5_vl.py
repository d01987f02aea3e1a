"""Qwen2.5-VL's vision transformer, whose pictures have any size, with its scoring head.

All pictures of a prompt (or frame pairs of a video) go through in one run, one after another, as visual tokens: 2 x 2
patches side by side. Most layers attend within windows, a few within a whole picture; both read a table of the
visual tokens of each window or picture, which the host computes, so that attention is dense in each of them and never
between all rows. Rows keep the order of the pictures throughout: a layer gathers its windows and puts them back. It
does not know which method asks for a probe.

Letters beside those of ``layers``: N visual tokens of a prompt, m = 4 patches of one, n = m * N; w windows, p pictures,
g visual tokens of the largest window or picture, s = m * g.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from edgeprune.layers.activation import activate
from edgeprune.layers.attention import attend
from edgeprune.layers.linear import Linear
from edgeprune.layers.norm import RMSNorm
from edgeprune.layers.rotary import rotate

PROBES = ("cls_attention", "key")
"""Kinds of probes; ``QwenTower.forward`` says what they are."""


class QwenSettings(Protocol):
    """What the tower needs to know of a checkpoint's vision configuration."""

    @property
    def hidden(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def intermediate(self) -> int: ...
    @property
    def activation(self) -> str: ...
    @property
    def norm_eps(self) -> float: ...
    @property
    def theta(self) -> float: ...
    @property
    def patch_values(self) -> int: ...
    @property
    def merge(self) -> int: ...
    @property
    def full_layers(self) -> tuple[int, ...]: ...


class Places(nn.Module):
    """Rotary angles of patches: half of the planes turn with the row, half with the column."""

    offsets: torch.Tensor
    frequencies: torch.Tensor

    def __init__(self, config: QwenSettings) -> None:
        super().__init__()
        self.merge, planes = config.merge, config.hidden // config.heads // 2
        side = torch.arange(config.merge, dtype=torch.float32)
        exponents = torch.arange(0, planes, 2, dtype=torch.float32) / planes
        self.register_buffer("offsets", torch.cartesian_prod(side, side), persistent=False)  # [m, 2]
        self.register_buffer("frequencies", 1.0 / (config.theta**exponents), persistent=False)  # [d / 4]

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """Map places of visual tokens [N, 2] int64 to angles [N, m, d / 2] fp32."""
        patches = positions.float()[:, None] * self.merge + self.offsets  # [N, m, 2]
        return (patches[..., None] * self.frequencies).flatten(2)


class Neighbours:
    """Which visual tokens see each other: those of one window, or those of one picture.

    Args:
        table: [w, g] int64, the visual tokens of each, padded with N.
        back: [N] int64, where each visual token stands in the flattened table.
        angles: [N, m, d / 2], see ``Places``.
        x: [B, n, Dv] rows, of which only the batch and the dtype are read.
        fused: dialect.
    """

    def __init__(
        self, table: torch.Tensor, back: torch.Tensor, angles: torch.Tensor, x: torch.Tensor, fused: bool
    ) -> None:
        self.batch, (self.count, self.longest), self.patches = x.shape[0], table.shape, angles.shape[1]
        self.index, self.back = table.flatten().clamp(max=angles.shape[0] - 1), back
        real = (table < angles.shape[0])[:, :, None].expand(-1, -1, self.patches).flatten(1)  # [w, s]
        self.real = real[None].expand(self.batch, -1, -1).reshape(self.batch * self.count, 1, 1, real.shape[1])
        hidden = torch.where(self.real, 0.0, torch.finfo(torch.float32).min)
        # The fused operator wants a row of the mask for every query.
        self.mask = self.real.expand(-1, -1, self.real.shape[3], -1) if fused else hidden
        self.hidden = hidden[:, 0]  # [B * w, 1, s] fp32, added to what the scoring head computes
        own = (
            angles.flatten(1)
            .index_select(0, self.index)
            .reshape(1, self.count, self.longest * self.patches, angles.shape[2])
        )
        own = own.expand(self.batch, -1, -1, -1).flatten(0, 1)[:, None]
        self.cos, self.sin = own.cos().to(x.dtype), own.sin().to(x.dtype)  # [B * w, 1, s, d / 2]

    def gather(self, rows: torch.Tensor, parts: int, heads: int) -> torch.Tensor:
        """Map [B, n, parts * H * d] to [parts, B * w, H, s, d]; what pads a window is any row."""
        tokens = rows.reshape(rows.shape[0], rows.shape[1] // self.patches, self.patches * rows.shape[2])
        size = self.batch * self.count, self.longest * self.patches, parts, heads, rows.shape[2] // parts // heads
        return tokens.index_select(1, self.index).reshape(size).permute(2, 0, 3, 1, 4)

    def scatter(self, rows: torch.Tensor) -> torch.Tensor:
        """Map [B * w, s, Dv] back to [B, n, Dv]."""
        width = rows.shape[-1]
        tokens = rows.reshape(self.batch, self.count * self.longest, self.patches * width).index_select(1, self.back)
        return tokens.reshape(self.batch, tokens.shape[1] * self.patches, width)


class Attention(nn.Module):
    """Attention within windows or pictures."""

    def __init__(self, config: QwenSettings, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = config.heads, fused
        self.qkv = Linear(config.hidden, 3 * config.hidden, bias=True)
        self.proj = Linear(config.hidden, config.hidden, bias=True)

    def forward(
        self, x: torch.Tensor, near: Neighbours
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the output [B, n, Dv], rotated queries and keys [B * w, H, s, d], and keys [B, n, Dv] not rotated."""
        qkv = self.qkv(x)
        q, k, v = near.gather(qkv, 3, self.heads).unbind(0)
        q, k = (rotate(rows, near.cos, near.sin, self.fused) for rows in (q, k))
        attended = near.scatter(attend(q, k, v, near.mask, self.fused))
        return self.proj(attended), q, k, qkv[..., x.shape[2] : 2 * x.shape[2]]


class Mlp(nn.Module):
    """Gated feed-forward with biases: down(act(gate(x)) * up(x))."""

    def __init__(self, config: QwenSettings) -> None:
        super().__init__()
        self.activation = config.activation
        self.gate_proj = Linear(config.hidden, config.intermediate, bias=True)
        self.up_proj = Linear(config.hidden, config.intermediate, bias=True)
        self.down_proj = Linear(config.intermediate, config.hidden, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, n, Dv] to the same shape."""
        mapped: torch.Tensor = self.down_proj(activate(self.activation, self.gate_proj(x)) * self.up_proj(x))
        return mapped


class Layer(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual."""

    def __init__(self, config: QwenSettings, fused: bool) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.hidden, config.norm_eps, fused)
        self.attn = Attention(config, fused)
        self.norm2 = RMSNorm(config.hidden, config.norm_eps, fused)
        self.mlp = Mlp(config)

    def forward(
        self, x: torch.Tensor, near: Neighbours
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the layer's output and the queries and keys of its ``Attention``."""
        attended, q, k, plain = self.attn(self.norm1(x), near)
        x = x + attended
        return x + self.mlp(self.norm2(x)), q, k, plain


class QwenTower(nn.Module):
    """All layers and the probes asked for.

    Args:
        config: the tower's sizes.
        probes: (kind out of ``PROBES``, layer), in the order of the outputs.
        fused: dialect.
    """

    def __init__(self, config: QwenSettings, probes: tuple[tuple[str, int], ...], fused: bool) -> None:
        super().__init__()
        self.probes, self.fused = probes, fused
        self.patches, self.full_layers = config.merge**2, config.full_layers
        embed = Linear(config.patch_values, config.hidden, bias=False)
        self.patch_embed = nn.ModuleDict({"proj": embed})  # in the checkpoint a convolution over the patch alone
        self.places = Places(config)
        self.blocks = nn.ModuleList(Layer(config, fused) for _ in range(config.layers))

    def forward(
        self,
        pixel_values: torch.Tensor,
        positions: torch.Tensor,
        windows: torch.Tensor,
        window_rows: torch.Tensor,
        pictures: torch.Tensor,
        picture_rows: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Encode the pictures of B prompts that are equal in number and size.

        Args:
            pixel_values: [B, N, m * v], the v values of each of a visual token's m patches.
            positions: [N, 2] int64, row and column of each visual token in its picture.
            windows: [w, g] int64, the visual tokens of each window, padded with N.
            window_rows: [N] int64, where each visual token stands in the flattened ``windows``.
            pictures, picture_rows: the same for pictures, or frame pairs of a video.

        Returns:
            features [B, N, m * Dv], the patches of each visual token side by side, which is what the merger reads;
            then per probe, in its layer: ``cls_attention`` [B, N] fp32, the softmax that a visual token's keys
            receive, the mean over the query rows of all pictures, of which those that do not see it give 0, summed over
            heads and averaged over its patches: tokens of large and of small pictures compare; ``key`` [B, N, d]
            fp32, the mean over heads and over its patches of the keys, not rotated.
        """
        b, count = pixel_values.shape[:2]
        patches = pixel_values.reshape(b, count * self.patches, pixel_values.shape[2] // self.patches)
        x = self.patch_embed["proj"](patches)
        angles = self.places(positions)
        by_window = Neighbours(windows, window_rows, angles, x, self.fused)
        by_picture = Neighbours(pictures, picture_rows, angles, x, self.fused)
        found: dict[tuple[str, int], torch.Tensor] = {}
        for index, layer in enumerate(self.blocks):
            near = by_picture if index in self.full_layers else by_window
            x, q, k, plain = layer(x, near)
            for probe in self.probes:
                if probe == ("cls_attention", index):
                    found[probe] = attention_received(q, k, near)
                elif probe == ("key", index):
                    found[probe] = plain.float().reshape(b, count, -1, q.shape[3]).mean(dim=2)
        features = x.reshape(b, count, self.patches * x.shape[2])
        return features, *(found[probe] for probe in self.probes)


def attention_received(q: torch.Tensor, k: torch.Tensor, near: Neighbours) -> torch.Tensor:
    """The score of ``QwenTower.forward`` from rotated queries and keys [B * w, H, s, d]: [B, N] fp32.

    Head by head: the map of one head is the most that is in memory at a time.
    """
    real = near.real[:, 0].float()  # [B * w, 1, s]
    weight = real / (near.back.shape[0] * near.patches)
    total = torch.zeros_like(weight)
    for head in range(q.shape[1]):
        query = q[:, head].float() * (q.shape[3] ** -0.5)
        attention = torch.softmax(torch.matmul(query, k[:, head].float().transpose(1, 2)) + near.hidden, dim=-1)
        total = total + torch.matmul(weight, attention)
    tokens = total.reshape(near.batch, near.count * near.longest, near.patches).mean(dim=2)
    return tokens.index_select(1, near.back)


class Merger(nn.Module):
    """The norm of each patch, and two linear maps of a visual token's patches side by side.

    Args:
        config: the tower's sizes.
        width: D.
    """

    def __init__(self, config: QwenSettings, width: int) -> None:
        super().__init__()
        self.patches, merged = config.merge**2, config.hidden * config.merge**2
        self.ln_q = RMSNorm(config.hidden, config.norm_eps, fused=False)
        self.mlp = nn.ModuleDict({"0": Linear(merged, merged, bias=True), "2": Linear(merged, width, bias=True)})

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map [B, K, m * Dv] to [B, K, D]."""
        b, count, width = features.shape
        normed = self.ln_q(features.reshape(b, count, self.patches, width // self.patches)).reshape(features.shape)
        merged: torch.Tensor = self.mlp["2"](activate("gelu", self.mlp["0"](normed)))
        return merged
