"""The ``trtexec`` command line that builds the same plan, for whoever wants to look into it with NVIDIA's own tool."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from edgeprune.bundle.build import Bounds
from edgeprune.recipes.target import Flavour

_PROGRAM: dict[Flavour, str] = {"tensorrt": "trtexec", "tensorrt-rtx": "tensorrt_rtx"}


def trtexec_line(
    path: Path, plan: Path, profile: Sequence[Bounds], flavour: Flavour, version: tuple[int, ...], workspace: int
) -> str:
    """One line for a shell.

    Args:
        path: of the .onnx file.
        plan: where the plan shall go.
        profile: bounds of every input; those without anything that varies are left out, as trtexec expects.
        flavour, version: of the TensorRT; from 11 on everything is strongly typed and the option says nothing.
        workspace: bytes.
    """
    words = [_PROGRAM[flavour], f"--onnx={path}", f"--saveEngine={plan}"]
    if flavour == "tensorrt" and version < (11,):
        words.append("--stronglyTyped")
    words.append(f"--memPoolSize=workspace:{workspace / 2**20:g}M")
    dynamic = [bounds for bounds in profile if bounds.kind == "values" or bounds.least != bounds.most]
    if dynamic:
        for option, member in (("minShapes", "least"), ("optShapes", "usual"), ("maxShapes", "most")):
            shapes = ",".join(f"{b.name}:{_dims(getattr(b, member))}" for b in dynamic)
            words.append(f"--{option}={shapes}")
    words.append("--skipInference")
    return shlex.join(words)


def _dims(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
