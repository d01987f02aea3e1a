"""What a backend must offer: sessions that map named arrays to named arrays.

Arrays are opaque and stay where the backend keeps them; only what the host must read (logits, kept indices) is
turned into numpy. Nothing here knows a runtime library.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeprune.bundle.manifest import Graph

Array: TypeAlias = Any
"""An array of some backend, opaque to everyone else."""

NUMPY: dict[str, np.dtype[Any]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "int64": np.dtype(np.int64),
}
"""Element types of the manifest in numpy."""


class Session(Protocol):
    """One loaded graph."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph on all of its inputs; returns all of its outputs, which are the caller's.

        Raises:
            BackendError: the graph failed.
        """


class Backend(Protocol):
    """A way to run graphs."""

    @property
    def name(self) -> str:
        """What reports call it, for example "onnxruntime-cpu"."""

    @property
    def chunk(self) -> int | None:
        """Rows of a prompt that a segment runs on at once, about; None for all of them."""

    def session(self, graph: Graph, path: Path) -> Session:
        """Load a graph.

        Raises:
            BackendError: the file does not load.
        """

    def array(self, value: NDArray[Any]) -> Array:
        """Hand a numpy array over; it must not be written to afterwards."""

    def numpy(self, array: Array) -> NDArray[Any]:
        """Copy an array to the host; waits for the work that makes it.

        Raises:
            BackendError: that work failed.
        """

    @property
    def free_bytes(self) -> int | None:
        """Bytes the device has left for arrays; None where they live in the host's memory."""

    def wait(self) -> None:
        """Wait for all work, where ``run`` returns before it is done.

        Raises:
            BackendError: it failed.
        """

    def close(self) -> None:
        """Free sessions and arrays; nothing can be run afterwards. May be called again."""
