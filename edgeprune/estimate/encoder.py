"""What the encoder and the projector take, by their sizes. Conventions: ``cost``.

Encoders differ in what stands in front of their layers, in the feed-forward, and in who sees whom: CLIP's, SigLIP's and
InternViT attend among all rows of a run; Qwen2.5-VL's, which takes all pictures of a prompt in one run, within windows
but in every eighth layer. A picture of its own size is taken to be one, and as high as wide.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgeprune.catalog.card import Probe
from edgeprune.estimate.cost import SIZES, Cost
from edgeprune.estimate.precision import Precision
from edgeprune.estimate.shape import WINDOW, Shape

CHANNELS = 3
_FRAMES = 2  # that one patch of Qwen2.5-VL's has, equal ones of a picture
_FULL = 8  # one layer of so many attends to the whole picture
_QWEN, _INTERN, _SIGLIP = "Qwen2.5-VL's own", "InternViT", "SigLIP's"


def vision_cost(shape: Shape, precision: Precision, probes: Iterable[Probe]) -> Cost:
    """The encoder with its scoring head, all runs of a request at once.

    Args:
        shape: the model.
        precision: of its elements.
        probes: what the scoring head puts out, each once.
    """
    v, element = shape.vision, precision.element
    macs = run_macs(shape)
    out = shape.per_run * v.width * element
    for probe in probes:
        if probe.kind == "cls_feature":
            out += v.width * element
        elif probe.kind == "key":
            out += shape.keys * v.head_dim * SIZES["fp32"]
        else:
            macs += _scoring_macs(shape)
            out += shape.cells * SIZES["fp32"]
    traffic = shape.runs * (pixel_bytes(shape, precision) + out)
    return Cost(2 * shape.runs * macs, parameters(shape) * element, traffic)


def project_cost(shape: Shape, precision: Precision, rows: int) -> Cost:
    """The projector on so many rows of all runs."""
    width, hidden = shape.vision.width, shape.decoder.hidden
    inner = width if shape.tower == _QWEN else hidden
    macs = rows * (width * inner + inner * hidden)
    norm = {_QWEN: shape.vision.hidden, _INTERN: 2 * width}.get(shape.tower, 0)
    parameters = norm + width * inner + inner + inner * hidden + hidden
    return Cost(2 * macs, parameters * precision.element, rows * (width + hidden) * precision.element)


def run_macs(shape: Shape, more_layers: int = 0) -> int:
    """One run of the encoder without its scoring head; with more layers than a model reads, if asked."""
    v, rows = shape.vision, tower_rows(shape)
    layers = v.layers + more_layers
    if shape.tower != _QWEN:
        return embedding_macs(shape) + layers * layer_macs(rows, v.hidden, v.intermediate)
    per_row = 4 * v.hidden**2 + 3 * v.hidden * v.intermediate
    window, full = (WINDOW * v.merge) ** 2, layers // _FULL
    keys = full * rows * rows + (layers - full) * shape.windows * window * window
    return embedding_macs(shape) + layers * rows * per_row + 2 * keys * v.hidden


def tower_rows(shape: Shape) -> int:
    """Rows that the encoder's layers see of a run: patches, and its class row."""
    return shape.patches + shape.class_rows


def embedding_macs(shape: Shape) -> int:
    """The convolution that makes patches of one run rows."""
    return shape.patches * _patch_values(shape) * shape.vision.hidden


def layer_macs(rows: int, width: int, intermediate: int) -> int:
    """A layer of a transformer without a gate: four projections, two matrices, full attention."""
    return rows * (4 * width**2 + 2 * width * intermediate) + 2 * rows**2 * width


def layer_parameters(width: int, intermediate: int) -> int:
    """Of the same layer, biases and both norms included."""
    return 4 * (width**2 + width) + 2 * width * intermediate + intermediate + width + 4 * width


def parameters(shape: Shape) -> int:
    """The encoder's: patches, class row, positions, norms, layers."""
    v, width = shape.vision, shape.vision.hidden
    patches = _patch_values(shape) * width
    if shape.tower == _QWEN:
        gate = v.intermediate * (width + 1)
        layer = layer_parameters(width, v.intermediate) - 2 * width + gate  # norms without a bias
        return patches + v.layers * layer
    positions = tower_rows(shape) * width
    layer = layer_parameters(width, v.intermediate)
    if shape.tower == _SIGLIP:
        return patches + width + positions + v.layers * layer  # a bias
    if shape.tower == _INTERN:
        return patches + 2 * width + positions + v.layers * (layer + 2 * width)  # a bias; scales of both branches
    return patches + width + positions + 2 * width + v.layers * layer


def pixel_bytes(shape: Shape, precision: Precision) -> int:
    """What the encoder reads of one run."""
    pixels = shape.patches * _patch_values(shape) * precision.element
    if shape.size is not None:  # of which what fills no whole patch is left out
        pixels = CHANNELS * shape.size[0] * shape.size[1] * precision.element
    if shape.tower != _QWEN:
        return pixels
    places = shape.cells * (2 + 1 + 1 + 1)  # row and column, where each stands in its window, the picture, and in that
    return pixels + (places + shape.windows * WINDOW**2) * SIZES["int64"]


def _scoring_macs(shape: Shape) -> int:
    """Attention probabilities: of the class row, or of all rows where there is none."""
    rows, v = tower_rows(shape), shape.vision
    if shape.class_rows:
        return rows * v.hidden
    means = rows * rows * v.heads if shape.tower == _QWEN else 0
    return rows * rows * v.hidden + means


def _patch_values(shape: Shape) -> int:
    return CHANNELS * shape.vision.patch**2 * (_FRAMES if shape.tower == _QWEN else 1)
