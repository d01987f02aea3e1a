"""What every family file offers under the name ``open_family``, and how it is found.

Letters: C runs of the encoder (pictures, tiles of them, or frames of a video), N rows that a run gives, K rows kept of
it, Dv width of the encoder's rows, D width of the decoder's.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from edgeprune.bundle.image import ImageProcessing
from edgeprune.bundle.layout import Layout
from edgeprune.bundle.prompt import Medium, PromptFacts
from edgeprune.bundle.sizes import Decoder, Vision
from edgeprune.checkpoint.architecture import MEDIA, family_name
from edgeprune.checkpoint.source import Source
from edgeprune.checkpoint.weights import Weights
from edgeprune.errors import RecipeError, UsageError
from edgeprune.families.part import Part
from edgeprune.recipes.architecture import FAMILIES

PixelInput = tuple[str, str, tuple[int | str, ...]]
"""An input of the vision graph: its name, "real" or "int64", and its axes, fixed or letters."""


class Family(Protocol):
    """A checkpoint's parts, one per graph of a bundle, and what the device needs to know besides them."""

    @property
    def weights(self) -> Weights:
        """The checkpoint's tensors."""

    @property
    def architecture(self) -> str:
        """Hugging Face's class of the checkpoint."""

    @property
    def vision_facts(self) -> Vision:
        """The encoder's facts for the manifest."""

    @property
    def decoder_facts(self) -> Decoder:
        """The decoder's facts for the manifest."""

    @property
    def feature_layer(self) -> int:
        """The encoder layer whose output is selected and whose attention scores patches, counted from 0."""

    @property
    def layout(self) -> Layout:
        """In what arrangement the encoder's rows enter the decoder."""

    @property
    def pixel_inputs(self) -> tuple[PixelInput, ...]:
        """The inputs of the vision graph."""

    def image(self) -> ImageProcessing:
        """How pictures, or a video, are prepared."""

    def prompt(self) -> PromptFacts:
        """How a prompt is written."""

    def vision(self, probes: tuple[tuple[str, int], ...], fused: bool) -> Part:
        """The encoder with a scoring head; ``probes`` are kinds and layers."""

    def encoder(self, make: Callable[..., nn.Module], fused: bool) -> Part:
        """A method's own form of the encoder, with the same weights; UsageError where it is none of CLIP's."""

    def project(self) -> Part:
        """The projector, [C, K, Dv] to [C, K, D]."""

    def newline(self) -> torch.Tensor | None:
        """The row [D] that ends a line of visual rows; None where the layout has none."""

    def segment(self, first: int, last: int, fused: bool, shows_query: bool = False) -> Part:
        """Decoder layers first..last-1, with norm and head where they end the decoder."""

    def cut(self, make: Callable[..., nn.Module], layer: int, fused: bool) -> Part:
        """A method's cut before ``layer``, whose norm and projections it borrows."""

    def embedding(self) -> torch.Tensor:
        """The token embedding table [vocab, D]."""


def names() -> tuple[str, ...]:
    """Every family there is, sorted."""
    return tuple(sorted(FAMILIES.values()))


def family_of(checkpoint: Path) -> str:
    """The family of a checkpoint, by the class that its config.json names.

    Raises:
        CheckpointError: config.json is missing or no JSON.
        UnsupportedModel: no family reads such a model.
    """
    return family_name(checkpoint)


def open_family(name: str, source: Source, medium: Medium) -> Family:
    """Open a checkpoint as a family, for pictures or for video.

    Raises:
        RecipeError: there is no such family.
        CheckpointError: the checkpoint cannot be read, or is of another architecture.
        UsageError: the family does not take such a medium.
    """
    if name not in names():
        raise RecipeError(f"unknown family {name!r}; families: {', '.join(names())}")
    family: Family = importlib.import_module(f"edgeprune.families.{name}").open_family(source, medium)
    return family


def check_medium(name: str, medium: str) -> None:
    """Raises UsageError where a family does not take a medium."""
    if medium not in MEDIA[name]:
        raise UsageError(f"--input {medium}: a model of the family {name} takes {' or '.join(MEDIA[name])}")
