"""Qwen2.5-VL: a windowed tower without a class row, 2 x 2 patches merged, a Qwen2 decoder with positions of three axes.

Pictures, or the frame pairs of a video, keep their resolution and go through the tower in one run. The parts come empty
(see ``part``), one per graph of the bundle. This file knows no pruning method: a cut's module is handed in by whoever
exports it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from edgeprune.bundle.image import ImageProcessing
from edgeprune.bundle.layout import Layout
from edgeprune.bundle.prompt import Medium, PromptFacts
from edgeprune.bundle.sizes import Vision
from edgeprune.checkpoint.prompt import prompt_facts
from edgeprune.checkpoint.qwen2_5_vl import QwenConfig, read_native, read_qwen_config
from edgeprune.checkpoint.source import Source
from edgeprune.checkpoint.weights import Weights
from edgeprune.errors import UsageError
from edgeprune.families.family import PixelInput, check_medium
from edgeprune.families.language import Language
from edgeprune.families.part import Part
from edgeprune.towers.qwen2_5_vl import Merger, QwenTower

_PATCH_EMBED = "patch_embed.proj.weight"


def open_family(source: Source, medium: Medium) -> Qwen:
    """Open a checkpoint.

    Raises:
        CheckpointError: it cannot be read, or is of another architecture.
        UsageError: there is no such medium.
    """
    check_medium("qwen2_5_vl", medium)
    return Qwen(read_qwen_config(source.path), Weights(source.path), medium)


class Qwen(Language):
    """A checkpoint's parts (see ``family.Family``).

    Args:
        config: its sizes.
        weights: its tensors.
        medium: what the bundle serves.
    """

    def __init__(self, config: QwenConfig, weights: Weights, medium: Medium) -> None:
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
        width = v.hidden * v.merge**2
        return Vision(None, width, v.layers, v.heads, v.intermediate, v.patch_size, "none", v.merge)

    @property
    def feature_layer(self) -> int:
        """The encoder layer whose output is selected and whose attention scores patches, counted from 0: the last."""
        return self.config.vision.layers - 1

    @property
    def layout(self) -> Layout:
        """In what arrangement the encoder's rows enter the decoder."""
        return Layout("rows")

    @property
    def pixel_inputs(self) -> tuple[PixelInput, ...]:
        """The inputs of the vision graph.

        Letters: N visual tokens of all pictures, w windows, p pictures or frame pairs, l visual tokens of the largest.
        """
        v = self.config.vision
        window = (v.window // (v.patch_size * v.merge)) ** 2
        return (
            ("pixel_values", "real", ("C", "N", v.patch_values * v.merge**2)),
            ("positions", "int64", ("N", 2)),
            ("windows", "int64", ("w", window)),
            ("window_rows", "int64", ("N",)),
            ("pictures", "int64", ("p", "l")),
            ("picture_rows", "int64", ("N",)),
        )

    def image(self) -> ImageProcessing:
        """How pictures, or a video, are prepared."""
        return read_native(self.weights.folder, self.medium, self.config.vision)

    def prompt(self) -> PromptFacts:
        """How a prompt is written."""
        token = self.config.image_token_id if self.medium == "image" else self.config.video_token_id
        return prompt_facts(
            self.weights.folder,
            self.medium,
            token,
            self.config.decoder.context,
            image_text=f"<|vision_start|><|{self.medium}_pad|><|vision_end|>",
        )

    def vision(self, probes: tuple[tuple[str, int], ...], fused: bool) -> Part:
        """The encoder with a scoring head; ``probes`` are kinds and layers."""
        v = self.config.vision
        kernel = (v.hidden, 3, v.temporal, v.patch_size, v.patch_size)
        self.weights.expect(f"vision.{_PATCH_EMBED}", kernel)
        computed = {_PATCH_EMBED: self._patch_embed}
        return Part(QwenTower(v, probes, fused), self.weights, lambda name: f"vision.{name}", computed)

    def encoder(self, make: Callable[..., nn.Module], fused: bool) -> Part:
        """Raises UsageError: methods have their own form of CLIP's encoder only."""
        raise UsageError("a method that prunes inside of the encoder cannot serve qwen2_5_vl: its encoder has windows")

    def project(self) -> Part:
        """The merger."""
        module = Merger(self.config.vision, self.config.decoder.hidden)
        return Part(module, self.weights, lambda name: f"vision.merger.{name}")

    def _patch_embed(self) -> torch.Tensor:
        """The convolution of one patch [Dv, 3, frames, h, w] as the matrix it is: [values, Dv]."""
        return self.weights.tensor(f"vision.{_PATCH_EMBED}").flatten(1).t().contiguous()
