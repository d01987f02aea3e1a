"""The target to build for on this very GPU: the one of ``engines/`` that is this GPU, else one made of its facts.

It opens no library: which TensorRT is installed it is told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from edgeprune.bundle.manifest import Dialect
from edgeprune.errors import BackendError
from edgeprune.recipes import target as targets
from edgeprune.recipes.target import GIB, Flavour, Range, Shapes, Stack, Target
from tools.gpu.machine import Machine

OWN = "this-gpu"
"""Name of a target that is made of facts."""
_MEMORY_OFF = 0.1
"""How far a GPU's memory may be from a target's: drivers keep some of it, and other GPUs have half or twice."""
_FUSED_SINCE = (10, 15)
"""TensorRT proper takes RotaryEmbedding and RMSNormalization from here on."""


@dataclass(frozen=True)
class Speed:
    """What a GPU is held against: operations and bytes per second, and where the figures are from."""

    flops: float
    bandwidth: float
    source: str


def known_target(machine: Machine) -> Target | None:
    """The target of ``engines/`` that is this GPU, by capability, name and memory; None where there is none."""
    words = set(re.findall(r"[a-z0-9]+", machine.name.lower()))
    for name in targets.names():
        target = targets.load(name)
        if target.kind == "portable" or target.memory is None or machine.memory is None:
            continue
        named = set(name.split("-")) <= words
        sized = abs(machine.memory - target.memory) <= _MEMORY_OFF * target.memory
        if machine.capability in target.capabilities and sized and (named or _bare(name) in words):
            return target
    return None


def target_for(machine: Machine, flavour: Flavour, version: tuple[int, ...]) -> tuple[Target, Stack]:
    """What to build for.

    Args:
        machine: with a GPU.
        flavour: which TensorRT is to build.
        version: of it, (10, 16, 1).

    Raises:
        BackendError: the machine has no GPU.
    """
    target = known_target(machine) or _made(machine, flavour, version)
    stack = target.choose(flavour, version) or _stack(flavour, version)
    assert machine.capability is not None  # a target that is known has one, and one that is made, too
    return replace(target, capabilities=(machine.capability,), stacks=(stack,)), stack


def speed(machine: Machine) -> Speed | None:
    """The data sheet's figures where this GPU has a target, else the measured ones; None without a GPU."""
    target = known_target(machine)
    if target is not None and target.bandwidth is not None and "fp16" in target.flops:
        return Speed(target.flops["fp16"], target.bandwidth, f"data sheet ({target.name})")
    if machine.flops is None or machine.bandwidth is None:
        return None
    return Speed(machine.flops, machine.bandwidth, "measured here")


def ranges(visual: int, context: int) -> Shapes:
    """Ranges of engines for prompts with up to ``visual`` rows: one build serves every budget and every case."""
    text = Range(2, 60, 128)
    return Shapes(batch=Range(1, 1, 1), text=text, kept=Range(1, min(192, visual), visual), context=context)


def _bare(name: str) -> str:
    """The model's number of "a100-80gb": many a driver's name of a GPU does not say its memory."""
    return re.sub(r"-\d+gb$", "", name)


def _made(machine: Machine, flavour: Flavour, version: tuple[int, ...]) -> Target:
    if machine.capability is None or machine.memory is None or not machine.flops or not machine.bandwidth:
        raise BackendError(f"engines are built for a GPU, and this run is on {machine.name}; give --device cuda")
    return Target(
        name=OWN,
        device=machine.name,
        kind="gpu",
        capabilities=(machine.capability,),
        memory=machine.memory,
        bandwidth=machine.bandwidth,
        flops={"fp16": machine.flops},
        precision="fp16",
        stacks=(_stack(flavour, version),),
        workspace=min(8 * GIB, machine.memory // 4),
    )


def _stack(flavour: Flavour, version: tuple[int, ...]) -> Stack:
    """A stack for exactly the TensorRT that is installed."""
    least = (*version, 0, 0)[:3]
    fused = flavour == "tensorrt-rtx" or least >= _FUSED_SINCE
    dialects: tuple[Dialect, ...] = ("fused", "base") if fused else ("base",)
    return Stack(f"{flavour}-here", flavour, least, (least[0] + 1, 0), dialects)
