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
4. Rows are dropped, not merged. Tiles, frames and pictures each keep as many; relevance is relative among all those of
   a prompt, as released for tiles.

Norms, cosines and kernels are computed in fp32.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from edgeprune.bundle.sizes import Vision
from edgeprune.checkpoint.clip import ClipConfig
from edgeprune.errors import UsageError
from edgeprune.layers.linear import Linear
from edgeprune.layers.norm import LayerNorm
from edgeprune.methods.class_row import without_class_row
from edgeprune.methods.method import Method
from edgeprune.methods.runs import most_of_prompt
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
        vision: the encoder's facts.
        config: of the CLIP checkpoint.

    Raises:
        UsageError: the encoder is none of CLIP's.
    """

    def __init__(self, vision: Vision, config: ClipConfig) -> None:
        super().__init__()
        if vision.class_row == "none" or vision.merge > 1:
            raise UsageError(
                "cdpruner puts the encoder's rows into CLIP's space, and this model's encoder is none of CLIP's; take "
                "cdpruner-llm"
            )
        self.vision = vision
        norm = LayerNorm(config.vision_width, config.vision_norm_eps)
        self.vision_model = nn.ModuleDict({"post_layernorm": norm})
        self.visual_projection = Linear(config.vision_width, config.embed, bias=False)

    def forward(
        self, visual: torch.Tensor, features: torch.Tensor, text_embeds: torch.Tensor, runs: torch.Tensor
    ) -> torch.Tensor:
        """Build the kernel of every run.

        Args:
            visual: [C, N, D] projected rows.
            features: [C, N, Dv] the encoder's rows that they were projected from.
            text_embeds: [1, E] fp32 the question in CLIP's space.
            runs: int64 scalar, how many runs a prompt has.

        Returns:
            [C, P, P] fp32, over the patches among the rows.
        """
        features = without_class_row(features, self.vision)
        norm = self.vision_model["post_layernorm"]
        assert isinstance(norm, LayerNorm)
        shape = (features.shape[2],)
        normed = F.layer_norm(features.float(), shape, norm.weight.float(), norm.bias.float(), norm.eps)
        patches = _unit(torch.matmul(normed, self.visual_projection.weight.float()))
        rows = _unit(without_class_row(visual, self.vision))
        return _kernel(rows, -_mean_cosine(patches, _unit(text_embeds)[None]), runs)


class QuestionKernel(nn.Module):
    """The kernel with relevance from the language model's embeddings.

    Args:
        vision: says whether the class row is among the rows.
    """

    def __init__(self, vision: Vision) -> None:
        super().__init__()
        self.vision = vision

    def forward(self, visual: torch.Tensor, question: torch.Tensor, runs: torch.Tensor) -> torch.Tensor:
        """Build the kernel of every run.

        Args:
            visual: [C, N, D] projected rows.
            question: [1, q, D] embedded tokens of the question.
            runs: int64 scalar, how many runs a prompt has.

        Returns:
            [C, P, P] fp32, over the patches among the rows.
        """
        rows = _unit(without_class_row(visual, self.vision))
        return _kernel(rows, _mean_cosine(rows, _unit(question)), runs)


class ProjectedStage(nn.Module):
    """Takes the patches that the host has picked.

    Args:
        vision: says whether the class row is among the rows.
    """

    def __init__(self, vision: Vision) -> None:
        super().__init__()
        self.vision = vision

    def forward(self, visual: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather.

        Args:
            visual: [C, N, D] projected rows.
            chosen: [C, K] int64 patch indices, ascending.

        Returns:
            rows [C, K, D] and ``kept`` [C, K] int64, which is ``chosen``.
        """
        return gather_rows(without_class_row(visual, self.vision), chosen), chosen.clone()


def _unit(x: torch.Tensor) -> torch.Tensor:
    """Rows of length one, fp32."""
    wide = x.float()
    unit: torch.Tensor = wide / wide.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return unit


def _mean_cosine(rows: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Cosines of rows [C, N, E] with text [1, m, E], both of length one, averaged over the text: [C, N]."""
    return torch.matmul(rows, text.mean(dim=1)[:, :, None])[:, :, 0]


def _kernel(rows: torch.Tensor, score: torch.Tensor, runs: torch.Tensor) -> torch.Tensor:
    """The conditional kernels [C, N, N] of rows [C, N, D] of length one.

    Scores [C, N] count relative to each other among all runs of a prompt, as the release has it for tiles.
    """
    high = most_of_prompt(score.amax(dim=1, keepdim=True), runs)
    low = -most_of_prompt(-score.amin(dim=1, keepdim=True), runs)
    even = high == low  # scores that are all equal weigh nothing
    relevance = torch.where(even, 1.0, (score - low + _LEAST) / torch.where(even, 1.0, high - low))
    weighted = relevance[:, :, None] * rows
    return torch.matmul(weighted, weighted.transpose(1, 2))


METHODS = (
    Method(
        name="cdpruner",
        prepare=Question,
        kernel=ClipKernel,
        projected=ProjectedStage,
        sampler="dpp",
        needs_clip=True,
    ),
    Method(name="cdpruner-llm", kernel=QuestionKernel, projected=ProjectedStage, sampler="dpp"),
)
