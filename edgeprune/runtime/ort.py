"""ONNX Runtime, on the CPU or through its CUDA and TensorRT providers.

Sessions of one chain run one after another, so their threads never have work at the same time: they do not spin
while they wait, which would take the cores from whichever session runs. Inputs and outputs are bound, so that on a
GPU they stay there. What ONNX Runtime does silently is an error here: a provider that is not there or fails to load
is left out, and operators that a provider lacks run on the CPU.

The options for the TensorRT provider follow ONNX Runtime's documentation; they have not run on a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import math
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgeprune.bundle.manifest import Graph, Tensor
from edgeprune.errors import BackendError, MissingExtra, UsageError
from edgeprune.local import cache_folder
from edgeprune.runtime.backend import Array, Session

Provider = Literal["cpu", "cuda", "tensorrt"]
PROVIDERS: tuple[Provider, ...] = get_args(Provider)

_CHAINS: dict[Provider, tuple[str, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
}
"""What ONNX Runtime is asked for, the preferred one first."""

_ON_PURPOSE = {"Shape", "Size", "Constant", "ConstantOfShape", "Range", "Cast", "Add", "Sub", "Mul", "Div", "Mod"}
_ON_PURPOSE |= {"Min", "Max", "Equal", "Greater", "Less", "Where", "Gather", "Slice", "Concat", "Squeeze"}
_ON_PURPOSE |= {"Unsqueeze", "Reshape", "Expand"}
"""Operators on shapes and counts, which ONNX Runtime leaves on the CPU beside a GPU provider because it is faster;
on activations a GPU provider takes all of them."""

_AXES = {
    "B": (1, 1, 1),
    "K": (1, 192, 3328),
    "C": (1, 1, 13),
    "N": (1, 256, 3328),
    "V": (1, 192, 3328),
    "J": (1, 4, 4),
    "t": (1, 64, 1024),
    "S": (1, 256, 3904),  # all rows kept, with text around them
    "P": (0, 256, 4096),
    "w": (1, 16, 1024),
    "p": (1, 1, 16),
    "l": (1, 256, 3328),
}
"""Least, usual and most of the bundle's axes in TensorRT's profiles: one prompt, a context of 4096."""

_ELSEWHERE = "edgeprune build, then edgeprune run --backend tensorrt, needs no onnxruntime"

LARGE = 8 << 20
"""Bytes of a graph's inputs, its cache aside, from which on its arena is emptied after a run: a thousand rows."""
_BYTES = {"fp32": 4, "fp16": 2, "int64": 8}

CHUNK = 256
"""Rows of a prompt, less than twice that many, that the CPU runs a segment on at once: it writes attention scores out.

With 1.1 billion parameters in fp32 on two cores, 2,928 rows took 63 s at once, 44 by 512, 40 to 44 by 256, 51 by 128.
"""


class OrtBackend:
    """Sessions of ONNX Runtime.

    Args:
        threads: threads per operator of the CPU; None means one per core this process may use.
        provider: what computes.

    Raises:
        MissingExtra: onnxruntime is not installed; for a GPU a BackendError says so, as what to install depends.
        BackendError: it lacks the provider.
    """

    def __init__(self, threads: int | None = None, provider: Provider = "cpu") -> None:
        try:
            import onnxruntime
        except ImportError as error:
            if provider == "cpu":
                raise MissingExtra("onnxruntime", "cpu", "running a bundle") from error
            raise BackendError(f"--provider {provider}: onnxruntime is not installed: {_advice()}") from error
        cores = len(os.sched_getaffinity(0))
        if threads is not None and not 1 <= threads <= 4 * cores:  # every graph has threads of its own
            raise UsageError(f"--threads is {threads}, expected 1..{4 * cores} on {cores} cores")
        there = onnxruntime.get_available_providers()
        if _CHAINS[provider][0] not in there:
            raise BackendError(
                f"--provider {provider}: onnxruntime {onnxruntime.__version__} has no {_CHAINS[provider][0]}, only "
                f"{', '.join(there)}: {_advice()}"
            )
        if provider != "cpu":
            preload(onnxruntime)
        self._ort: Any = onnxruntime
        self.provider, self.threads = provider, threads or cores
        self.name = f"onnxruntime-{provider}"
        self.chunk = CHUNK if provider == "cpu" else None
        self._device = "cpu" if provider == "cpu" else "cuda"

    def session(self, graph: Graph, path: Path) -> Session:
        """Load a graph; its weights are read from the file beside it and laid out for the device.

        Raises:
            BackendError: the graph or the provider does not load; the message has the reason.
        """
        # A count that is an input has no shape, and a profile could only guess at its values: CUDA runs those graphs.
        counts = any(not tensor.shape for tensor in graph.inputs)
        provider: Provider = "cuda" if counts and self.provider == "tensorrt" else self.provider
        wanted: list[tuple[str, dict[str, object]]] = [(name, {}) for name in _CHAINS[provider]]
        if provider == "tensorrt":
            wanted[0] = (wanted[0][0], tensorrt_options(graph, cache_folder()))
            with contextlib.suppress(
                OSError, KeyError
            ):  # the provider makes one level, and has its own words for errors
                Path(str(wanted[0][1]["trt_engine_cache_path"])).mkdir(mode=0o700, parents=True, exist_ok=True)
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors arrive as exceptions
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if provider != "cpu":
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:  # without its fallback, which tries the CPU instead and prints the reason to stdout
            session = self._ort.InferenceSession(str(path), options, providers=wanted, enable_fallback=0)
        except Exception as error:  # onnxruntime's exceptions have no common base but this
            why = None if provider == "cpu" else load_problem(_CHAINS[provider][0])
            if why is not None:
                raise _not_loaded(graph, _CHAINS[provider][0], why) from error
            raise BackendError(f"graph {graph.name} does not load in ONNX Runtime: {_first_line(error)}") from error
        if provider != "cpu":
            check_assignment(session, graph, provider)
        return _OrtSession(session, graph, self._device, self._large_run())

    def _large_run(self) -> Any:
        """Options of a run that takes much: the arena gives back all but its first piece; None for a GPU's.

        Every session has an arena of its own, and thousands of rows leave gigabytes in each: a prompt of LLaVA-NeXT
        would hold the attention scores of all segments at once.
        """
        if self.provider != "cpu":
            return None
        options = self._ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return options

    def array(self, value: NDArray[Any]) -> Array:
        """A numpy array where the provider computes; on the CPU it is not copied."""
        return self._ort.OrtValue.ortvalue_from_numpy(np.asarray(value, order="C"), self._device)

    def numpy(self, array: Array) -> NDArray[Any]:
        """Copy to numpy."""
        value: NDArray[Any] = array.numpy()
        return value

    @property
    def free_bytes(self) -> int | None:
        """Not known: ONNX Runtime's arena does not tell what of its memory is free."""
        return None

    def wait(self) -> None:
        """Nothing to wait for: a session returns when it is done."""

    def close(self) -> None:
        """Nothing to free: sessions go with whoever holds them."""


class _OrtSession:
    """A loaded graph and the order of its outputs."""

    def __init__(self, session: Any, graph: Graph, device: str, large: Any) -> None:
        self._session, self._graph, self._device, self._large = session, graph, device, large
        self._outputs = [tensor.name for tensor in graph.outputs]
        # A cache is no measure: it is as long in a decode step, which takes little.
        self._measured = {t.name: _BYTES[t.dtype] for t in graph.inputs if not t.name.startswith("past_")}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            binding = self._session.io_binding()
            for name, value in feeds.items():
                binding.bind_ortvalue_input(name, value)
            for name in self._outputs:
                binding.bind_output(name, self._device)
            size = sum(math.prod(feeds[name].shape()) * width for name, width in self._measured.items())
            self._session.run_with_iobinding(binding, self._large if size >= LARGE else None)
            values = binding.get_outputs()
        except Exception as error:  # as above
            raise BackendError(f"graph {self._graph.name} failed in ONNX Runtime: {_first_line(error)}") from error
        return dict(zip(self._outputs, values, strict=True))


def check_assignment(session: Any, graph: Graph, provider: Provider) -> None:
    """Raise if a session does not compute where it was asked to.

    Args:
        session: ONNX Runtime's, made with "session.record_ep_graph_assignment_info".
        graph: for the message.
        provider: what was asked for.

    Raises:
        BackendError: the provider did not load, or put nodes on the CPU; the message names the first ones.
    """
    wanted = _CHAINS[provider][0]
    if wanted not in session.get_providers():
        there = ", ".join(session.get_providers())
        raise _not_loaded(graph, wanted, load_problem(wanted) or f"ONNX Runtime would use {there}")
    assignment = getattr(session, "get_provider_graph_assignment_info", None)
    if assignment is None:
        raise BackendError(
            f"--provider {provider}: this onnxruntime does not tell what runs on the CPU, expected 1.24 or newer: "
            f"{_advice()}"
        )
    fallen = list(fallen_back((part.ep_name, part.get_nodes()) for part in assignment()))
    if fallen:
        names = ", ".join(f"{node.op_type} {node.name!r}" for node in fallen[:3])
        more = f" and {len(fallen) - 3} more" if len(fallen) > 3 else ""
        raise BackendError(f"graph {graph.name}: {wanted} put {len(fallen)} nodes on the CPU: {names}{more}")


def fallen_back(parts: Iterable[tuple[str, Iterable[Any]]]) -> Iterable[Any]:
    """Nodes on the CPU that are not there on purpose.

    Args:
        parts: of a session's graph, the provider's name and the nodes it was given.
    """
    for provider, nodes in parts:
        if provider == "CPUExecutionProvider":
            yield from (node for node in nodes if node.op_type not in _ON_PURPOSE)


def tensorrt_options(graph: Graph, cache: Path | None) -> dict[str, object]:
    """What ONNX Runtime's TensorRT provider is told about a graph.

    Without a profile of its own it takes the shapes it meets and builds the engine anew whenever one lies outside of
    them, which a growing cache does at every token. Its name for a stored engine is made from names in the graph and
    leaves the weights out, so every graph's engines have a folder that the weights name.

    Args:
        graph: of the bundle; all of its inputs have axes.
        cache: folder for engines and timings, which are native code; None builds anew in every process.

    Returns:
        Options by ONNX Runtime's names; a profile is "input:1x8,other:1x8", once each for min, opt and max.

    Raises:
        BackendError: an axis that varies has a name without a range.
    """
    half = any(tensor.dtype == "fp16" for tensor in (*graph.inputs, *graph.outputs))
    options: dict[str, object] = {"trt_fp16_enable": half, "trt_layer_norm_fp32_fallback": half}
    if cache is not None:
        weights = graph.data.sha256 if graph.data else ""
        folder = cache / "onnxruntime-tensorrt"
        engines = folder / hashlib.sha256((graph.file.sha256 + weights).encode()).hexdigest()
        options |= {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(engines)}
        options |= {"trt_timing_cache_enable": True, "trt_timing_cache_path": str(folder)}
    varying = [tensor for tensor in graph.inputs if any(isinstance(axis, str) for axis in tensor.shape)]
    for index, end in enumerate(("min", "opt", "max")):
        shapes = (
            f"{tensor.name}:{'x'.join(str(_span(graph, tensor, axis)[index]) for axis in tensor.shape)}"
            for tensor in varying
        )
        options |= {f"trt_profile_{end}_shapes": ",".join(shapes)} if varying else {}
    return options


def gpu_advice(python: tuple[int, int], architecture: str) -> str:
    """The commands that lead to a GPU.

    Args:
        python: version of the interpreter.
        architecture: "x86_64", "aarch64".
    """
    if python < (3, 11):  # the newest for 3.10 is 1.23, which does not tell where its nodes run
        return f"there is no onnxruntime-gpu 1.24 for Python {python[0]}.{python[1]}; {_ELSEWHERE}"
    install = "pip uninstall onnxruntime, then pip install 'edgeprune[gpu]'"
    if architecture == "aarch64":
        return f"{install} where the driver runs CUDA 13; elsewhere, as on JetPack 6, {_ELSEWHERE}"
    return install


def preload(onnxruntime: Any) -> None:
    """Load the CUDA and cuDNN that pip installed, which the providers' own search does not find.

    Args:
        onnxruntime: the module; before 1.21 it has no function for it.
    """
    load = getattr(onnxruntime, "preload_dlls", None)
    if load is not None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what is not there; whether that matters shows later
            load()


def load_problem(provider: str) -> str | None:
    """Why a provider's library does not load, in the loader's words; None where it does or has none of its own.

    ONNX Runtime writes this to its log alone, and goes on without the provider.

    Args:
        provider: "CUDAExecutionProvider".
    """
    import onnxruntime

    word = provider.removesuffix("ExecutionProvider").lower()
    folder = Path(onnxruntime.__file__).parent / "capi"
    for name in ("shared", word):  # the second takes symbols from the first
        path = folder / f"libonnxruntime_providers_{name}.so"
        try:
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL) if path.exists() else None
        except OSError as error:
            return str(error)
    return None


def _not_loaded(graph: Graph, provider: str, why: str) -> BackendError:
    mend = "edgeprune doctor says what is missing"
    if "libnvinfer" in why:
        mend = f"that TensorRT must be on LD_LIBRARY_PATH; {_ELSEWHERE}"
    elif "libcu" in why:
        mend = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    return BackendError(f"graph {graph.name}: {provider} did not load: {why}; {mend}")


def _span(graph: Graph, tensor: Tensor, axis: int | str) -> tuple[int, int, int]:
    if isinstance(axis, int):
        return (axis, axis, axis)
    if axis not in _AXES:
        raise BackendError(
            f"--provider tensorrt: graph {graph.name}: no range is known for axis {axis!r} of {tensor.name!r}; "
            f"known: {', '.join(_AXES)}"
        )
    return _AXES[axis]


def _advice() -> str:
    return gpu_advice((sys.version_info[0], sys.version_info[1]), platform.machine())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
