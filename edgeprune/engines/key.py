"""What a plan depends on, and in words what has changed since it was built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.bundle.build import Bounds
from edgeprune.bundle.manifest import Graph
from edgeprune.nvidia.library import Library
from edgeprune.runtime.plan import this_platform

BUILDER = 1
"""Raised when edgeprune builds the same graph differently."""


@dataclass(frozen=True)
class Conditions:
    """What all plans of a build share.

    Attributes:
        library: that builds.
        capabilities: compute capabilities that the plans must run on.
        device: name of the GPU the build is tuned on; None where it is built without one.
        precision: element type asked for.
        workspace: bytes of scratch allowed.
    """

    library: Library
    capabilities: tuple[str, ...]
    device: str | None
    precision: str
    workspace: int


def make_key(graph: Graph, profile: Sequence[Bounds], conditions: Conditions) -> dict[str, str]:
    """Everything a plan depends on, by name."""
    key = {
        "builder": str(BUILDER),
        "graph": graph.file.sha256,
        "data": graph.data.sha256 if graph.data else "",
        "library": conditions.library.name,
        "platform": this_platform(),
        "capabilities": " ".join(conditions.capabilities),
        "device": conditions.device or "",
        "precision": conditions.precision,
        "workspace": str(conditions.workspace),
    }
    return key | {f"profile {bounds.name}": _written(bounds) for bounds in profile}


def differences(old: dict[str, str], new: dict[str, str]) -> tuple[str, ...]:
    """What has changed, in words; empty if nothing has."""
    found = []
    for name in (*old, *(name for name in new if name not in old)):
        before, after = old.get(name), new.get(name)
        if before != after:
            found.append(_WORDS[name] if name in _WORDS else f"{name}: {_shown(before)} before, {_shown(after)} now")
    return tuple(found)


_WORDS = {
    "builder": "edgeprune builds differently now",
    "graph": "the graph was exported anew",
    "data": "the weights were exported anew",
}


def _shown(value: str | None) -> str:
    return value or "none"


def _written(bounds: Bounds) -> str:
    spans = ("x".join(map(str, span)) for span in (bounds.least, bounds.usual, bounds.most))
    return f"{bounds.kind} {' '.join(spans)}"
