"""Checks, before anything is imported, that an optional extra's packages are there."""

from __future__ import annotations

import importlib.util

from edgeprune.errors import MissingExtra

_EXPORT = ("torch", "transformers", "safetensors", "huggingface_hub", "onnx", "onnx_ir", "onnxscript", "tqdm")


def require_export() -> None:
    """Raises MissingExtra for the first package of the `export` extra that is not installed."""
    _require(_EXPORT, "export", "exporting a checkpoint")


def require_eager() -> None:
    """The same for running Hugging Face's model."""
    _require(("torch", "transformers"), "export", "comparing with PyTorch")


def require_show() -> None:
    """The same for drawing."""
    _require(("matplotlib",), "show", "drawing the picture")


def _require(packages: tuple[str, ...], extra: str, purpose: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, extra, purpose)
