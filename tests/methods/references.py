"""Which numpy reference judges which method, and VisionDrop's older one in the shape of the others."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from tests.reference import (
    cdpruner,
    coast,
    fastv,
    floor,
    flowcut,
    llava,
    pyramiddrop,
    sparsevlm,
    sts,
    visiondrop,
    visionzip,
    vispruner,
    vscan,
)
from tests.reference.pruned import Reference
from tests.reference.pruning import Prompt, Pruned, Stage, Tower


def _visiondrop_vision(tower: Tower, stage: Stage) -> Pruned:
    if not tower.class_row:
        return visionzip.vision(tower, stage)
    seen = llava.Vision(tower.features, tower.cls_attention[-1], tower.keys[-1])
    pruned = visiondrop.encoder_stage(seen, visiondrop.Stage(stage.keep - stage.merge, stage.merge))
    return Pruned(pruned.rows, pruned.kept - 1)


def _visiondrop_cut(prompt: Prompt, stage: Stage) -> Pruned:
    counts = visiondrop.Stage(stage.keep - stage.merge, stage.merge)
    pruned = visiondrop.decoder_stage(prompt.w, prompt.layer, prompt.hidden, prompt.positions, prompt.places, counts)
    return Pruned(pruned.rows, pruned.kept)


REFERENCES: dict[str, Reference] = {
    "cdpruner-llm": cdpruner,
    "coast": coast.KEEP_BASE,
    "coast-rest": coast.REST_BASE,
    "fastv": fastv,
    "flowcut": flowcut,
    "pyramiddrop": pyramiddrop,
    "random": floor.RANDOM,
    "sparsevlm": sparsevlm,
    "sparsevlm-plus": sparsevlm.PLUS,
    "sts": sts,
    "sts-greedy": sts.GREEDY,
    "uniform": floor.UNIFORM,
    "visiondrop": SimpleNamespace(
        POSITIONS="repack", cuts=visiondrop.default_cuts, vision=_visiondrop_vision, cut=_visiondrop_cut
    ),
    "visionzip": visionzip,
    "vispruner": vispruner,
    "vscan": vscan,
}
"""By name. `cdpruner` takes CLIP's text tower, which the driver has not: it has a test file of its own."""


def same_rows(found: np.ndarray, expected: np.ndarray, limit: float = 1e-4) -> None:
    """Rows within ``limit`` of the reference's range."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit * max(float(np.ptp(expected)), 1e-6))
