"""Which TensorRTs there are: those this Python imports, and the one that the system's packages installed.

The second matters where the first is absent: JetPack installs TensorRT for the system's Python, which a virtual
environment does not see.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgeprune.doctor import debian, probe
from edgeprune.nvidia.library import MODULES
from edgeprune.power.command import Output
from edgeprune.recipes.target import Flavour

FLAVOURS = tuple(MODULES)


@dataclass(frozen=True)
class TensorRT:
    """A TensorRT that this Python finds.

    Attributes:
        flavour: which library.
        version: (10, 3, 0); None where it does not load.
        place: the folder it was found in.
        problem: why it does not load.
    """

    flavour: Flavour
    version: tuple[int, ...] | None
    place: str | None
    problem: str | None = None

    @property
    def wheel(self) -> bool:
        """Whether it came from pip rather than with the system."""
        return self.place is not None and not re.match(r"/usr/lib/python3", self.place)

    @property
    def label(self) -> str:
        """For reports: "tensorrt 10.3.0"."""
        return f"{self.flavour} {'.'.join(map(str, self.version))}" if self.version else self.flavour


@dataclass(frozen=True)
class SystemTensorRT:
    """The TensorRT of the system's own Python.

    Attributes:
        place: the folder it lies in.
        python: the Python it is for, "3.10"; None where that cannot be told.
        version: of the package python3-libnvinfer; None where dpkg does not know it.
    """

    place: str
    python: str | None
    version: str | None


def read_tensorrt(flavour: Flavour, output: Output | None) -> TensorRT | None:
    """From what the flavour's probe said; None where it is not installed."""
    told = probe.parse(output)
    if not told["installed"]:
        return None
    version = told.get("version")
    return TensorRT(flavour, tuple(version) if version else None, told.get("place"), told.get("problem"))


def read_system_tensorrt(root: Path) -> SystemTensorRT | None:
    """The one below ``root``'s /usr/lib/python3*/dist-packages, None where there is none."""
    for folder in sorted((root / "usr/lib").glob("python3*/dist-packages/tensorrt")):
        name = folder.parents[1].name.removeprefix("python")
        version = debian.version(root, "python3-libnvinfer")
        return SystemTensorRT("/" + str(folder.relative_to(root)), name if "." in name else _python(root), version)
    return None


def _python(root: Path) -> str | None:
    """The version /usr/bin/python3 leads to."""
    link = root / "usr/bin/python3"
    found = re.search(r"python(3\.\d+)$", str(link.readlink())) if link.is_symlink() else None
    return found[1] if found else None
