"""What the encoder and the projector take, by their sizes. Conventions: ``cost``."""

from __future__ import annotations

from collections.abc import Iterable

from edgeprune.catalog.card import Probe
from edgeprune.estimate.cost import SIZES, Cost
from edgeprune.estimate.precision import Precision
from edgeprune.estimate.shape import Shape

CHANNELS = 3


def vision_cost(shape: Shape, precision: Precision, probes: Iterable[Probe]) -> Cost:
    """The encoder with its scoring head, all pictures of a request in one run.

    Args:
        shape: the model.
        precision: of its elements.
        probes: what the scoring head puts out, each once.
    """
    v, element = shape.vision, precision.element
    rows = v.tokens + 1  # the class row
    macs = embedding_macs(shape) + v.layers * layer_macs(rows, v.width, v.intermediate)
    out = v.tokens * v.width * element
    for probe in probes:
        if probe.kind == "cls_feature":
            out += v.width * element
        elif probe.kind == "key":
            out += rows * v.head_dim * SIZES["fp32"]
        else:
            macs += rows * v.width  # one query row per head
            out += v.tokens * SIZES["fp32"]
    traffic = shape.pictures * (pixel_bytes(shape, precision) + out)
    return Cost(2 * shape.pictures * macs, parameters(shape) * element, traffic)


def project_cost(shape: Shape, precision: Precision, rows: int) -> Cost:
    """The projector on so many rows of all pictures."""
    width, hidden = shape.vision.width, shape.decoder.hidden
    macs = rows * (width * hidden + hidden * hidden)
    parameters = width * hidden + hidden + hidden * hidden + hidden
    return Cost(2 * macs, parameters * precision.element, rows * (width + hidden) * precision.element)


def embedding_macs(shape: Shape) -> int:
    """The convolution that makes patches of one picture rows."""
    v = shape.vision
    return v.tokens * CHANNELS * v.patch**2 * v.width


def layer_macs(rows: int, width: int, intermediate: int) -> int:
    """A layer of a transformer without a gate: four projections, two matrices, full attention."""
    return rows * (4 * width**2 + 2 * width * intermediate) + 2 * rows**2 * width


def layer_parameters(width: int, intermediate: int) -> int:
    """Of the same layer, biases and both norms included."""
    return 4 * (width**2 + width) + 2 * width * intermediate + intermediate + width + 4 * width


def parameters(shape: Shape) -> int:
    """The encoder's: patches, class row, positions, first norm, layers."""
    v = shape.vision
    embeddings = CHANNELS * v.patch**2 * v.width + v.width + (v.tokens + 1) * v.width + 2 * v.width
    return embeddings + v.layers * layer_parameters(v.width, v.intermediate)


def pixel_bytes(shape: Shape, precision: Precision) -> int:
    """One picture as the encoder reads it."""
    return CHANNELS * shape.vision.tokens * shape.vision.patch**2 * precision.element
