"""One graph to one TensorRT plan: parsed, profiled, checked, built. The only caller of TensorRT's builder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.bundle.build import Bounds, Output
from edgeprune.bundle.manifest import Graph
from edgeprune.engines.key import Conditions
from edgeprune.engines.monitor import Interruption, Progress, make_monitor
from edgeprune.engines.network import Network, check_precision, dtype_name, loaders, parse
from edgeprune.engines.timing import timing_cache
from edgeprune.errors import BackendError
from edgeprune.nvidia.cuda import devices
from edgeprune.nvidia.library import Library


@dataclass(frozen=True)
class Built:
    """A plan in memory.

    Attributes:
        data: its bytes, as TensorRT's own buffer.
        outputs: as TensorRT understood them.
        precisions: per element type the number of multiplying layers.
    """

    data: Any
    outputs: tuple[Output, ...]
    precisions: dict[str, int]


def build_plan(
    graph: Graph, path: Path, profile: Sequence[Bounds], conditions: Conditions, progress: Progress
) -> Built:
    """Build a graph.

    Args:
        graph: of the bundle.
        path: of its .onnx file.
        profile: bounds of every input.
        conditions: library, devices, workspace.
        progress: told about the phases of the build.

    Raises:
        BackendError: TensorRT refuses the graph or the profile, or its layers are not in the asked precision.
    """
    library = conditions.library
    with Interruption() as interruption:
        parsed = parse(library, graph, path)
        _check_inputs(graph, parsed, profile)
        precisions = parsed.precisions()
        check_precision(graph, conditions.precision, precisions, library)
        monitor = make_monitor(library, progress, interruption)
        data = _serialize(parsed, _config(library, parsed, profile, conditions, monitor), conditions, graph)
    if data is None:
        reason = parsed.messages.first_error or "it gave no reason"
        raise BackendError(f"{library.name} cannot build graph {graph.name}: {reason}")
    return Built(data, parsed.outputs(), precisions)


def _check_inputs(graph: Graph, parsed: Network, profile: Sequence[Bounds]) -> None:
    """TensorRT must see the inputs that the manifest promises, and every scalar of the profile as a shape tensor."""
    seen = {tensor.name: dtype_name(tensor) for tensor in parsed.inputs}
    promised = {tensor.name: tensor.dtype for tensor in graph.inputs}
    if seen != promised:
        raise BackendError(f"graph {graph.name}: TensorRT sees inputs {seen}, the manifest says {promised}")
    sizes = {tensor.name for tensor in parsed.inputs if tensor.is_shape_tensor}
    values = {bounds.name for bounds in profile if bounds.kind == "values"}
    if sizes - values:
        raise BackendError(
            f"graph {graph.name}: TensorRT needs the values of {sorted(sizes - values)} to know shapes; the profile "
            "bounds their shape"
        )


def _config(library: Library, parsed: Network, profile: Sequence[Bounds], conditions: Conditions, monitor: Any) -> Any:
    """Polygraphy's config: profile, workspace, monitor, timing cache; devices where the flavour builds for others."""
    trt = loaders(library)
    sizes = {tensor.name for tensor in parsed.inputs if tensor.is_shape_tensor}
    optimization = trt.Profile()
    for bounds in profile:
        if bounds.kind == "values" and bounds.name not in sizes:
            optimization.add(bounds.name, min=(), opt=(), max=())  # a scalar that no shape depends on
        else:
            optimization.add(bounds.name, min=bounds.least, opt=bounds.usual, max=bounds.most)
    pool = library.module.MemoryPoolType.WORKSPACE
    settings: dict[str, Any] = {
        "profiles": [optimization],
        "memory_pool_limits": {pool: conditions.workspace},
        "progress_monitor": monitor,
    }
    if library.flavour == "tensorrt-rtx":
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        return CreateConfigRTX(**_devices(library, conditions.capabilities), **settings)
    cache = timing_cache(conditions)
    return trt.CreateConfig(load_timing_cache=str(cache) if cache and cache.is_file() else None, **settings)


def _devices(library: Library, capabilities: tuple[str, ...]) -> dict[str, Any]:
    """What Polygraphy is told of the GPUs to build for: their names, or the one that is here where it has no name.

    Raises:
        BackendError: TensorRT-RTX has no name for a GPU that is not here.
    """
    known = [name for name in vars(library.member("ComputeCapability")) if name.startswith("SM")]
    names = [f"SM{capability.replace('.', '')}" for capability in capabilities]
    if set(names) <= set(known):
        return {"compute_capabilities": [tuple(map(int, capability.split("."))) for capability in capabilities]}
    try:
        here = {gpu.capability for gpu in devices()}
    except BackendError:  # no GPU
        here = set()
    if set(capabilities) == here:
        return {"use_gpu": True}
    raise BackendError(
        f"{library.name} builds for {', '.join(known)} without a GPU; for compute capability "
        f"{', '.join(capabilities)} it needs that GPU here"
    )


def _serialize(parsed: Network, config: Any, conditions: Conditions, graph: Graph) -> Any:
    """The plan's bytes, None where TensorRT gave up."""
    from polygraphy.exception import PolygraphyException

    library, cache = conditions.library, timing_cache(conditions)
    save = str(cache) if cache else None
    triple = (parsed.builder, parsed.network, parsed.parser)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Polygraphy calls what newer TensorRTs deprecate
            return loaders(library).EngineBytesFromNetwork(triple, config=config, save_timing_cache=save)()
    except PolygraphyException:  # its text says to look at the log, which is ours
        return None
    except (RuntimeError, TypeError, ValueError) as error:  # a profile the bindings themselves refuse
        reason = parsed.messages.first_error or " ".join(str(error).split())
        raise BackendError(f"{library.name} refuses the profile of graph {graph.name}: {reason}") from error
