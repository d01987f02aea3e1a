"""ONNX Runtime: which of its packages are installed, and what of it loads.

Its packages for CPUs, GPUs and others all write to one folder; who knows only that it imports does not know which.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.doctor import probe
from edgeprune.doctor.interpreter import ONNXRUNTIMES, Package
from edgeprune.power.command import Output


@dataclass(frozen=True)
class OnnxRuntime:
    """An ONNX Runtime.

    Attributes:
        packages: those that claim to have installed it; more than one overwrite each other's files.
        version: of what is imported; None where it does not load.
        providers: what it was built to run graphs on.
        unusable: of these for GPUs, those that do not load here, each with the reason.
        place: the folder it was found in.
        problem: why it does not load.
    """

    packages: tuple[Package, ...]
    version: str | None
    providers: tuple[str, ...]
    place: str | None
    problem: str | None
    unusable: tuple[tuple[str, str], ...] = ()


def read_onnxruntime(
    packages: tuple[Package, ...], output: Output | None, tried: Output | None = None
) -> OnnxRuntime | None:
    """From the installed packages and what its probes said; None where there is neither.

    Args:
        packages: that are installed.
        output: of the probe "onnxruntime".
        tried: of the probe "providers", which is a process of its own: one that does not load may end it.
    """
    told = probe.parse(output)
    own = tuple(package for package in packages if package.name in ONNXRUNTIMES)
    if not told["installed"] and not own:
        return None
    problem = told.get("problem")
    if not told["installed"]:
        problem = "its files are gone"
    providers = tuple(told.get("providers", ()))
    return OnnxRuntime(own, told.get("version"), providers, told.get("place"), problem, _unusable(providers, tried))


def _unusable(providers: tuple[str, ...], tried: Output | None) -> tuple[tuple[str, str], ...]:
    told = probe.parse(tried)
    reasons = told.get("unusable", {})
    if told.get("problem"):
        reasons = dict.fromkeys(probe.GPU_PROVIDERS, told["problem"])
    return tuple((name, reasons[name]) for name in providers if name in reasons)
