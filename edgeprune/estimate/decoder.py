"""What the decoder takes, segment by segment, by its sizes. Conventions: ``cost``.

Biases of queries, keys and values, which Qwen2 has, are left out: they are below a thousandth of a layer.
"""

from __future__ import annotations

from edgeprune.bundle.sizes import Decoder
from edgeprune.estimate.cost import SIZES, Cost
from edgeprune.estimate.precision import Precision


def assemble_cost(
    decoder: Decoder, precision: Precision, text: int, given: int, rows: int, newline: bool = False, taps: int = 0
) -> Cost:
    """Text and visual rows put together by a list of rows, one graph without products where none is blended.

    Args:
        decoder: its sizes.
        precision: of its elements.
        text: rows of text.
        given: visual rows of all runs.
        rows: that come out.
        newline: whether there is a newline row among the weights.
        taps: rows that each of them is blended from; 0 where none ever is.
    """
    hidden, element = decoder.hidden, precision.element
    moved = (text + given + rows) * hidden * element + rows * max(1, taps) * SIZES["int64"]
    if not taps:
        return Cost(0, newline * hidden * element, moved)
    return Cost(2 * rows * taps * hidden, newline * hidden * element, moved + rows * taps * element)


def segment_cost(
    decoder: Decoder, precision: Precision, layers: tuple[int, int], rows: int, past: int, shows_query: bool
) -> Cost:
    """A segment on new rows behind cached ones; convention 3 for the layer that ends the decoder.

    Args:
        decoder: its sizes.
        precision: of weights and elements.
        layers: the first, and the one behind the last.
        rows: new ones; 1 while decoding.
        past: rows in the cache before them.
        shows_query: whether the queries of its last layer are an output, for a cut that scores with them.
    """
    d, keys, (first, last) = decoder, past + rows, layers
    depth, ends = last - first, last == d.layers
    whole = depth - 1 if ends else depth
    macs = whole * layer_macs(d, rows, rows, keys)
    parameters = depth * layer_parameters(d)
    other = depth * 2 * d.hidden + rotary_parameters(d)
    moved = rows * d.hidden * precision.element + rows * d.axes * SIZES["int64"]
    moved += depth * 2 * kv_width(d) * (past + keys) * precision.element
    if ends:
        macs += layer_macs(d, rows, 1, keys) + d.hidden * d.vocab
        other += d.hidden + d.hidden * d.vocab
        moved += d.vocab * SIZES["fp32"]
    else:
        moved += rows * d.hidden * precision.element
    if shows_query:
        moved += rows * q_width(d) * precision.element
    return Cost(2 * macs, round(parameters * precision.weight) + other * precision.element, moved)


def layer_macs(decoder: Decoder, rows: int, live: int, keys: int) -> int:
    """One layer whose keys and values are made of ``rows`` rows and whose other parts run on ``live`` of them."""
    d = decoder
    per_row = 2 * d.hidden * q_width(d) + 3 * d.hidden * d.intermediate  # query, output, feed-forward
    return rows * 2 * d.hidden * kv_width(d) + live * per_row + 2 * live * keys * q_width(d)


def layer_parameters(decoder: Decoder) -> int:
    """Of the matrices of one layer."""
    d = decoder
    return 2 * d.hidden * (q_width(d) + kv_width(d)) + 3 * d.hidden * d.intermediate


def rotary_parameters(decoder: Decoder) -> int:
    """Cosines and sines of every position, which every segment has; a run reads the rows of its positions alone."""
    return decoder.context * decoder.head_dim


def q_width(decoder: Decoder) -> int:
    """Of the queries of one row."""
    return decoder.heads * decoder.head_dim


def kv_width(decoder: Decoder) -> int:
    """Of the keys of one row, and of its values."""
    return decoder.kv_heads * decoder.head_dim
