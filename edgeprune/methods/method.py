"""What every method file offers under the name ``METHOD``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from edgeprune.errors import UsageError

# These two files are about methods; every other file of the package is one.
_NOT_METHODS = {"method", "selection"}


@dataclass(frozen=True)
class Method:
    """One pruning method.

    Attributes:
        name: what users type; the name of the file.
        positions: position ids after a cut, "repack" (0..S'-1) or "keep" (original ids).
        vision_probes: outputs of the vision graph that the encoder stage reads besides ``features``.
        cuts: decoder depth to the layers before which rows are dropped.
        vision_stage: makes the encoder stage's module.
        decoder_cut: makes a cut's module from (decoder configuration, fused); its parameters carry the names of
            the decoder layer that follows the cut.
    """

    name: str
    positions: Literal["repack", "keep"]
    vision_probes: tuple[str, ...]
    cuts: Callable[[int], tuple[int, ...]]
    vision_stage: Callable[[], nn.Module]
    decoder_cut: Callable[..., nn.Module]


def names() -> tuple[str, ...]:
    """Every method there is, sorted."""
    found = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return tuple(sorted(name for name in found if name not in _NOT_METHODS))


def load(name: str) -> Method:
    """Find a method by name.

    Raises:
        UsageError: there is no such method.
    """
    if name not in names():
        raise UsageError(f"unknown method {name!r}; methods: {', '.join(names())}")
    method: Method = importlib.import_module(f"edgeprune.methods.{name}").METHOD
    return method
