"""Which TensorRT builds for a target on this machine, and whether this machine can.

TensorRT tunes on the GPU it builds for, so that one must be here. TensorRT-RTX builds ahead of time, on any machine,
for the devices it is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import BackendError, MissingExtra
from edgeprune.nvidia.cuda import Cuda, Device, devices
from edgeprune.nvidia.library import EXTRAS, MODULES, Library, installed, open_library
from edgeprune.recipes.target import Stack, Target


@dataclass(frozen=True)
class Choice:
    """What builds.

    Attributes:
        stack: of the target.
        library: that serves it.
        device: name of the GPU that tactics are tuned on; None where none is needed.
        device_free: bytes of memory it has left, of its own; None where it has none or none is needed.
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
    if gpu.integrated:  # its memory is the machine's
        return Choice(found, library, gpu.name, None)
    cuda = Cuda(gpu.index)
    free, _ = cuda.memory()
    cuda.close()
    return Choice(found, library, gpu.name, free)


def stack_here(target: Target, name: str | None) -> Stack:
    """The stack to examine for: the one named, else what is installed, else the target's first."""
    if name is not None:
        return target.stack(name)
    for flavour in installed():
        chosen = target.choose(flavour, open_library(flavour).version)
        if chosen is not None:
            return chosen
    return target.stacks[0]


def available_bytes() -> int:
    """Bytes of memory that programs can still take on this machine, without swapping."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _stack(target: Target, name: str | None) -> tuple[Stack, Library]:
    wanted = target.stacks if name is None else (target.stack(name),)
    there = [open_library(flavour) for flavour in installed()]
    for stack in wanted:
        for library in there:
            if stack.serves(library.flavour, library.version):
                return stack, library
    first = wanted[0]
    if not any(library.flavour == stack.flavour for library in there for stack in wanted):
        if target.kind == "jetson":
            raise BackendError(
                f"building for {target.name} needs {first.versions}, and {MODULES[first.flavour]} cannot be imported "
                "here; on a Jetson it comes with JetPack: sudo apt install python3-libnvinfer, and a virtual "
                "environment made with --system-site-packages; --dry-run needs none"
            )
        raise MissingExtra(MODULES[first.flavour], EXTRAS[first.flavour], f"building for {target.name}")
    served = "; ".join(f"{stack.name}: {stack.versions}" for stack in wanted)
    raise BackendError(
        f"{' and '.join(library.name for library in there)} is installed, and {target.name} is served by {served}"
    )


def _device(target: Target) -> Device:
    """The GPU of this machine that is the target's."""
    gpus = devices()
    for gpu in gpus:
        if gpu.capability in target.capabilities:
            return gpu
    here = ", ".join(f"{gpu.name} ({gpu.capability})" for gpu in gpus)
    raise BackendError(
        f"TensorRT builds on the GPU it builds for: {target.name} has compute capability "
        f"{', '.join(target.capabilities)}, here is {here}"
    )
