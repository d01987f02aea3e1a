"""The Python that edgeprune runs in: its version, where it looks for packages, and which packages it finds.

Packages are read from their metadata; none of them is imported.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from dataclasses import dataclass

ONNXRUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-rocm",
    "onnxruntime-migraphx",
    "onnxruntime-qnn",
    "onnxruntime-training",
    "ort-nightly",
    "ort-nightly-gpu",
)
"""Distributions that all install a folder named ``onnxruntime``."""

_KNOWN = {
    "edgeprune",
    *("numpy", "pillow", "tokenizers", "jinja2", "click"),
    *("onnx", "onnx-ir", "onnxscript", "polygraphy", "cuda-python", "tensorrt"),
    *("torch", "transformers", "safetensors", "huggingface-hub", "tqdm"),
    *ONNXRUNTIMES,
}


@dataclass(frozen=True)
class Package:
    """An installed distribution.

    Attributes:
        name: normalised, "cuda-python".
        version: as its metadata says.
    """

    name: str
    version: str


@dataclass(frozen=True)
class Interpreter:
    """A Python.

    Attributes:
        version: "3.10.12".
        executable: how to start it.
        architecture: "x86_64", "aarch64".
        glibc: "2.35"; None with another C library.
        cores: CPU cores this process may use.
        prefix: where it is installed: the virtual environment, if it is one.
        base: where the Python is that a virtual environment was made from; the same as prefix without one.
        paths: where it looks for packages.
    """

    version: str
    executable: str
    architecture: str
    glibc: str | None
    cores: int
    prefix: str
    base: str
    paths: tuple[str, ...]

    @classmethod
    def here(cls) -> Interpreter:
        """The one that runs this."""
        return cls(
            version=platform.python_version(),
            executable=sys.executable,
            architecture=platform.machine(),
            glibc=_glibc(),
            cores=len(os.sched_getaffinity(0)),
            prefix=sys.prefix,
            base=sys.base_prefix,
            paths=tuple(sys.path),
        )

    @property
    def minor(self) -> str:
        """ "3.10" of "3.10.12"."""
        return ".".join(self.version.split(".")[:2])

    def packages(self) -> tuple[Package, ...]:
        """Of the packages edgeprune has to do with, those that are installed, sorted."""
        found: dict[str, str] = {}
        for distribution in importlib.metadata.distributions(path=list(self.paths)):
            name = _name(distribution)
            key = re.sub(r"[-_.]+", "-", name or "").lower()
            if key in _KNOWN or key.startswith("tensorrt-"):
                found.setdefault(key, distribution.version or "?")  # the first on the path is the one imported
        return tuple(Package(name, found[name]) for name in sorted(found))


def _name(distribution: importlib.metadata.Distribution) -> str | None:
    folder = getattr(distribution, "_path", None)
    if getattr(folder, "name", "").startswith("~"):  # what an interrupted pip leaves behind; nobody imports it
        return None
    try:
        name: str | None = distribution.metadata["Name"]
    except (TypeError, OSError):  # a folder without its file
        return None
    return name


def _glibc() -> str | None:
    try:
        text = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):  # another C library
        return None
    return text.split()[-1] if text else None
