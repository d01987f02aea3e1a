"""LLaVA-OneVision: SigLIP's tower, a two-layer projector, a Qwen2 decoder; pictures in tiles, or a video in frames.

A picture that is alone in its prompt is cut into tiles, whose rows form a mosaic of at most about nine tiles' worth;
one of several is one tile. A video's frames are pooled to a quarter of their rows. The parts come empty (see
``part``), one per graph of the bundle. This file knows no pruning method: a cut's module is handed in by whoever
exports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeprune.bundle.image import Frames, ImageProcessing, Tiles
from edgeprune.bundle.layout import Layout
from edgeprune.bundle.prompt import Medium, PromptFacts
from edgeprune.bundle.sizes import Vision
from edgeprune.checkpoint import image, prompt
from edgeprune.checkpoint.config import LlavaConfig, read_config
from edgeprune.checkpoint.raw import read_json, unsupported
from edgeprune.checkpoint.source import Source
from edgeprune.checkpoint.weights import Weights
from edgeprune.errors import BundleError, CheckpointError, UnsupportedModel, UsageError
from edgeprune.families.family import PixelInput, check_medium
from edgeprune.families.language import Language
from edgeprune.families.part import Part
from edgeprune.families.projector import Projector
from edgeprune.towers.siglip import SiglipTower

FRAMES = 32
"""Of a video, where the video processor names no number: as the model was evaluated (Li et al., 2024)."""

_SIDES = range(384, 2305, 384)

DEFAULTS: Mapping[str, Any] = {
    **image.CLIP_DEFAULTS,
    "size": {"height": 384, "width": 384},
    "do_center_crop": None,
    "crop_size": None,
    "do_pad": True,
    "image_grid_pinpoints": [[height, width] for height in _SIDES for width in _SIDES],
}
"""What transformers' processors of this model do where their file does not say."""


def open_family(source: Source, medium: Medium) -> LlavaOnevision:
    """Open a checkpoint.

    Raises:
        CheckpointError: it cannot be read, or is of another architecture.
        UsageError: the medium is neither "image" nor "video".
    """
    check_medium("llava_onevision", medium)
    config = read_config(source.path, "llava_onevision")
    return LlavaOnevision(config, Weights(source.path), medium, _limit(source.path))


def _limit(folder: Path) -> int:
    """How many tiles' worth of rows a mosaic may have: 9 of ``anyres_max_9``.

    Raises:
        UnsupportedModel: another spelling.
    """
    path = folder / "config.json"
    ratio = read_json(path).get("vision_aspect_ratio", "anyres_max_9")
    number = str(ratio).removeprefix("anyres_max_")
    if number == ratio or not number.isdecimal() or int(number) < 1:
        raise unsupported(path, "vision_aspect_ratio", ratio, ("anyres_max_9", "another number of tiles"))
    return int(number)


class LlavaOnevision(Language):
    """A checkpoint's parts (see ``family.Family``).

    Args:
        config: its sizes.
        weights: its tensors.
        medium: what the bundle is for.
        limit: of a mosaic, in tiles.
    """

    def __init__(self, config: LlavaConfig, weights: Weights, medium: Medium, limit: int) -> None:
        if config.feature_select != "full":  # SigLIP has no class row to drop; Hugging Face would drop a patch
            raise UnsupportedModel(
                f"vision_feature_select_strategy {config.feature_select!r} is not supported; supported: 'full'"
            )
        weights.expect("image_newline", (config.decoder.hidden,))
        super().__init__(config.decoder, weights)
        self.config, self.medium, self.limit = config, medium, limit

    @property
    def architecture(self) -> str:
        """Hugging Face's class of the checkpoint."""
        return self.config.architecture

    @property
    def vision_facts(self) -> Vision:
        """The encoder's facts for the manifest."""
        v = self.config.vision
        grid, layers = (v.side, v.side), self.feature_layer + 1
        return Vision(grid, v.hidden, layers, v.heads, v.intermediate, v.patch_size, class_row="none")

    @property
    def feature_layer(self) -> int:
        """The encoder layer whose output is selected and whose attention scores patches, counted from 0."""
        return self.config.feature_layer

    @property
    def layout(self) -> Layout:
        """In what arrangement the encoder's rows enter the decoder."""
        if self.medium == "video":
            return Layout("pooled", newline=True)
        return Layout("mosaic", newline=True, limit=self.limit)

    @property
    def pixel_inputs(self) -> tuple[PixelInput, ...]:
        """The inputs of the vision graph."""
        side = self.config.vision.image_size
        return (("pixel_values", "real", ("C", 3, side, side)),)

    def image(self) -> ImageProcessing:
        """How pictures, or a video, are prepared."""
        folder, side = self.weights.folder, self.config.vision.image_size
        processing = self._frames(folder) if self.medium == "video" else self._tiles(folder, side)
        image.check_size(folder, processing, side)
        return processing

    def prompt(self) -> PromptFacts:
        """How a prompt is written."""
        config = self.config
        token = config.image_token_id if self.medium == "image" else config.video_token_id
        assert token is not None  # transformers fills it in
        return prompt.prompt_facts(self.weights.folder, self.medium, token, config.decoder.context)

    def vision(self, probes: tuple[tuple[str, int], ...], fused: bool) -> Part:
        """The encoder with a scoring head; ``probes`` are kinds and layers."""
        tower = SiglipTower(self.config.vision, self.feature_layer, probes, fused)
        return Part(tower, self.weights, lambda name: f"vision.{name}")

    def encoder(self, make: Callable[..., nn.Module], fused: bool) -> Part:
        """Raises UsageError: methods have their own form of CLIP's encoder only."""
        raise UsageError(
            "a method that prunes inside of the encoder cannot serve llava_onevision: its encoder is SigLIP's"
        )

    def project(self) -> Part:
        """The projector."""
        return Part(Projector(self.config), self.weights, lambda name: f"projector.{name}")

    def newline(self) -> torch.Tensor | None:
        """The row [D] that ends a line of a mosaic, a picture of one tile, and a video."""
        return self.weights.tensor("image_newline")

    def _tiles(self, folder: Path, side: int) -> ImageProcessing:
        settings = image.read_settings(folder, ("LlavaOnevisionImageProcessor",), DEFAULTS)
        pinpoints = tuple(map(tuple, settings.values["image_grid_pinpoints"]))
        if pinpoints != self.config.pinpoints:
            raise CheckpointError(f"{settings.where}: image_grid_pinpoints are not those of config.json")
        grids = tuple((height // side, width // side) for height, width in self.config.pinpoints)
        processing = image.tiled(settings, Tiles("best_fit", grids, several="square"))
        crop = settings.values["crop_size"]  # Hugging Face's cuts tiles of this size, even where it crops nothing
        if crop and (crop["height"], crop["width"]) != processing.size:
            raise settings.unsupported("crop_size", f"null or {processing.size}")
        return processing

    def _frames(self, folder: Path) -> ImageProcessing:
        kinds = ("LlavaOnevisionVideoProcessor", "LlavaOnevisionImageProcessor")
        settings = image.read_settings(folder, kinds, DEFAULTS, "video")
        if settings.values.get("fps"):
            raise settings.unsupported("fps", "null and num_frames")
        try:
            frames = Frames(settings.values.get("num_frames") or FRAMES)
        except BundleError as error:
            raise CheckpointError(f"{settings.where}: {error}") from error
        return image.framed(image.Settings(settings.where, {**settings.values, "do_pad": False}), frames)
