"""Which family opens a checkpoint, and what that can be asked about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.bundle.prompt import Medium
from edgeprune.checkpoint.raw import one_of, read_json
from edgeprune.errors import UnsupportedModel
from edgeprune.recipes.architecture import FAMILIES, supported_class

MEDIA: dict[str, tuple[Medium, ...]] = {
    "llava": ("image",),
    "llava_next": ("image",),
    "video_llava": ("video", "image"),
    "llava_onevision": ("image", "video"),
    "qwen2_5_vl": ("image", "video"),
    "internvl": ("image",),
}
"""What a family can be asked about; a bundle is for one of them, unasked for the first."""


def family_name(folder: Path) -> str:
    """The family of a checkpoint.

    Raises:
        CheckpointError: config.json is missing or no JSON.
        UnsupportedModel: no family reads such a model; the message names it and what is read.
    """
    path = folder / "config.json"
    return FAMILIES[supported_class(path, read_json(path))]


def check_family(path: Path, raw: Mapping[str, Any], family: str) -> str:
    """Hugging Face's class of a checkpoint that is opened as ``family``.

    Raises:
        UnsupportedModel: it is of another family, or of none; the message names both.
    """
    architecture = supported_class(path, raw)
    found = FAMILIES[architecture]
    if found != family:
        raise UnsupportedModel(
            f"{path}: architectures = {architecture!r} is of the family {found}, and it is opened as {family}; "
            f"use a recipe of the family {found}, or none"
        )
    one_of(path, "model_type", raw.get("model_type", family), (family,))
    return architecture
