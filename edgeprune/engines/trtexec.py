"""The ``trtexec`` command line that builds the same plan, for whoever wants to look into it with NVIDIA's own tool."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from edgeprune.bundle.build import Bounds
from edgeprune.bundle.manifest import Graph
from edgeprune.engines.examine import Request
from edgeprune.recipes.target import Flavour

_PROGRAM: dict[Flavour, str] = {"tensorrt": "trtexec", "tensorrt-rtx": "tensorrt_rtx"}


def trtexec_line(graph: Graph, path: Path, plan: Path, profile: Sequence[Bounds], request: Request) -> str:
    """One line for a shell.

    Args:
        graph: of the bundle.
        path: of its .onnx file.
        plan: where the plan shall go.
        profile: bounds of every input; those of fixed shape are left out, as trtexec expects.
        request: target, stack and precision.
    """
    target, stack = request.target, request.stack
    words = [_PROGRAM[stack.flavour], f"--onnx={path}", f"--saveEngine={plan}"]
    if stack.flavour == "tensorrt-rtx":
        words.append(f"--computeCapabilities={','.join(c.replace('.', '') for c in target.capabilities)}")
    elif stack.least < (11,):  # from 11 on everything is strongly typed
        words.append("--stronglyTyped")
    words.append(f"--memPoolSize=workspace:{target.workspace / 2**20:g}M")
    varying = {tensor.name for tensor in graph.inputs if not tensor.shape or not all(map(_is_fixed, tensor.shape))}
    for option, member in (("minShapes", "least"), ("optShapes", "usual"), ("maxShapes", "most")):
        shapes = [f"{bounds.name}:{_dims(getattr(bounds, member))}" for bounds in profile if bounds.name in varying]
        if shapes:
            words.append(f"--{option}={','.join(shapes)}")
    words.append("--skipInference")
    return shlex.join(words)


def _is_fixed(axis: int | str) -> bool:
    return isinstance(axis, int)


def _dims(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
