"""ONNX Runtime: which of its packages are installed, and what of it loads.

Its packages for CPUs, GPUs and others all write to one folder; who knows only that it imports does not know which.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.doctor import probe
from edgeprune.doctor.command import Output
from edgeprune.doctor.interpreter import ONNXRUNTIMES, Package


@dataclass(frozen=True)
class OnnxRuntime:
    """An ONNX Runtime.

    Attributes:
        packages: those that claim to have installed it; more than one overwrite each other's files.
        version: of what is imported; None where it does not load.
        providers: what it can run graphs on.
        place: the folder it was found in.
        problem: why it does not load.
    """

    packages: tuple[Package, ...]
    version: str | None
    providers: tuple[str, ...]
    place: str | None
    problem: str | None


def read_onnxruntime(packages: tuple[Package, ...], output: Output | None) -> OnnxRuntime | None:
    """From the installed packages and what its probe said; None where there is neither."""
    told = probe.parse(output)
    own = tuple(package for package in packages if package.name in ONNXRUNTIMES)
    if not told["installed"] and not own:
        return None
    problem = told.get("problem")
    if not told["installed"]:
        problem = "its files are gone"
    return OnnxRuntime(own, told.get("version"), tuple(told.get("providers", ())), told.get("place"), problem)
