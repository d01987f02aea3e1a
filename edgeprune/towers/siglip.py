"""SigLIP's vision transformer up to the layer a model reads, with its scoring head.

CLIP's layers under other embeddings: no class row, a bias in the patch embedding, no norm in front. The final norm
(``post_layernorm``) and the pooling head feed nothing in LLaVA-OneVision, whose selected layer is the last one *before*
them (``hidden_states[-1]`` of ``SiglipVisionModel``). It does not know which method asks for a probe.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeprune.towers.clip import ClipSettings, Layer, Positions

PROBES = ("cls_attention", "key")
"""Kinds of probes; ``SiglipTower.forward`` says what they are. Without a class row there is no ``cls_feature``."""


class Embeddings(nn.Module):
    """Patches and learned positions."""

    def __init__(self, config: ClipSettings) -> None:
        super().__init__()
        rows = (config.image_size // config.patch_size) ** 2
        self.patch_embedding = nn.Conv2d(3, config.hidden, config.patch_size, config.patch_size)
        self.patch_embedding.requires_grad_(False)
        self.position_embedding = Positions(rows, config.hidden)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Map [C, 3, h, w] to [C, N, Dv]; pixels that fill no whole patch are left out, as in Hugging Face's."""
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        rows: torch.Tensor = self.position_embedding(patches)
        return rows


class SiglipTower(nn.Module):
    """Layers 0..``feature_layer`` and the probes asked for.

    Args:
        config: the tower's sizes.
        feature_layer: 0-based index of the layer whose output is selected (25 of 26 in LLaVA-OneVision).
        probes: (kind out of ``PROBES``, layer up to ``feature_layer``), in the order of the outputs.
        fused: dialect.

    Raises:
        ValueError: a probe of another kind.
    """

    def __init__(
        self, config: ClipSettings, feature_layer: int, probes: tuple[tuple[str, int], ...], fused: bool
    ) -> None:
        super().__init__()
        for kind, _ in probes:
            if kind not in PROBES:
                raise ValueError(f"SigLIP has no probe {kind!r}; it has {', '.join(PROBES)}")
        self.probes = probes
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(Layer(config, fused) for _ in range(feature_layer + 1))})

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Encode [C, 3, h, w].

        Returns:
            features [C, N, Dv]; then per probe, in its layer: ``cls_attention`` [C, N] fp32, the attention that a
            patch receives, as the mean over all N queries, summed over heads (VisionDrop's rule for encoders without
            a class row; a sum over heads as with one); ``key`` [C, N, d] fp32, the keys' mean over heads.
        """
        x = self.embeddings(pixel_values)
        found: dict[tuple[str, int], torch.Tensor] = {}
        for index, layer in enumerate(self.encoder["layers"].children()):
            x, q, k = layer(x)
            found |= {(kind, at): read_probe(kind, q, k) for kind, at in self.probes if at == index}
        return x, *(found[probe] for probe in self.probes)


def read_probe(kind: str, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """One output of the scoring head, from a layer's queries and keys [C, H, N, d]."""
    return k.float().mean(dim=1) if kind == "key" else received(q, k)


def received(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Attention [C, N] fp32 that each row receives: the mean over queries, summed over heads.

    Head by head, so that one head's N x N map is in memory and not all of them: 37 tiles of 729 rows would take 1.3 GB.
    """
    query, key = q.float() * (q.shape[-1] ** -0.5), k.float().transpose(2, 3)
    maps = (torch.softmax(torch.matmul(query[:, head], key[:, head]), dim=-1) for head in range(q.shape[1]))
    return torch.stack([attention.mean(dim=1) for attention in maps], dim=1).sum(dim=1)
