"""FlowCut's encoder where a prompt has several runs, which lose equally many patches, beside the numpy reference."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from edgeprune.checkpoint.config import read_config
from edgeprune.checkpoint.weights import Weights
from edgeprune.families.llava import Llava
from edgeprune.methods.flowcut import Encoder
from tests.conftest import MakeCheckpoint
from tests.methods.references import same_rows
from tests.reference import flowcut, llava


@pytest.mark.parametrize("keep", [5, 20])
def test_runs_of_a_prompt_share_a_schedule(make_checkpoint: MakeCheckpoint, keep: int) -> None:
    checkpoint = make_checkpoint("small-gqa")
    config = json.loads((checkpoint / "config.json").read_text())
    weights = llava.Weights(load_file(checkpoint / "model.safetensors"), config)
    family = Llava(read_config(checkpoint, "llava"), Weights(checkpoint))
    encoder = family.encoder(Encoder, False).load(torch.float32)
    side = config["vision_config"]["image_size"]
    pixels = np.random.default_rng(0).standard_normal((6, 3, side, side)).astype(np.float32)
    pixels[1] *= 4  # another spread of attention, and so another number of patches, were it alone
    for runs in (1, 3):
        rows, kept = encoder(torch.tensor(pixels), torch.tensor(keep), torch.tensor(runs))
        for first in range(0, 6, runs):
            expected = flowcut.encoder_runs(weights, list(pixels[first : first + runs]), keep)
            for run, pruned in enumerate(expected, first):
                assert kept[run].tolist() == pruned.kept.tolist()
                same_rows(rows[run].numpy(), pruned.rows)
