"""How a method's numpy reference looks, so that one whole-model driver serves all of them.

A reference file defines the functions of the stages that its method has, under these names:

    encoder(w, pixel_values, keep) -> Pruned                     FlowCut, which prunes inside the encoder
    vision(tower, stage) -> Pruned                               on the encoder's rows; ``tower`` is a `Tower`
    projected(tower, visual, question, stage) -> Pruned          on the projected rows
    cut(prompt, stage) -> Pruned                                 before a decoder layer; ``prompt`` is a `Prompt`

Where the runs of a prompt (its tiles, frames or pictures) settle something together, one of

    encoder_runs(w, runs of pixel values, keep) -> list[Pruned]
    projected_runs(towers, runs of visual rows, question, stage) -> list[Pruned]

and the constants ``POSITIONS`` ("repack" or "keep") and ``cuts(layers) -> tuple[int, ...]`` where it cuts.
Every function gives exactly ``stage.keep`` rows of a run. All arrays are those of one prompt, without a batch axis.
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
    """What the encoder computed for one run, layer by layer, for layers 0..selected.

    Attributes:
        grid: patches per column and per row.
        features: [1 + N, Dv] output of the selected layer, the class row first; [N, Dv] without one.
        cls_attention: per layer [H, 1 + N], softmax of the class row's query over all rows; without a class row [H, N],
            the mean over all queries of what a patch receives.
        keys, values: per layer [H, 1 + N, d] or [H, N, d], projections with bias, unscaled.
        class_row: whether there is one.
        grids: where pictures keep their resolution, visual tokens per column and per row of each picture or pair of
            frames of the run, in the run's order; the layers are then those that see whole pictures, from the first on.
    """

    grid: tuple[int, int]
    features: Array
    cls_attention: Sequence[Array]
    keys: Sequence[Array]
    values: Sequence[Array]
    class_row: bool = True
    grids: tuple[tuple[int, int], ...] = ()

    @property
    def patches(self) -> Array:
        """The features without the class row, [N, Dv]."""
        return self.features[int(self.class_row) :]

    def scores(self, layer: int = -1) -> Array:
        """Attention to patches inside a layer, [H, N]."""
        return self.cls_attention[layer][:, int(self.class_row) :]


@dataclass(frozen=True)
class Prompt:
    """The decoder's rows at a cut.

    Attributes:
        w: the checkpoint.
        layer: the layer that follows the cut.
        hidden: [S, D], the input of that layer.
        positions: [S] position ids that the layers before the cut used; [3, S] where they have three axes.
        places: [V] which rows are visual, ascending.
        query: [H, S, d] rotated queries of layer ``layer - 1``, unscaled.
        key: [G, S, d] its rotated keys.
        value: [G, S, d] its values.
        visual: [n, D] the visual rows at the decoder's input.
        after: [t, D] the embedded text behind the last of them.
    """

    w: Weights
    layer: int
    hidden: Array
    positions: Indices
    places: Indices
    query: Array
    key: Array
    value: Array
    visual: Array
    after: Array

    @property
    def end(self) -> int:
        """The row behind the last visual one."""
        return int(self.places[-1]) + 1


def take_out(
    hidden: Array, positions: Indices, places: Indices, pruned: Pruned, merge: int, scheme: str
) -> tuple[Array, Indices, Indices]:
    """Give the rows of a prompt after a cut, their position ids, and which of them are visual.

    Rows that stay, stay where they are; merged rows stand behind the last visual row's old place. "repack" numbers
    positions anew; with "keep" every row has its own, and a merged row that of its source.
    """
    staying = pruned.kept[: len(pruned.kept) - merge].tolist()
    rows: list[Array] = []
    ids: list[Array] = []
    visual: list[int] = []
    for row in range(len(hidden)):
        at = places.tolist().index(row) if row in places else None
        if at is None:
            rows.append(hidden[row])
            ids.append(positions[..., row])
        elif at in staying:
            visual.append(len(rows))
            rows.append(pruned.rows[staying.index(at)])
            ids.append(positions[..., row])
        if row == places[-1]:
            for merged in range(len(staying), len(pruned.kept)):
                visual.append(len(rows))
                rows.append(pruned.rows[merged])
                ids.append(positions[..., places[pruned.kept[merged]]])
    kept = np.stack(ids, axis=-1) if scheme == "keep" else np.arange(len(rows), dtype=np.int64)
    return np.stack(rows), kept, np.asarray(visual, dtype=np.int64)
