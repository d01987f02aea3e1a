"""What every method file offers under the name ``METHODS``, and how a method is found.

A method is modules with named inputs: the arguments of a module's ``forward`` are the names of what it reads. The
names that there are, with their axes, are in ``edgeprune/bundle/README.md`` ("Running").
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from edgeprune import catalog
from edgeprune.bundle.sizes import Vision
from edgeprune.catalog import Probe


@dataclass(frozen=True)
class Method:
    """One pruning method, or a variant of one.

    Attributes:
        name: what users type; a card of that name is in the catalog.
        positions: position ids after a cut, "repack" (0..S'-1) or "keep" (original ids), on decoders whose positions
            have one axis; with three, every method keeps them.
        encoder: makes a vision graph of the method's own, from (encoder configuration, selected layer, fused).
        vision: makes the stage on the encoder's rows, from the encoder's facts.
        prepare: makes a graph that runs once: on the assembled prompt, before the first cut inside the decoder, where
            it reads ``hidden``, else before the projected stage.
        projected: makes the stage on the projected rows, from the encoder's facts.
        kernel: makes the graph in front of ``vision`` or ``projected`` whose output ``sampler`` chooses by.
        sampler: what chooses rows on the host from ``kernel`` (``runtime.samplers``); None where a graph does.
        needs_clip: whether ``prepare`` and ``kernel`` are parts of a CLIP checkpoint beside the model's own; they are
            then made from (its configuration, fused) and (the encoder's facts, its configuration), with its names.
        decoder_cut: makes the module of a cut from (decoder configuration, fused, positions); its parameters, if any,
            carry the names of the decoder layer that follows the cut. The card says for which pictures there is one.
    """

    name: str
    positions: Literal["repack", "keep"] = "repack"
    encoder: Callable[..., nn.Module] | None = None
    vision: Callable[[Vision], nn.Module] | None = None
    prepare: Callable[..., nn.Module] | None = None
    projected: Callable[[Vision], nn.Module] | None = None
    kernel: Callable[..., nn.Module] | None = None
    sampler: Literal["dpp", "repulsion"] | None = None
    needs_clip: bool = False
    decoder_cut: Callable[..., nn.Module] | None = None

    def cuts(self, layers: int, kind: str = "fixed") -> tuple[int, ...]:
        """The layers of a decoder before which rows of pictures of a kind are dropped, by the method's card."""
        return catalog.card(self.name).cuts(layers, kind)

    def probes(self, feature_layer: int) -> Mapping[str, Probe]:
        """What its stages read of an encoder by the selected layer, by argument name, by the method's card."""
        return catalog.card(self.name).probes_at(feature_layer)


def load(name: str) -> Method:
    """Find a method by name.

    Raises:
        UsageError: there is no such method.
    """
    card = catalog.card(name)
    methods: tuple[Method, ...] = importlib.import_module(f"edgeprune.methods.{card.file}").METHODS
    return next(method for method in methods if method.name == name)
