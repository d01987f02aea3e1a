"""Which backend runs a bundle, from the words that users say.

A word that the chosen backend has no use for is an error, not silence.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from edgeprune.bundle.build import Build
from edgeprune.bundle.plans import built_keys, plan_folder, read_build
from edgeprune.bundle.store import Bundle
from edgeprune.errors import BackendError, UsageError
from edgeprune.nvidia.cuda import devices
from edgeprune.nvidia.library import extra_for, installed, open_library
from edgeprune.recipes.find import suggestion
from edgeprune.runtime.backend import Backend
from edgeprune.runtime.ort import OrtBackend, Provider
from edgeprune.runtime.trt import TrtBackend

BackendName = Literal["onnxruntime", "tensorrt"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)


@dataclass(frozen=True)
class BackendChoice:
    """What runs a bundle's graphs.

    Attributes:
        name: "onnxruntime", or "tensorrt" for the plans that ``edgeprune build`` made.
        provider: of ONNX Runtime; None is "cpu".
        target: of several builds in a bundle the one to run, "<target>@<stack>" or the target alone.
        trusted: a folder of plans that were built elsewhere; they are native code.
        threads: of ONNX Runtime on the CPU.

    Raises:
        UsageError: a value that the backend has no use for.
    """

    name: BackendName = "onnxruntime"
    provider: Provider | None = None
    target: str | None = None
    trusted: Path | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        useless: dict[str, object]
        if self.name == "onnxruntime":
            useless = {"--target": self.target, "--trust-plans": self.trusted}
        else:
            useless = {"--provider": self.provider, "--threads": self.threads}
        for option, value in useless.items():
            if value is not None:
                raise UsageError(f"{option} {value} has no effect with --backend {self.name}")
        if self.target is not None and self.trusted is not None:
            raise UsageError(f"--target {self.target} has no effect with --trust-plans, which names the folder")


def open_backend(bundle: Bundle, choice: BackendChoice) -> Backend:
    """Open the backend for a bundle.

    Raises:
        BackendError: there are no plans, or none for this machine; or a provider is missing.
        UsageError: the bundle has no plans for the target named.
        MissingExtra: a package is not installed.
    """
    if choice.name == "onnxruntime":
        return OrtBackend(choice.threads, choice.provider or "cpu")
    folder = choice.trusted or _folder(bundle, choice.target)
    build = read_build(folder)
    library, trust = open_library(build.flavour), choice.trusted is not None
    return TrtBackend(build, folder, library, trust, image=bundle.manifest.image)


def _folder(bundle: Bundle, target: str | None) -> Path:
    """The folder of plans: the one named, else the only one that can run here."""
    keys = built_keys(bundle.root)
    if not keys:
        raise BackendError(
            f"{bundle.root} has no plans; build them on the device: edgeprune build {bundle.root} --target NAME"
        )
    if target is not None:
        keys = tuple(key for key in keys if target in (key, key.split("@")[0]))
        if not keys:
            known = built_keys(bundle.root)
            raise UsageError(
                f"{bundle.root} has no plans for {target}; it has {', '.join(known)}{suggestion(target, known)}"
            )
    builds = {key: read_build(plan_folder(bundle.root, key)) for key in keys}
    if len(builds) > 1:
        builds = _suitable(builds)
    if len(builds) != 1:
        raise UsageError(f"{bundle.root} has plans for {', '.join(keys)}; choose with --target")
    return plan_folder(bundle.root, next(iter(builds)))


def _suitable(builds: dict[str, Build]) -> dict[str, Build]:
    """Those for an installed TensorRT and a GPU that is here; all of them if that cannot be told."""
    libraries = set()
    for flavour in {build.flavour for build in builds.values()} & set(installed()):
        with contextlib.suppress(BackendError):  # one that does not load runs nothing
            libraries.add(open_library(flavour).name)
    named = {key: b for key, b in builds.items() if f"{b.flavour} {b.version}" in libraries}
    if not named:
        return builds
    here = {device.capability for device in devices(extra=extra_for(next(iter(named.values())).flavour))}
    return {key: build for key, build in named.items() if here & set(build.capabilities)} or named
