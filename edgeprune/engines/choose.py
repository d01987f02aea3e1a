"""Which TensorRT builds for a target on this machine, and whether this machine can.

TensorRT tunes on the GPU it builds for, so that one must be here. TensorRT-RTX builds ahead of time, on any machine,
for the devices it is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import BackendError, MissingExtra
from edgeprune.nvidia.cuda import Cuda, Device, devices
from edgeprune.nvidia.library import MODULES, Library, extra_for, installed, open_library
from edgeprune.recipes.target import Flavour, Stack, Target
from edgeprune.runtime.room import spell


@dataclass(frozen=True)
class Choice:
    """What builds.

    Attributes:
        stack: of the target.
        library: that serves it.
        device: name of the GPU that tactics are tuned on; None where none is needed.
        device_free: bytes of memory it has left; None where none is needed.
    """

    stack: Stack
    library: Library
    device: str | None
    device_free: int | None


def choose(target: Target, stack: str | None) -> Choice:
    """Choose among what is installed.

    Args:
        target: what to build for.
        stack: the name of one of its stacks; None takes the first that an installed library serves.

    Raises:
        UsageError: the target has no such stack.
        MissingExtra: no TensorRT is installed.
        BackendError: one is, of another version; or the GPU it needs is not here.
    """
    found, library = _stack(target, stack)
    if library.flavour == "tensorrt-rtx":
        return Choice(found, library, None, None)
    gpu = _device(target)
    cuda = Cuda(gpu.index)
    free, _ = cuda.memory()
    cuda.close()
    return Choice(found, library, gpu.name, free)


def stack_here(target: Target, name: str | None) -> Stack:
    """The stack to examine for: the one named, else what is installed and loads, else the target's first."""
    if name is not None:
        return target.stack(name)
    for library in _loadable({stack.flavour for stack in target.stacks})[0]:
        chosen = target.choose(library.flavour, library.version)
        if chosen is not None:
            return chosen
    return target.stacks[0]


def available_bytes() -> int:
    """Bytes of memory that programs can still take on this machine, swap included."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return fields["MemAvailable"] + fields.get("SwapFree", 0)


def _loadable(flavours: set[Flavour]) -> tuple[list[Library], list[BackendError]]:
    """Installed libraries that load, and why others do not."""
    loaded, broken = [], []
    for flavour in installed():
        if flavour in flavours:
            try:
                loaded.append(open_library(flavour))
            except BackendError as error:
                broken.append(error)
    return loaded, broken


def _stack(target: Target, name: str | None) -> tuple[Stack, Library]:
    wanted = target.stacks if name is None else (target.stack(name),)
    loaded, broken = _loadable({stack.flavour for stack in wanted})
    for stack in wanted:
        for library in loaded:
            if stack.serves(library.flavour, library.version):
                return stack, library
    first = wanted[0]
    if broken:
        raise broken[0]
    if not loaded:
        if target.kind == "jetson":
            raise BackendError(
                f"building for {target.name} needs {first.versions}, and {MODULES[first.flavour]} cannot be imported "
                "here; on a Jetson it comes with JetPack: sudo apt install python3-libnvinfer, and a virtual "
                "environment made with --system-site-packages; --dry-run needs none"
            )
        raise MissingExtra(MODULES[first.flavour], extra_for(first.flavour), f"building for {target.name}")
    served = "; ".join(f"{stack.name}: {stack.versions}" for stack in wanted)
    raise BackendError(
        f"{' and '.join(library.name for library in loaded)} is installed, and {target.name} is served by {served}"
    )


SAME_DEVICE = 0.75
"""Share of a target's memory that a GPU must have to be taken for it; firmware keeps some of the data sheet's."""


def _device(target: Target) -> Device:
    """The GPU of this machine that is the target's."""
    gpus = devices()
    for gpu in gpus:
        if gpu.capability in target.capabilities and gpu.memory >= SAME_DEVICE * (target.memory or 0):
            return gpu
    here = ", ".join(f"{gpu.name} ({gpu.capability}, {spell(gpu.memory)})" for gpu in gpus)
    raise BackendError(
        f"TensorRT builds on the GPU it builds for: {target.name} has compute capability "
        f"{', '.join(target.capabilities)} and {spell(target.memory or 0)}, here is {here}; see edgeprune list targets"
    )
