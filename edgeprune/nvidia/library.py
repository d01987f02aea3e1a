"""Which TensorRT is installed: the module, its flavour and its version.

One handle for TensorRT 10.3 to 11 and TensorRT-RTX: everything else uses the names they share, and asks the handle for
those that only some have.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.errors import BackendError, MissingExtra
from edgeprune.recipes.target import Flavour

MODULES: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
EXTRAS: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}


@dataclass(frozen=True)
class Library:
    """An imported TensorRT.

    Attributes:
        module: ``tensorrt`` or ``tensorrt_rtx``.
        flavour: which of them.
        version: (10, 3, 0).
    """

    module: Any
    flavour: Flavour
    version: tuple[int, ...]

    @property
    def name(self) -> str:
        """For reports: "tensorrt 10.3.0"."""
        return f"{self.flavour} {'.'.join(map(str, self.version))}"

    def member(self, *path: str) -> Any:
        """What a dotted name leads to in the module, None where this version lacks it."""
        found: Any = self.module
        for name in path:
            found = getattr(found, name, None)
        return found


def installed() -> tuple[Flavour, ...]:
    """Flavours whose Python package is there; none of them is imported."""
    return tuple(flavour for flavour, module in MODULES.items() if importlib.util.find_spec(module) is not None)


def open_library(flavour: Flavour) -> Library:
    """Import a TensorRT.

    Raises:
        MissingExtra: it is not installed.
        BackendError: it is, but its libraries do not load.
    """
    name = MODULES[flavour]
    if importlib.util.find_spec(name) is None:
        if flavour == "tensorrt" and on_jetson():
            raise BackendError(
                "tensorrt cannot be imported; on a Jetson it comes with JetPack: sudo apt install python3-libnvinfer, "
                "and a virtual environment made with --system-site-packages"
            )
        raise MissingExtra(name, extra_for(flavour), f"{flavour} engines")
    try:
        module = importlib.import_module(name)
        text: str = module.__version__
    except Exception as error:  # what a missing shared library raises differs between versions
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BackendError(f"{name} is installed but does not load: {reason}; edgeprune doctor says more") from error
    return Library(module, flavour, parse_version(text))


def on_jetson(root: Path = Path("/")) -> bool:
    """Whether this is a Jetson, whose TensorRT is the system's."""
    return (root / "etc" / "nv_tegra_release").exists()


def extra_for(flavour: Flavour) -> str:
    """The extra of edgeprune that brings what a flavour needs beside itself."""
    return "jetson" if flavour == "tensorrt" and on_jetson() else EXTRAS[flavour]


def parse_version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: "10.16.1.11" to (10, 16, 1, 11), "10.3.0+cuda12" to (10, 3, 0)."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
