"""ONNX Runtime, on the CPU or through its CUDA and TensorRT providers.

Sessions of one chain run one after another, so their threads never have work at the same time: they do not spin
while they wait, which would take the cores from whichever session runs. Inputs and outputs are bound, so that on a
GPU they stay there. What ONNX Runtime does silently is an error here: a provider that is not there or fails to load
is left out, and operators that a provider lacks run on the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgeprune.bundle.manifest import Graph
from edgeprune.errors import BackendError, MissingExtra, UsageError
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


class OrtBackend:
    """Sessions of ONNX Runtime.

    Args:
        threads: threads per operator of the CPU; None means one per core this process may use.
        provider: what computes.

    Raises:
        MissingExtra: onnxruntime is not installed.
        BackendError: it lacks the provider.
    """

    def __init__(self, threads: int | None = None, provider: Provider = "cpu") -> None:
        extra = "cpu" if provider == "cpu" else "gpu"
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtra("onnxruntime", extra, "running a bundle") from error
        cores = len(os.sched_getaffinity(0))
        if threads is not None and not 1 <= threads <= 4 * cores:  # every graph has threads of its own
            raise UsageError(f"--threads is {threads}, expected 1..{4 * cores} on {cores} cores")
        there = onnxruntime.get_available_providers()
        if _CHAINS[provider][0] not in there:
            raise BackendError(
                f"--provider {provider}: onnxruntime {onnxruntime.__version__} has no {_CHAINS[provider][0]}, only "
                f"{', '.join(there)}: pip uninstall onnxruntime, then pip install 'edgeprune[gpu]'"
            )
        self._ort: Any = onnxruntime
        self.provider, self.threads = provider, threads or cores
        self.name = f"onnxruntime-{provider}"
        self._device = "cpu" if provider == "cpu" else "cuda"

    def session(self, graph: Graph, path: Path) -> Session:
        """Load a graph; its weights are read from the file beside it and laid out for the device."""
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors arrive as exceptions
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self.provider != "cpu":
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            session = self._ort.InferenceSession(str(path), options, providers=list(_CHAINS[self.provider]))
        except Exception as error:  # onnxruntime's exceptions have no common base but this
            raise BackendError(f"graph {graph.name} does not load in ONNX Runtime: {_first_line(error)}") from error
        if self.provider != "cpu":
            check_assignment(session, graph, self.provider)
        return _OrtSession(session, graph, self._device)

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

    def __init__(self, session: Any, graph: Graph, device: str) -> None:
        self._session, self._graph, self._device = session, graph, device
        self._outputs = [tensor.name for tensor in graph.outputs]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            binding = self._session.io_binding()
            for name, value in feeds.items():
                binding.bind_ortvalue_input(name, value)
            for name in self._outputs:
                binding.bind_output(name, self._device)
            self._session.run_with_iobinding(binding)
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
        raise BackendError(
            f"graph {graph.name}: {wanted} did not load, ONNX Runtime would use {', '.join(session.get_providers())}; "
            "edgeprune doctor says what is missing"
        )
    assignment = getattr(session, "get_provider_graph_assignment_info", None)
    if assignment is None:
        raise BackendError(
            f"--provider {provider}: this onnxruntime does not tell which nodes run on the CPU; expected 1.24 or newer"
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


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
