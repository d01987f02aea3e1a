"""A long prompt through a segment, some rows at a time: chunked prefill.

Rows see the cache and those before them, so a segment can read a prompt in pieces as it reads tokens one by one. Its
attention scores are then rows of one piece by rows so far: less memory, and those of the future are never computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgeprune.bundle.chunks import chunks
from edgeprune.bundle.manifest import Graph
from edgeprune.runtime.backend import Array, Backend
from edgeprune.runtime.cache import SegmentCache

ROWS = "S"
"""The axis of a prompt's rows in the bundle's specification."""


def run_chunks(
    segment: Graph,
    arrays: Mapping[str, Array],
    cache: SegmentCache,
    rows: int,
    backend: Backend,
    run: Callable[[dict[str, Array]], dict[str, Array]],
) -> dict[str, Array]:
    """Run a segment on a prompt's rows and fill its cache, all at once where the backend does not say how many.

    Args:
        segment: the graph.
        arrays: its inputs by name, those of the cache aside.
        cache: of the segment, empty.
        rows: of the prompt.
        backend: what runs it, and about how many rows at once.
        run: runs the graph on all of its inputs.

    Returns:
        The outputs of the whole prompt; those without an axis of rows are the last piece's.
    """
    pieces = chunks(rows, backend.chunk)
    if len(pieces) == 1:
        outputs = run({**arrays, **cache.arrays})
        cache.grow(outputs, rows)
        return outputs
    inputs = {tensor.name: tensor.shape.index(ROWS) for tensor in segment.inputs if ROWS in tensor.shape}
    whole = {name: backend.numpy(arrays[name]) for name in inputs}
    axes = {tensor.name: tensor.shape.index(ROWS) for tensor in segment.outputs if ROWS in tensor.shape}
    found: dict[str, list[Array]] = {name: [] for name in axes}
    outputs = {}
    for piece in pieces:
        feeds = {name: backend.array(np.take(value, piece, inputs[name])) for name, value in whole.items()}
        outputs = run({**arrays, **feeds, **cache.arrays})
        cache.grow(outputs, len(piece))
        for name, parts in found.items():
            parts.append(backend.numpy(outputs[name]))
    joined = {name: backend.array(np.concatenate(parts, axes[name])) for name, parts in found.items()}
    return {**outputs, **joined}
