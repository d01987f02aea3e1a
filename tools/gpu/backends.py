"""The compiled backends, tried in turn: each must build, run and verify a tiny model before a large one is given to it.

An attempt is made in a process of its own, except for ONNX Runtime on the CPU; building always is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal

import numpy as np

from edgeprune.bundle.manifest import Dialect, Dtype
from edgeprune.bundle.plans import plan_folder, read_build
from edgeprune.bundle.store import Bundle, open_bundle
from edgeprune.checkpoint.source import Source
from edgeprune.engines.build import build_bundle
from edgeprune.engines.choose import Choice, available_bytes
from edgeprune.engines.examine import Request
from edgeprune.errors import BackendError, UsageError
from edgeprune.export import bundle as export
from edgeprune.nvidia.cuda import devices
from edgeprune.nvidia.library import EXTRAS, installed, open_library
from edgeprune.recipes.target import Flavour, Shapes
from edgeprune.runtime.backend import Backend
from edgeprune.runtime.chain import Chain, Clock, Text
from edgeprune.runtime.ort import OrtBackend
from edgeprune.runtime.trt import TrtBackend
from edgeprune.verify import verify_bundle
from tools.gpu.cases import METHOD
from tools.gpu.child import in_child, reason
from tools.gpu.machine import Machine
from tools.gpu.probe import probe
from tools.gpu.report import Attempt
from tools.gpu.target import ranges, target_for

BackendName = Literal["tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime-cpu"]

ON_GPU: tuple[BackendName, ...] = ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda")
"""In the order in which "auto" tries them."""
_FLAVOURS: dict[str, Flavour] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx"}


@dataclass(frozen=True)
class Wanted:
    """A backend and the dialect of its graphs."""

    name: BackendName
    dialect: Dialect


def export_random(checkpoint: Path, dtype: Dtype, dialect: Dialect, out: Path) -> Bundle:
    """Export a checkpoint; a bundle that is there is opened as it is."""
    if out.is_dir():
        return open_bundle(out, check_hashes=False)
    source = Source(checkpoint, f"random/{checkpoint.name}", None)
    return export.export_bundle(export.Request(source, (METHOD,), dtype, dialect), out)


def attempt(wanted: Wanted, bundle: Path, checkpoint: Path, machine: Machine, limit: float | None) -> Attempt:
    """Give a tiny model to a backend: build it, run it, verify every graph and the chain against PyTorch.

    Args:
        wanted: what to try.
        bundle: of the tiny model, in the dialect.
        checkpoint: that it was exported from.
        machine: to build for.
        limit: seconds it may take.

    Returns:
        Whether it works, and if not the reason in the words of what failed.
    """
    start = perf_counter()
    try:
        if wanted.name == "onnxruntime-cpu":
            return _try(wanted, bundle, checkpoint, machine)
        return in_child(_try, wanted, bundle, checkpoint, machine, limit=limit)
    except Exception as error:  # the reason is reported, whatever it is, and the next backend tried
        text = reason(error) + (_probed(limit) if wanted.name == "tensorrt-rtx" else "")
        return Attempt(wanted.name, wanted.dialect, False, text, None, round(perf_counter() - start, 2))


def build_here(
    wanted: Wanted, bundle: Path, machine: Machine, shapes: Shapes, precision: Dtype, limit: float | None
) -> str | None:
    """Build a bundle's plans in a process of its own.

    Args:
        wanted: what builds.
        bundle: its folder.
        machine: to build for.
        shapes: ranges of the engines.
        precision: element type.
        limit: seconds it may take.

    Returns:
        The key of the plans; None for a backend that runs the graphs as they are.

    Raises:
        BackendError: it cannot be built, or took too long.
    """
    if wanted.name not in _FLAVOURS:
        return None
    return in_child(_build, _FLAVOURS[wanted.name], bundle, machine, shapes, precision, limit=limit)


def open_here(wanted: Wanted, bundle: Bundle, key: str | None) -> Backend:
    """Open a backend for a bundle; ``key`` is that of its plans.

    Raises:
        BackendError: it cannot run here.
        MissingExtra: it is not installed.
    """
    if wanted.name == "onnxruntime-cpu":
        return OrtBackend()
    if wanted.name == "onnxruntime-cuda":
        return OrtBackend(provider="cuda")
    assert key is not None  # built before
    folder = plan_folder(bundle.root, key)
    return TrtBackend(read_build(folder), folder, open_library(_FLAVOURS[wanted.name]))


def _probed(limit: float | None) -> str:
    """What TensorRT-RTX itself says of this GPU, for the end of a reason; nothing where it is not installed."""
    if "tensorrt-rtx" not in installed():
        return ""
    try:
        return f" (a single product, {in_child(probe, limit=limit)})"
    except BackendError as error:
        return f" (a single product: {error})"


def _try(wanted: Wanted, folder: Path, checkpoint: Path, machine: Machine) -> Attempt:
    start = perf_counter()
    bundle = open_bundle(folder, check_hashes=False)
    key = None
    if wanted.name in _FLAVOURS:
        shapes = ranges(bundle.manifest.vision.tokens, bundle.manifest.decoder.context)
        key = _build(_FLAVOURS[wanted.name], folder, machine, shapes, bundle.manifest.dtype)
    backend = open_here(wanted, bundle, key)
    try:
        _run(bundle, backend)
        report = verify_bundle(bundle, checkpoint, backend)
    finally:
        backend.close()
    failures = tuple(f"{check.name}: {failure}" for check in report.checks for failure in check.failures)
    return Attempt(
        backend=wanted.name,
        dialect=wanted.dialect,
        works=True,
        reason=None,
        library=backend.name,
        seconds=round(perf_counter() - start, 2),
        checks=len(report.checks),
        failed=sum(not check.ok for check in report.checks),
        failures=failures,
    )


def _run(bundle: Bundle, backend: Backend) -> None:
    """One prompt and one token, so that what cannot run at all says so in its own words, not as a failed check."""
    chain, facts = Chain(bundle, backend), bundle.manifest
    for method in facts.methods:
        chain.open_method(method)
    visual = np.zeros((1, facts.vision.tokens, facts.decoder.hidden), dtype=np.float32)
    prefill = chain.prefill_rows(visual, Text(((1,), (1,))), None, None, Clock())
    chain.decode(prefill.logits.argmax(axis=-1), prefill.cache, Clock())


def _build(flavour: Flavour, folder: Path, machine: Machine, shapes: Shapes, precision: Dtype) -> str:
    library = open_library(flavour)
    target, stack = target_for(machine, flavour, library.version)
    bundle = open_bundle(folder, check_hashes=False)
    if bundle.manifest.dialect not in stack.dialects:
        raise BackendError(f"{library.name} takes {' or '.join(stack.dialects)}, not {bundle.manifest.dialect}")
    device = devices(extra=EXTRAS[flavour])[0].name if flavour == "tensorrt" else None
    request = Request(target, stack, precision, shapes)
    return build_bundle(bundle, request, Choice(stack, library, device, None), available_bytes()).key


def candidates(asked: str, dialect: str, machine: Machine) -> tuple[Sequence[Wanted], ...]:
    """What to try, backend by backend; of each its dialects, in order of preference.

    Args:
        asked: "auto", "eager" or a backend.
        dialect: "both", or one; of "both" every one is wanted that works, else the first.
        machine: where.

    Raises:
        UsageError: the backend is none of this device's.
    """
    if asked == "eager":
        return ()
    names: tuple[BackendName, ...] = ON_GPU if machine.device == "cuda" else ("onnxruntime-cpu",)
    if asked not in ("auto", *names):
        other = "cpu" if machine.device == "cuda" else "cuda"
        raise UsageError(f"--backend {asked} has no place on --device {machine.device}; give --device {other}")
    dialects: tuple[Dialect, ...] = ("base",) if dialect == "base" else ("fused",) if dialect == "fused" else _BOTH
    return tuple([Wanted(name, one) for one in dialects] for name in names if asked in ("auto", name))


_BOTH: tuple[Dialect, ...] = ("fused", "base")
