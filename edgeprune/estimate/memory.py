"""Bytes that a model takes before it is there: to run it, by formula, and to build its engines.

What a finished bundle takes is counted from its graphs, in ``engines.memory``; both share the rules of a build.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.estimate.cost import SIZES, GraphCost
from edgeprune.estimate.decoder import kv_width, q_width
from edgeprune.estimate.encoder import tower_rows, vision_cost
from edgeprune.estimate.request import Request

BUILDER_COPIES = 3.5
"""Peak of a build in multiples of the graph's weights, measured with TensorRT-RTX 1.7 (a test holds it to that)."""
BUILDER_BASE = 400 << 20
"""Bytes that a builder takes whatever it builds: its libraries and Python."""


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Attributes:
        weights: of all graphs, the method's own included; beside an encoder of its own lies the one that it replaces.
        embedding: of the table of token embeddings, a mapped file of which rows are read: not part of ``run``.
        cache: keys and values of each segment, at the end of the answer or at the context that was asked for.
        activations: what lies between a graph's layers at its largest; graphs take turns.
        build: of the host, at the peak of building the largest graph into an engine.
        run: weights, activations, and the cache twice: a step reads one copy and writes the other.
    """

    weights: int
    embedding: int
    cache: tuple[int, ...]
    activations: int
    build: int
    run: int


def memory_of(request: Request, costs: Sequence[GraphCost], cached: Sequence[int]) -> Memory:
    """What a request takes.

    Args:
        request: of a model.
        costs: of its prompt.
        cached: rows in the cache of every segment at the end.
    """
    d, element = request.shape.decoder, request.precision.element
    largest = {"vision": vision_cost(request.shape, request.precision, ()).weights}
    largest |= {cost.graph: cost.cost.weights for cost in costs}
    cache = cache_bytes(request, cached)
    weights, activations = sum(largest.values()), activation_bytes(request)
    return Memory(
        weights=weights,
        embedding=d.vocab * d.hidden * element,
        cache=cache,
        activations=activations,
        build=build_bytes(max(largest.values())),
        run=weights + activations + 2 * sum(cache),
    )


def cache_bytes(request: Request, cached: Sequence[int]) -> tuple[int, ...]:
    """Keys and values of every segment that has so many rows in its cache."""
    row = 2 * kv_width(request.shape.decoder) * request.precision.element
    return tuple((last - first) * rows * row for (first, last), rows in zip(request.bounds, cached, strict=True))


def build_bytes(weights: int) -> int:
    """Bytes of host memory that building one graph takes at its peak; graphs are built one after another."""
    return int(BUILDER_COPIES * weights) + BUILDER_BASE


def activation_bytes(request: Request) -> int:
    """Peak of a prompt's values that are alive at once: of the encoder, or of the decoder's longest segment.

    Attention holds its scores before and after softmax, in fp32, beside queries, keys and values; the feed-forward
    three of its widths beside three of the rows'. Kernels that fuse these take less.
    """
    shape, v, d, element = request.shape, request.shape.vision, request.shape.decoder, request.precision.element
    encoder = shape.runs * _layer(tower_rows(shape), v.heads, v.hidden, v.hidden, 2 * v.intermediate, element)
    return max(encoder, _layer(max(request.rows), d.heads, q_width(d), d.hidden, 3 * d.intermediate, element))


def _layer(rows: int, heads: int, q: int, width: int, feed_forward: int, element: int) -> int:
    attention = 2 * heads * rows**2 * SIZES["fp32"] + 3 * rows * q * element
    return max(attention, rows * (feed_forward + 3 * width) * element)
