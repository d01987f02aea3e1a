"""ONNX Runtime on the CPU.

Sessions of one chain run one after another, so their threads never have work at the same time: they do not spin
while they wait, which would take the cores from whichever session runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.bundle.manifest import Graph
from edgeprune.errors import BackendError, MissingExtra, UsageError
from edgeprune.runtime.backend import Array, Session


class OrtBackend:
    """ONNX Runtime's CPU provider.

    Args:
        threads: threads per operator; None means one per core this process may use.

    Raises:
        MissingExtra: onnxruntime is not installed.
    """

    name = "onnxruntime-cpu"

    def __init__(self, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtra("onnxruntime", "cpu", "running a bundle") from error
        cores = len(os.sched_getaffinity(0))
        if threads is not None and not 1 <= threads <= 4 * cores:  # every graph has threads of its own
            raise UsageError(f"--threads is {threads}, expected 1..{4 * cores} on {cores} cores")
        self._ort: Any = onnxruntime
        self.threads = threads or cores

    def session(self, graph: Graph, path: Path) -> Session:
        """Load a graph; its weights are read from the file beside it and laid out for this CPU."""
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors arrive as exceptions
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = self._ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base but this
            raise BackendError(f"graph {graph.name} does not load in ONNX Runtime: {_first_line(error)}") from error
        return _OrtSession(session, graph)

    def array(self, value: NDArray[Any]) -> Array:
        """Wrap a numpy array without copying it."""
        return self._ort.OrtValue.ortvalue_from_numpy(np.asarray(value, order="C"))

    def numpy(self, array: Array) -> NDArray[Any]:
        """Copy to numpy."""
        value: NDArray[Any] = array.numpy()
        return value


class _OrtSession:
    """A loaded graph and the order of its outputs."""

    def __init__(self, session: Any, graph: Graph) -> None:
        self._session, self._graph = session, graph
        self._outputs = [tensor.name for tensor in graph.outputs]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            values = self._session.run_with_ort_values(self._outputs, feeds)
        except Exception as error:  # as above
            raise BackendError(f"graph {self._graph.name} failed in ONNX Runtime: {_first_line(error)}") from error
        return dict(zip(self._outputs, values, strict=True))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
