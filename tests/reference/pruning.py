"""How a method's numpy reference looks, so that one whole-model driver serves all of them.

A reference file defines the functions of the stages that its method has, under these names:

    encoder(w, pixel_values, keep) -> Pruned                     FlowCut, which prunes inside the encoder
    vision(tower, stage) -> Pruned                               on the encoder's rows; ``tower`` is a `Tower`
    projected(tower, visual, question, stage) -> Pruned          on the projected rows
    cut(prompt, stage) -> Pruned                                 before a decoder layer; ``prompt`` is a `Prompt`

and the constants ``POSITIONS`` ("repack" or "keep") and ``cuts(layers) -> tuple[int, ...]`` where it cuts.
Every function gives exactly ``stage.keep`` rows. All arrays are those of one image, without a batch axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tests.reference.llava import Array, Weights

Indices = npt.NDArray[np.int64]


class Stage(NamedTuple):
    """Rows out of a stage, merged rows included, and how many of them are merged rows; ``seed`` of the request."""

    keep: int
    merge: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Pruned:
    """The rows that leave a stage, and where they came from among the rows that entered.

    Patches count from 0 and the class row is -1. A merged row is given by its reference (or, where it has no
    reference, by what the reference file says).
    """

    rows: Array
    kept: Indices


@dataclass(frozen=True)
class Tower:
    """What the encoder computed, layer by layer, for layers 0..selected.

    Attributes:
        grid: patches per column and per row.
        features: [1 + N, Dv] output of the selected layer, the class row first.
        cls_attention: per layer [H, 1 + N], softmax of the class row's query over all rows.
        keys, values: per layer [H, 1 + N, d], projections with bias, unscaled.
    """

    grid: tuple[int, int]
    features: Array
    cls_attention: Sequence[Array]
    keys: Sequence[Array]
    values: Sequence[Array]


@dataclass(frozen=True)
class Prompt:
    """The decoder's rows at a cut.

    Attributes:
        w: the checkpoint.
        layer: the layer that follows the cut.
        hidden: [S, D], the input of that layer.
        positions: [S] position ids that the layers before the cut used.
        start, count: the visual rows.
        query: [H, S, d] rotated queries of layer ``layer - 1``, unscaled.
        key: [G, S, d] its rotated keys.
        visual: [V, D] the visual rows at the decoder's input.
        after: [t, D] the embedded text after them.
    """

    w: Weights
    layer: int
    hidden: Array
    positions: Indices
    start: int
    count: int
    query: Array
    key: Array
    visual: Array
    after: Array
