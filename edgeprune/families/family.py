"""What every family file offers under the name ``open_family``, and how it is found."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from edgeprune.bundle.sizes import Decoder, Vision
from edgeprune.checkpoint.weights import Weights
from edgeprune.errors import RecipeError
from edgeprune.families.part import Part

# These two files are about families; every other file of the package is one.
_NOT_FAMILIES = {"family", "part"}


class Family(Protocol):
    """A checkpoint's parts, one per graph of a bundle."""

    @property
    def weights(self) -> Weights:
        """The checkpoint's tensors."""

    @property
    def image_size(self) -> int:
        """Side of the encoder's picture in pixels."""

    @property
    def vision_facts(self) -> Vision:
        """The encoder's facts for the manifest."""

    @property
    def decoder_facts(self) -> Decoder:
        """The decoder's facts for the manifest."""

    @property
    def feature_layer(self) -> int:
        """The encoder layer whose output is selected and whose attention scores patches."""

    def vision(self, probes: tuple[tuple[str, int], ...], fused: bool) -> Part:
        """The encoder with a scoring head; ``probes`` are kinds and layers."""

    def encoder(self, make: Callable[..., nn.Module], fused: bool) -> Part:
        """A method's own form of the encoder, with the same weights."""

    def project(self) -> Part:
        """The projector."""

    def segment(self, first: int, last: int, fused: bool, shows_query: bool = False) -> Part:
        """Decoder layers first..last-1, with norm and head where they end the decoder."""

    def cut(self, make: Callable[..., nn.Module], layer: int, fused: bool) -> Part:
        """A method's cut before ``layer``, whose norm and projections it borrows."""

    def embedding(self) -> torch.Tensor:
        """The token embedding table [vocab, D]."""


def names() -> tuple[str, ...]:
    """Every family there is, sorted."""
    found = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return tuple(sorted(name for name in found if name not in _NOT_FAMILIES))


def open_family(name: str, checkpoint: Path) -> Family:
    """Open a checkpoint as a family.

    Raises:
        RecipeError: there is no such family.
        CheckpointError: the checkpoint cannot be read, or is of another architecture.
    """
    if name not in names():
        raise RecipeError(f"unknown family {name!r}; families: {', '.join(names())}")
    family: Family = importlib.import_module(f"edgeprune.families.{name}").open_family(checkpoint)
    return family
