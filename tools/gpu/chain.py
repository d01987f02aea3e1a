"""The chain of graphs at one budget, on whatever backend.

The visual rows lie where the backend computes before the clock starts, as the projector leaves them there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.bundle.manifest import Graph
from edgeprune.runtime.backend import Array, Backend, Session
from edgeprune.runtime.chain import Chain, Clock, Prefill, Text
from edgeprune.runtime.pixels import Picture, Pixels
from tools.gpu.cases import METHOD, Budget
from tools.gpu.variant import Engine, Prompt


class Resident:
    """A backend that remembers arrays it has handed over: giving one again copies nothing.

    Args:
        backend: does the work.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._there: list[tuple[NDArray[Any], Array]] = []

    @property
    def name(self) -> str:
        """See ``Backend``."""
        return self._backend.name

    @property
    def chunk(self) -> int | None:
        """See ``Backend``."""
        return self._backend.chunk

    def keep(self, value: NDArray[Any]) -> None:
        """Hand an array over now, for all the times that this very object is given."""
        self._there.append((value, self._backend.array(value)))

    def forget(self) -> None:
        """Drop what was kept."""
        self._there.clear()

    def session(self, graph: Graph, path: Path) -> Session:
        """See ``Backend``."""
        return self._backend.session(graph, path)

    def array(self, value: NDArray[Any]) -> Array:
        """See ``Backend``."""
        for known, there in self._there:
            if known is value:
                return there
        return self._backend.array(value)

    def numpy(self, array: Array) -> NDArray[Any]:
        """See ``Backend``."""
        return self._backend.numpy(array)

    @property
    def free_bytes(self) -> int | None:
        """See ``Backend``."""
        return self._backend.free_bytes

    def wait(self) -> None:
        """See ``Backend``."""
        self._backend.wait()

    def close(self) -> None:
        """See ``Backend``."""
        self.forget()
        self._backend.close()


class ChainVariant:
    """The chain at one budget.

    Args:
        chain: loaded, its backend a ``Resident``.
        resident: that backend.
        budget: what to keep.
        prompt: what to run.
    """

    engine: Engine = "chain"

    def __init__(self, chain: Chain, resident: Resident, budget: Budget, prompt: Prompt) -> None:
        self.budget, self._chain, self._prompt = budget, chain, prompt
        self._method = chain.manifest.method(METHOD) if budget.schedule else None
        if self._method is not None:
            chain.open_method(self._method)
        self._visual = np.ascontiguousarray(prompt.visual[:, : budget.rows[0]])
        resident.keep(self._visual)
        self._prefill: Prefill | None = None
        self._parts: Mapping[str, float] = {}
        self._token = np.zeros(1, dtype=np.int64)

    @property
    def from_pixels(self) -> Callable[[], None] | None:
        return None if self._prompt.pixels is None else self._from_pixels

    def prefill(self) -> None:
        prompt, clock = self._prompt, Clock()
        self._prefill = None  # its cache's memory first
        text = Text((prompt.before, prompt.after))
        self._found(self._chain.prefill_rows(self._visual, text, self._method, self.budget.schedule, clock))
        self._parts = clock.seconds

    def step(self) -> None:
        assert self._prefill is not None  # a step follows a prefill
        self._token = self._chain.decode(self._token, self._prefill.cache, Clock()).argmax(axis=-1)

    def logits(self) -> NDArray[np.float32]:
        assert self._prefill is not None  # asked after a prefill
        found: NDArray[np.float32] = self._prefill.logits[0]
        return found

    def kept(self) -> tuple[NDArray[np.int64], ...]:
        assert self._prefill is not None  # asked after a prefill
        return tuple(stage.kept[0] for stage in self._prefill.stages if isinstance(stage.cut, int))

    def parts_ms(self) -> dict[str, float]:
        return {stage: seconds * 1e3 for stage, seconds in self._parts.items()}

    def _from_pixels(self) -> None:
        prompt = self._prompt
        assert prompt.pixels is not None  # asked before
        self._prefill = None
        text = Text((prompt.before, prompt.after))
        height, width = prompt.pixels.shape[2:]
        pixels = Pixels({"pixel_values": prompt.pixels}, (Picture(1, (height, width)),))
        self._found(self._chain.prefill(pixels, text, self._method, self.budget.schedule, Clock()))

    def _found(self, prefill: Prefill) -> None:
        self._prefill = prefill
        self._token = prefill.logits.argmax(axis=-1)
