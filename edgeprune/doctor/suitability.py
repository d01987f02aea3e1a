"""A target against a machine: whether engines built for the one can run on the other.

Every check runs, so that a person sees all that is missing at once. It knows no bundle, so it says nothing about
whether a model fits.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeprune.doctor import mends
from edgeprune.doctor.checks import check_cuda, check_driver, gigabytes, hidden, loads, wheel_problem
from edgeprune.doctor.finding import Finding
from edgeprune.doctor.gpu import Gpu
from edgeprune.doctor.machine import Machine
from edgeprune.doctor.tensorrt import TensorRT
from edgeprune.nvidia.library import parse_version
from edgeprune.recipes import target as targets
from edgeprune.recipes.target import Stack, Target

_MEMORY_SHARE = 0.75
"""Of a device's memory what its system must show: a Jetson's firmware keeps up to a fifth of a small board's."""

_ELSEWHERE = "run it on the device itself; here, edgeprune run uses the CPU"


def check_target(machine: Machine, target: Target, stack: Stack | None = None) -> tuple[Finding, ...]:
    """Findings about a target, in the order in which one thing needs the other.

    Args:
        machine: this one.
        target: what engines are built for.
        stack: with which TensorRT; None allows any that the target has.
    """
    checks = (_platform(machine, target), _gpu(machine, target), _memory(machine, target))
    library = _library(machine, target, stack)
    return tuple(finding for check in (*checks, _cuda(machine), library) for finding in check)


def _platform(machine: Machine, target: Target) -> Iterator[Finding]:
    board = machine.jetson
    if target.kind == "jetson" and board is None:
        found = f"this is no Jetson; {target.name} is for {target.device}"
        yield Finding("platform", "missing", found, _other(machine, target) or _ELSEWHERE)
    elif target.kind == "gpu" and board is not None:
        found = f"this is {board.model}; {target.name} is for {target.device}"
        yield Finding("platform", "missing", found, _other(machine, target) or _ELSEWHERE)
    else:
        yield Finding("platform", "ok", board.model if board else machine.python.architecture)


def _gpu(machine: Machine, target: Target) -> Iterator[Finding]:
    wanted = " or ".join(target.capabilities)
    seen = [gpu.capability for gpu in _gpus(machine)]
    if not seen:
        mend = mends.driver(machine) if machine.nvidia.card or machine.nvidia.driver else _ELSEWHERE
        yield Finding("gpu", "missing", f"no NVIDIA GPU; engines need compute capability {wanted}", mend)
        return
    matching = _matching(machine, target)
    if matching:
        yield Finding("gpu", "ok", f"{matching[0].name}, compute capability {matching[0].capability}")
        return
    names = ", ".join(f"{gpu.name} has {gpu.capability or 'an unknown one'}" for gpu in _gpus(machine))
    mend = _other(machine, target) or "write a target of your own: engines/README.md has the keys"
    yield Finding("gpu", "missing", f"{names}; engines need compute capability {wanted}", mend)


def _memory(machine: Machine, target: Target) -> Iterator[Finding]:
    if target.memory is None or not _same_kind(machine, target):
        return
    gpus = _matching(machine, target) or _gpus(machine)
    shared = machine.memory_bytes if target.kind == "jetson" else 0
    has = shared or max((gpu.memory_bytes or 0 for gpu in gpus), default=0)
    if not has:
        return  # without a GPU there is nothing to compare; that there is none has been said
    found = f"{gigabytes(has)}; {target.name} has {gigabytes(target.memory)}"
    if has < _MEMORY_SHARE * target.memory:
        mend = _other(machine, target) or "write a target of your own: engines/README.md has the keys"
        yield Finding("memory", "missing", found, mend)
    else:
        yield Finding("memory", "ok", found)


def _cuda(machine: Machine) -> Iterator[Finding]:
    for finding in (*check_driver(machine), *check_cuda(machine)):
        if finding.level == "missing":
            yield finding


def _library(machine: Machine, target: Target, stack: Stack | None) -> Iterator[Finding]:
    stacks = (stack,) if stack else target.stacks
    for found in machine.tensorrts:
        served = _serving(stacks, found.flavour, found.version) if loads(machine, found) else None
        if served:
            where = "" if machine.nvidia.gpus else "; it can build engines here, but not run them"
            yield Finding("tensorrt", "ok", f"{found.label} is {served.name}{where}")
            return
    flavours = {known.flavour for known in stacks}
    unfit = next((found for found in machine.tensorrts if found.flavour in flavours), None)
    if unfit:
        yield _unfit(machine, target, stacks, unfit)
        return
    system, needs = machine.system_tensorrt, " or ".join(known.versions for known in stacks)
    version = parse_version(system.version) if system and system.version else None
    if system and (_serving(stacks, "tensorrt", version) or (version is None and "tensorrt" in flavours)):
        yield Finding("tensorrt", "missing", hidden(machine), mends.show_system_tensorrt(machine))
        return
    labels = [found.label for found in machine.tensorrts] + (
        [f"the system's {system.version}"] if system and version else []
    )
    here = _same_kind(machine, target)  # a Jetson's TensorRT cannot be installed elsewhere
    mend = mends.tensorrt(machine, stacks[0].flavour, stacks[0]) if here else _ELSEWHERE
    yield Finding("tensorrt", "missing", f"{', '.join(labels) or 'none installed'}; {target.name} needs {needs}", mend)


def _unfit(machine: Machine, target: Target, stacks: tuple[Stack, ...], found: TensorRT) -> Finding:
    """Why an installed TensorRT of the right flavour does not do."""
    mismatch = wheel_problem(machine, found)
    if found.version is None:
        told = f"{found.flavour} does not load: {found.problem}"
        return Finding("tensorrt", "missing", told, mends.broken_tensorrt(machine, found))
    if mismatch:
        return Finding("tensorrt", "missing", mismatch, mends.replace_wheel(machine, found))
    told = f"{found.label}; {target.name} needs {' or '.join(known.versions for known in stacks)}"
    other = target.choose(found.flavour, found.version)
    if other:  # another stack was asked for
        return Finding("tensorrt", "missing", told, f"edgeprune doctor --target {target.name}@{other.name}")
    wanted = next(known for known in stacks if known.flavour == found.flavour)
    return Finding("tensorrt", "missing", told, mends.tensorrt(machine, wanted.flavour, wanted))


def _serving(stacks: tuple[Stack, ...], flavour: str, version: tuple[int, ...] | None) -> Stack | None:
    return next((known for known in stacks if version and known.serves(flavour, version)), None)


def _same_kind(machine: Machine, target: Target) -> bool:
    return (target.kind == "jetson") == (machine.jetson is not None)


def _gpus(machine: Machine) -> tuple[Gpu, ...]:
    """Those that are seen; of a Jetson at least the one its board is known to have."""
    board = machine.jetson
    if machine.nvidia.gpus or board is None:
        return machine.nvidia.gpus
    return (Gpu("the board's GPU", board.capability, machine.memory_bytes),)


def _matching(machine: Machine, target: Target) -> list[Gpu]:
    """The GPUs that engines of the target run on, the largest first."""
    fit = [gpu for gpu in _gpus(machine) if gpu.capability in target.capabilities]
    return sorted(fit, key=lambda gpu: gpu.memory_bytes or 0, reverse=True)


def _other(machine: Machine, unlike: Target) -> str | None:
    """The command that asks for a target that this machine is, None where there is none."""
    for name in targets.names():
        other = targets.load(name)
        kind = "jetson" if machine.jetson else "gpu"
        has = max((gpu.memory_bytes or 0 for gpu in _matching(machine, other)), default=0)
        if other.name == unlike.name or other.kind != kind or other.memory is None:
            continue
        if _MEMORY_SHARE * other.memory <= has <= other.memory / _MEMORY_SHARE:
            return f"edgeprune doctor --target {name}"
    return None
