"""Video-LLaVA: two towers of CLIP's build, for pictures and for frames, a two-layer projector, a Vicuna decoder.

A bundle serves one medium and holds the tower of it. A picture enters the decoder as in LLaVA-1.5; a frame enters with
its class row, as Hugging Face's model has it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from edgeprune.bundle.image import Frames, ImageProcessing
from edgeprune.bundle.layout import Layout
from edgeprune.bundle.prompt import Medium, PromptFacts
from edgeprune.bundle.sizes import Vision
from edgeprune.checkpoint import image, prompt
from edgeprune.checkpoint.config import LlavaConfig, read_config
from edgeprune.checkpoint.source import Source
from edgeprune.checkpoint.weights import Weights
from edgeprune.errors import CheckpointError, UnsupportedModel
from edgeprune.families.family import PixelInput, check_medium
from edgeprune.families.language import Language
from edgeprune.families.part import Part
from edgeprune.families.projector import Projector
from edgeprune.towers.clip import ClipTower

_PROCESSORS = ("VideoLlavaImageProcessor", "VideoLlavaVideoProcessor")


def open_family(source: Source, medium: Medium) -> VideoLlava:
    """Open a checkpoint.

    Raises:
        CheckpointError: it cannot be read, or is of another architecture.
    """
    check_medium("video_llava", medium)
    return VideoLlava(read_config(source.path, "video_llava"), Weights(source.path), medium)


class VideoLlava(Language):
    """A checkpoint's parts (see ``family.Family``).

    Args:
        config: its sizes.
        weights: its tensors.
        medium: "video": the tower of frames; "image": that of pictures.
    """

    def __init__(self, config: LlavaConfig, weights: Weights, medium: Medium) -> None:
        if config.feature_select != "default":
            raise UnsupportedModel(
                f"vision_feature_select_strategy {config.feature_select!r} is not supported; supported: 'default'"
            )
        super().__init__(config.decoder, weights)
        self.config, self.medium = config, medium

    @property
    def architecture(self) -> str:
        """Hugging Face's class of the checkpoint."""
        return self.config.architecture

    @property
    def vision_facts(self) -> Vision:
        """The encoder's facts for the manifest."""
        v = self.config.vision
        sizes = (v.hidden, self.feature_layer + 1, v.heads, v.intermediate, v.patch_size)
        return Vision((v.side, v.side), *sizes, "inside" if self.medium == "video" else "apart")

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
        """How pictures, or the frames of a video, are prepared.

        Raises:
            CheckpointError: config.json does not have room for whole frames.
        """
        folder = self.weights.folder
        settings = image.read_settings(folder, _PROCESSORS, medium=self.medium)
        processing = image.fixed(settings) if self.medium == "image" else image.framed(settings, self._frames())
        image.check_size(folder, processing, self.config.vision.image_size)
        return processing

    def _frames(self) -> Frames:
        """As many as fill ``video_seq_length``: 8 of 257 rows in Video-LLaVA-7B. The processor takes any number."""
        rows, all_rows = self.vision_facts.tokens, self.config.video_rows
        if not all_rows or all_rows % rows:
            raise CheckpointError(
                f"{self.weights.folder / 'config.json'}: video_seq_length {all_rows} is no multiple of {rows}, "
                "the rows of a frame"
            )
        return Frames(all_rows // rows)

    def prompt(self) -> PromptFacts:
        """How a prompt is written.

        Raises:
            CheckpointError: processor files are missing or contradict config.json.
        """
        config, context = self.config, self.decoder_facts.context
        token = config.image_token_id if self.medium == "image" else config.video_token_id
        if token is None:
            raise CheckpointError(f"{self.weights.folder / 'config.json'} lacks the key 'video_token_index'")
        return prompt.prompt_facts(self.weights.folder, self.medium, token, context)

    def vision(self, probes: tuple[tuple[str, int], ...], fused: bool) -> Part:
        """The encoder with a scoring head; ``probes`` are kinds and layers."""
        inside = self.medium == "video"
        return self._tower(ClipTower(self.config.vision, self.feature_layer, probes, fused, inside))

    def encoder(self, make: Callable[..., nn.Module], fused: bool) -> Part:
        """A method's own form of the encoder, with the same weights."""
        return self._tower(make(self.config.vision, self.feature_layer, fused))

    def _tower(self, module: nn.Module) -> Part:
        return Part(module, self.weights, lambda name: f"{self.medium}_tower.{name}")

    def project(self) -> Part:
        """The projector."""
        return Part(Projector(self.config), self.weights, lambda name: f"projector.{name}")
