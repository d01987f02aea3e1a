"""InternVL (2.5, 3) in Hugging Face's form: InternViT, a projector, a Qwen2 or Llama decoder; pictures in tiles.

Tiles come out of the vision graph with their patches already side by side in squares (see ``towers.internvit``), so a
row is a visual token everywhere. The parts come empty (see ``part``), one per graph of the bundle. This file knows no
pruning method: a cut's module is handed in by whoever exports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from edgeprune.bundle.image import ImageProcessing, Tiles
from edgeprune.bundle.layout import Layout
from edgeprune.bundle.prompt import Medium, PromptFacts
from edgeprune.bundle.sizes import Vision
from edgeprune.checkpoint import image, prompt
from edgeprune.checkpoint.internvl import InternVlConfig, read_internvl_config
from edgeprune.checkpoint.processor import load_tokenizer
from edgeprune.checkpoint.source import Source
from edgeprune.checkpoint.weights import Weights
from edgeprune.errors import BundleError, CheckpointError, UsageError
from edgeprune.families.family import PixelInput, check_medium
from edgeprune.families.language import Language
from edgeprune.families.part import Part
from edgeprune.layers.activation import activate
from edgeprune.layers.linear import Linear
from edgeprune.layers.norm import LayerNorm
from edgeprune.towers.internvit import InternVit

DEFAULTS: Mapping[str, Any] = {
    **image.CLIP_DEFAULTS,
    "size": {"height": 384, "width": 384},
    "do_center_crop": None,
    "crop_size": None,
    "min_patches": 1,
    "max_patches": 12,
}
"""What transformers' image processor of this model does where its file does not say.

``crop_to_patches`` is not among them: the model's processor has pictures cut into tiles whatever its file says.
"""

_NORM_EPS = 1e-5
"""Of the projector's norm: PyTorch's default, which no configuration reaches."""


class Projector(nn.Module):
    """A layer norm over the patches of a token, then two linear maps with an activation between."""

    def __init__(self, config: InternVlConfig) -> None:
        super().__init__()
        width = config.vision.hidden * config.vision.merge**2
        self.activation = config.activation
        self.layer_norm = LayerNorm(width, _NORM_EPS)
        self.linear_1 = Linear(width, config.decoder.hidden, bias=True)
        self.linear_2 = Linear(config.decoder.hidden, config.decoder.hidden, bias=True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map [C, K, Dv] to [C, K, D]."""
        wide = activate(self.activation, self.linear_1(self.layer_norm(features)))
        projected: torch.Tensor = self.linear_2(wide)
        return projected


def open_family(source: Source, medium: Medium) -> InternVl:
    """Open a checkpoint.

    Raises:
        CheckpointError: it cannot be read, or is of another architecture.
        UsageError: the medium is not "image".
    """
    check_medium("internvl", medium)
    return InternVl(read_internvl_config(source.path), Weights(source.path))


class InternVl(Language):
    """A checkpoint's parts (see ``family.Family``).

    Args:
        config: its sizes.
        weights: its tensors.
    """

    def __init__(self, config: InternVlConfig, weights: Weights) -> None:
        # The hub's configurations say that embeddings and head are tied (transformers' default) where they are not; a
        # head in the file is the head, as in transformers.
        tied = config.decoder.tied and "lm_head.weight" not in weights
        super().__init__(replace(config.decoder, tied=tied), weights)
        self.config = config

    @property
    def architecture(self) -> str:
        """Hugging Face's class of the checkpoint."""
        return self.config.architecture

    @property
    def vision_facts(self) -> Vision:
        """The encoder's facts for the manifest."""
        v = self.config.vision
        side, width = v.side // v.merge, v.hidden * v.merge**2
        layers = self.feature_layer + 1
        return Vision((side, side), width, layers, v.heads, v.intermediate, v.patch_size, merge=v.merge)

    @property
    def feature_layer(self) -> int:
        """The encoder layer whose output is selected and whose attention scores patches, counted from 0."""
        return self.config.feature_layer

    @property
    def layout(self) -> Layout:
        """In what arrangement the encoder's rows enter the decoder."""
        return Layout("rows")

    @property
    def pixel_inputs(self) -> tuple[PixelInput, ...]:
        """The inputs of the vision graph."""
        side = self.config.vision.image_size
        return (("pixel_values", "real", ("C", 3, side, side)),)

    def image(self) -> ImageProcessing:
        """How pictures are prepared."""
        folder = self.weights.folder
        settings = image.read_settings(folder, ("GotOcr2ImageProcessor",), DEFAULTS)
        fewest, most = settings.values["min_patches"], settings.values["max_patches"]
        try:
            tiles = Tiles("closest_ratio", grids(fewest, most))
        except (BundleError, TypeError) as error:
            raise CheckpointError(f"{settings.where}: min_patches={fewest}, max_patches={most}: {error}") from error
        processing = image.tiled(settings, tiles)
        image.check_size(folder, processing, self.config.vision.image_size)
        return processing

    def prompt(self) -> PromptFacts:
        """How a prompt is written."""
        folder, token_id = self.weights.folder, self.config.image_token_id
        tokenizer = load_tokenizer(folder)
        token = tokenizer.convert_ids_to_tokens(token_id)
        around = (getattr(tokenizer, f"{place}_image_token", None) for place in ("start", "end"))
        start, end = (str(text) if text else default for text, default in zip(around, ("<img>", "</img>"), strict=True))
        context = self.config.decoder.context
        return prompt.prompt_facts(folder, "image", token_id, context, image_text=f"{token}\n", wrap=(start, end))

    def vision(self, probes: tuple[tuple[str, int], ...], fused: bool) -> Part:
        """The encoder with a scoring head; ``probes`` are kinds and layers."""
        tower = InternVit(self.config.vision, self.feature_layer, probes, fused)
        return Part(tower, self.weights, lambda name: f"vision.{name}")

    def encoder(self, make: Callable[..., nn.Module], fused: bool) -> Part:
        """Raises UsageError: methods have their own form of CLIP's encoder only."""
        raise UsageError("a method that prunes inside of the encoder cannot serve internvl: its encoder is InternViT")

    def project(self) -> Part:
        """The projector."""
        return Part(Projector(self.config), self.weights, lambda name: f"projector.{name}")


def grids(fewest: int, most: int) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of tiles that a picture may be cut into, in the order in which Hugging Face's tries them.

    Few tiles first; of as many, tall grids first. Where at most one tile is allowed, it is the one.
    """
    if most <= 1:
        return ((1, 1),)
    found = [(rows, columns) for columns in range(1, most + 1) for rows in range(1, most // columns + 1)]
    return tuple(sorted((grid for grid in found if grid[0] * grid[1] >= fewest), key=lambda grid: grid[0] * grid[1]))
