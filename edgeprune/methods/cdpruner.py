"""CDPruner: rows that the question asks for and that differ from each other, by a determinantal point process.

Zhang et al., "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs" (NeurIPS
2025), as released.

1. After the projector. The kernel of two rows is their cosine, weighted on both sides by how relevant each is to the
   question; the rows of which the kernel has the greatest determinant are kept, picked greedily on the host.
2. ``cdpruner`` asks CLIP for relevance: patches of the selected layer, through CLIP's last norm and projection, against
   the question in CLIP's text tower. The least alike are the relevant ones, as released: CLIP's patches resemble a
   text less where they show what it names.
3. ``cdpruner-llm`` needs no text tower: the projected rows against the language model's embeddings of the question's
   tokens, and the most alike are the relevant ones.
4. Rows are dropped, not merged.

Norms, cosines and kernels are computed in fp32.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from edgeprune.bundle.sizes import Vision
from edgeprune.checkpoint.clip import ClipConfig
from edgeprune.layers.linear import Linear
from edgeprune.layers.norm import LayerNorm
from edgeprune.methods.method import Method
from edgeprune.methods.selection import gather_rows
from edgeprune.towers.clip_text import ClipText

_LEAST = 1e-6  # of the least relevant row, which must not leave the kernel


class Question(ClipText):
    """The question in CLIP's space; one, whatever the number of pictures.

    Args:
        config: of the CLIP checkpoint.
        fused: dialect.
    """

    def __init__(self, config: ClipConfig, fused: bool) -> None:
        super().__init__(config.text, config.embed, fused)
        self.OUTPUT = ("text_embeds", "fp32", (1, config.embed))


class ClipKernel(nn.Module):
    """The kernel with relevance from CLIP; carries CLIP's last norm and projection of patches.

    Args:
        config: of the CLIP checkpoint.
    """

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        norm = LayerNorm(config.vision_width, config.vision_norm_eps)
        self.vision_model = nn.ModuleDict({"post_layernorm": norm})
        self.visual_projection = Linear(config.vision_width, config.embed, bias=False)

    def forward(self, visual: torch.Tensor, features: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
        """Build the kernel.

        Args:
            visual: [B, N, D] projected rows.
            features: [B, N, Dv] the encoder's rows that they were projected from.
            text_embeds: [1, E] fp32 the question in CLIP's space.

        Returns:
            [B, N, N] fp32.
        """
        norm = self.vision_model["post_layernorm"]
        assert isinstance(norm, LayerNorm)
        shape = (features.shape[2],)
        normed = F.layer_norm(features.float(), shape, norm.weight.float(), norm.bias.float(), norm.eps)
        patches = _unit(torch.matmul(normed, self.visual_projection.weight.float()))
        return _kernel(_unit(visual), -_mean_cosine(patches, _unit(text_embeds)[None]))


class QuestionKernel(nn.Module):
    """The kernel with relevance from the language model's embeddings."""

    def forward(self, visual: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        """Build the kernel.

        Args:
            visual: [B, N, D] projected rows.
            question: [B, q, D] embedded tokens of the question.

        Returns:
            [B, N, N] fp32.
        """
        rows = _unit(visual)
        return _kernel(rows, _mean_cosine(rows, _unit(question)))


class ProjectedStage(nn.Module):
    """Takes the rows that the host has picked."""

    def forward(self, visual: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather.

        Args:
            visual: [B, N, D] projected rows.
            chosen: [B, K] int64, ascending.

        Returns:
            rows [B, K, D] and ``kept`` [B, K] int64, which is ``chosen``.
        """
        return gather_rows(visual, chosen), chosen.clone()


def _unit(x: torch.Tensor) -> torch.Tensor:
    """Rows of length one, fp32."""
    wide = x.float()
    unit: torch.Tensor = wide / wide.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return unit


def _mean_cosine(rows: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Cosines of rows [B, N, E] with text [B, m, E], both of length one, averaged over the text: [B, N]."""
    return torch.matmul(rows, text.mean(dim=1)[:, :, None])[:, :, 0]


def _kernel(rows: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    """The conditional kernel [B, N, N] of rows [B, N, D] of length one; scores [B, N] count relative to each other."""
    low, high = score.amin(dim=1, keepdim=True), score.amax(dim=1, keepdim=True)
    even = high == low  # scores that are all equal weigh nothing
    relevance = torch.where(even, 1.0, (score - low + _LEAST) / torch.where(even, 1.0, high - low))
    weighted = relevance[:, :, None] * rows
    return torch.matmul(weighted, weighted.transpose(1, 2))


def _project(vision: Vision) -> nn.Module:
    return ProjectedStage()


METHODS = (
    Method(
        name="cdpruner",
        prepare=Question,
        kernel=lambda vision, config: ClipKernel(config),
        projected=_project,
        sampler="dpp",
        needs_clip=True,
    ),
    Method(name="cdpruner-llm", kernel=lambda vision: QuestionKernel(), projected=_project, sampler="dpp"),
)
