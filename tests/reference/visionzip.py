"""VisionZip: prune and merge at the encoder's output, before the projector; the decoder is untouched."""

from __future__ import annotations

import numpy as np

from tests.reference.pruning import Pruned, Stage, Tower
from tests.reference.visiondrop import compress, top_k

POSITIONS = "repack"


def cuts(layers: int) -> tuple[int, ...]:
    """Give no cut, at any depth."""
    return ()


def vision(tower: Tower, stage: Stage) -> Pruned:
    """Give the class row, the patches it attends to most in raster order, and the merged rows.

    A patch scores the sum over heads of the class row's attention inside the layer whose output is the selected
    feature. The class row counts as a kept one: 64 rows are the class row, 53 patches and 10 merged rows. Keys
    for merging are the mean over heads. A merged row is given by its reference.

    Without a class row 64 rows are the 54 patches that receive most attention and 10 merged rows; nobody published
    that.
    """
    if stage.keep - stage.merge < 1:
        raise ValueError("the class row is always kept")
    scores, keys = tower.scores().sum(axis=0), tower.keys[-1].mean(axis=0)
    if not tower.class_row:
        return Pruned(*compress(tower.features, keys, top_k(scores, stage.keep - stage.merge), stage.merge))
    patches = top_k(scores, stage.keep - stage.merge - 1)
    dominants = np.concatenate([np.zeros(1, dtype=np.int64), patches + 1])
    rows, kept = compress(tower.features, keys, dominants, stage.merge)
    return Pruned(rows, kept - 1)
