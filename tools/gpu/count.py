"""Operations and bytes of a decoder's prefill, and the shortest time they can take on a GPU.

Conventions are those of ``edgeprune/estimate/cost.py``: two FLOPs per multiply-accumulate, attention as the full
rectangle, of the last layer only keys and values on all rows, the head on one row. What pruning itself computes is
left out: it is what is held against the gain. No manifest is needed, so that eager alone can be counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from tools.gpu.cases import AFTER, BEFORE, Budget
from tools.gpu.target import Speed
from tools.random_checkpoint import Decoder

_TEXT = BEFORE + AFTER


@dataclass(frozen=True)
class Work:
    """A piece of work: FLOPs, and bytes that must be read at least."""

    flops: int
    bytes: int


def prefill_work(decoder: Decoder, budget: Budget, width: int) -> tuple[Work, ...]:
    """The prefill, layer by layer, then the head.

    Args:
        decoder: its sizes.
        budget: rows per stage.
        width: bytes of an element.
    """
    works: list[Work] = []
    for rows, layers in zip(budget.rows, budget.layers, strict=True):
        for _ in range(layers):
            works.append(_layer(decoder, rows + _TEXT, len(works) + 1 == decoder.num_hidden_layers, width))
    head = decoder.hidden_size * decoder.vocab_size
    return (*works, Work(2 * head, head * width))


def flops(works: tuple[Work, ...]) -> int:
    """All operations."""
    return sum(work.flops for work in works)


def shortest_ms(works: tuple[Work, ...], speed: Speed) -> float:
    """Milliseconds if every piece takes the longer of its operations and its bytes at the GPU's best."""
    return sum(max(work.flops / speed.flops, work.bytes / speed.bandwidth) for work in works) * 1e3


def _layer(decoder: Decoder, rows: int, last: bool, width: int) -> Work:
    hidden, heads = decoder.hidden_size, decoder.num_attention_heads
    kv = hidden // heads * decoder.num_key_value_heads
    per_row = 2 * hidden * hidden + 3 * hidden * decoder.intermediate_size  # query, output, feed-forward
    keys = 2 * hidden * kv
    live = 1 if last else rows
    macs = rows * keys + live * per_row + 2 * live * rows * hidden
    return Work(2 * macs, (per_row + keys) * width)
