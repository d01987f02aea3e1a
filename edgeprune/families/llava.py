"""LLaVA-1.5: CLIP's tower, a two-layer projector, a Llama, Mistral or Qwen2 decoder; pictures of one fixed size.

The parts come empty (see ``part``), one per graph of the bundle. This file knows no pruning method: a cut's
module is handed in by whoever exports it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from edgeprune.bundle.image import ImageProcessing
from edgeprune.bundle.layout import Layout
from edgeprune.bundle.prompt import Medium, PromptFacts
from edgeprune.bundle.sizes import Vision
from edgeprune.checkpoint import image, prompt
from edgeprune.checkpoint.config import LlavaConfig, read_config
from edgeprune.checkpoint.source import Source
from edgeprune.checkpoint.weights import Weights
from edgeprune.errors import UnsupportedModel
from edgeprune.families.family import PixelInput, check_medium
from edgeprune.families.language import Language
from edgeprune.families.part import Part
from edgeprune.families.projector import Projector
from edgeprune.towers.clip import ClipTower


def open_family(source: Source, medium: Medium) -> Llava:
    """Open a checkpoint.

    Raises:
        CheckpointError: it cannot be read, or is of another architecture.
        UsageError: the medium is not "image".
    """
    check_medium("llava", medium)
    return Llava(read_config(source.path, "llava"), Weights(source.path))


class Llava(Language):
    """A checkpoint's parts (see ``family.Family``).

    Args:
        config: its sizes.
        weights: its tensors.
    """

    def __init__(self, config: LlavaConfig, weights: Weights) -> None:
        if config.feature_select != "default":
            raise UnsupportedModel(
                f"vision_feature_select_strategy {config.feature_select!r} is not supported; supported: 'default'"
            )
        super().__init__(config.decoder, weights)
        self.config = config

    @property
    def architecture(self) -> str:
        """Hugging Face's class of the checkpoint."""
        return self.config.architecture

    @property
    def vision_facts(self) -> Vision:
        """The encoder's facts for the manifest."""
        v = self.config.vision
        return Vision((v.side, v.side), v.hidden, self.feature_layer + 1, v.heads, v.intermediate, v.patch_size)

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
        processing = image.fixed(image.read_settings(folder, ("CLIPImageProcessor", "LlavaImageProcessor")))
        image.check_size(folder, processing, self.config.vision.image_size)
        return processing

    def prompt(self) -> PromptFacts:
        """How a prompt is written."""
        # A Qwen2 decoder is none of LLaVA-1.5's, and its prompt would be a guess.
        fallback = None if self.config.decoder.qkv_bias else prompt.LLAVA_TEMPLATE
        token, context = self.config.image_token_id, self.decoder_facts.context
        return prompt.prompt_facts(self.weights.folder, "image", token, context, fallback=fallback)

    def vision(self, probes: tuple[tuple[str, int], ...], fused: bool) -> Part:
        """The encoder with a scoring head; ``probes`` are kinds and layers."""
        tower = ClipTower(self.config.vision, self.feature_layer, probes, fused)
        return Part(tower, self.weights, lambda name: f"vision.{name}")

    def encoder(self, make: Callable[..., nn.Module], fused: bool) -> Part:
        """A method's own form of the encoder, with the same weights."""
        module = make(self.config.vision, self.feature_layer, fused)
        return Part(module, self.weights, lambda name: f"vision.{name}")

    def project(self) -> Part:
        """The projector."""
        return Part(Projector(self.config), self.weights, lambda name: f"projector.{name}")
