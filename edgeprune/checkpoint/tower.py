"""A vision tower of CLIP's or SigLIP's shape, from vision_config with its defaults filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.checkpoint.raw import one_of, square, unsupported
from edgeprune.errors import CheckpointError, UnsupportedModel

ACTIVATIONS = ("gelu", "quick_gelu", "silu", "gelu_pytorch_tanh")


@dataclass(frozen=True)
class VisionConfig:
    """A vision tower.

    Attributes:
        hidden: width Dv.
        layers: how many layers the checkpoint holds; an export stops after the one whose output is read.
        heads: attention heads.
        intermediate: width of the MLP.
        image_size: pixels on a side.
        patch_size: pixels on a side.
        activation: one of ``ACTIVATIONS``.
        norm_eps: epsilon of the layer norms.
    """

    hidden: int
    layers: int
    heads: int
    intermediate: int
    image_size: int
    patch_size: int
    activation: str
    norm_eps: float

    @property
    def side(self) -> int:
        """Patches on a side; pixels that do not fill a patch are left out, as a strided convolution does."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of an image, the class token not counted."""
        return self.side**2


def read_tower(path: Path, vision: Mapping[str, Any]) -> VisionConfig:
    """Read a tower.

    Args:
        path: config.json, for messages.
        vision: vision_config with its defaults filled in, of ``clip_vision_model`` or ``siglip_vision_model``.

    Raises:
        UnsupportedModel: a value that is not carried.
        CheckpointError: values that contradict each other.
        KeyError: a value that transformers left out.
    """
    if vision["num_channels"] != 3:
        raise unsupported(path, "vision_config.num_channels", vision["num_channels"], ("3",))
    config = VisionConfig(
        hidden=vision["hidden_size"],
        layers=vision["num_hidden_layers"],
        heads=vision["num_attention_heads"],
        intermediate=vision["intermediate_size"],
        image_size=square(path, "vision_config.image_size", vision["image_size"]),
        patch_size=square(path, "vision_config.patch_size", vision["patch_size"]),
        activation=one_of(path, "vision_config.hidden_act", vision["hidden_act"], ACTIVATIONS),
        norm_eps=vision["layer_norm_eps"],
    )
    if config.hidden % config.heads:
        raise CheckpointError(f"{path}: vision hidden_size {config.hidden} does not divide into {config.heads} heads")
    return config


def feature_layer(path: Path, value: Any, layers: int) -> int:
    """Index into hidden states (0 = embeddings, i + 1 = output of layer i) to the index of a layer.

    Raises:
        UnsupportedModel: several layers, the embeddings, or a layer that there is not.
    """
    if type(value) is not int:
        raise unsupported(path, "vision_feature_layer", value, ("one layer",))
    layer = value - 1 if value > 0 else layers + value
    if value == 0 or not 0 <= layer < layers:
        raise UnsupportedModel(
            f"{path}: vision_feature_layer = {value} is not supported; expected 1..{layers} or -{layers}..-1"
        )
    return layer
