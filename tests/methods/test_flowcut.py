"""FlowCut beside its numpy reference: in the encoder where runs lose equally many patches, and in the decoder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from edgeprune.checkpoint.config import read_config
from edgeprune.checkpoint.weights import Weights
from edgeprune.families.llava import Llava
from edgeprune.methods.flowcut import DecoderCut, Encoder
from tests.conftest import MakeCheckpoint
from tests.methods.references import same_rows
from tests.reference import flowcut, llava
from tests.reference.pruning import Indices, Prompt, Stage, take_out
from tests.reference.test_reference import tiny_config, tiny_weights

BEFORE, PICTURES, BETWEEN, AFTER = 3, (14, 9), 4, 5  # rows of text, of two pictures, of text between, and behind


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


def places() -> Indices:
    first, second = PICTURES
    return np.concatenate([np.arange(first), first + BETWEEN + np.arange(second)]) + BEFORE


def rows_of(heads: int, groups: int, seed: int) -> dict[str, np.ndarray]:
    """A batch of two prompts of two pictures, fp32."""
    rng, rows = np.random.default_rng(seed), BEFORE + sum(PICTURES) + BETWEEN + AFTER
    sizes = {"hidden": (2, rows, 24), "query": (2, heads, rows, 8), "key": (2, groups, rows, 8)}
    sizes["value"] = sizes["key"]
    return {name: rng.standard_normal(size).astype(np.float32) for name, size in sizes.items()}


def cut(made: dict[str, np.ndarray], keep: int, dtype: torch.dtype = torch.float32) -> list[np.ndarray]:
    """The module's hidden rows, position ids, visual rows and kept."""
    hidden, query, key, value = (torch.from_numpy(made[name]).to(dtype) for name in ("hidden", "query", "key", "value"))
    ids = torch.arange(hidden.shape[1]).expand(2, -1)
    visual = torch.from_numpy(places()).expand(2, -1)
    return [x.numpy() for x in DecoderCut("repack")(hidden, ids, query, key, value, visual, torch.tensor(keep))]


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("keep", [1, 7, 22, 23])
def test_the_second_cut(heads: int, groups: int, keep: int) -> None:
    made = rows_of(heads, groups, keep)
    hidden, ids, visual, kept = cut(made, keep)
    weights = tiny_weights(tiny_config())[0]  # which the cut does not read
    for row in range(2):
        own = {name: value[row].astype(np.float64) for name, value in made.items()}
        at, none = np.arange(len(own["hidden"])), np.empty((0, 24))
        projections = own["query"], own["key"], own["value"]
        prompt = Prompt(weights, 2, own["hidden"], at, places(), *projections, none, none)
        expected = flowcut.cut(prompt, Stage(keep))
        assert kept[row].tolist() == expected.kept.tolist()
        left, positions, seen = take_out(prompt.hidden, at, prompt.places, expected, 0, "repack")
        np.testing.assert_array_equal(hidden[row], left)
        assert (ids[row].tolist(), visual[row].tolist()) == (positions.tolist(), seen.tolist())


def test_the_second_cut_sees_visual_rows_alone() -> None:
    """What rows of text hold, the last one aside, changes nothing; what the last one holds does."""
    made, text = rows_of(6, 2, 0), np.setdiff1d(np.arange(BEFORE + sum(PICTURES) + BETWEEN + AFTER), places())
    before = cut(made, 8)[3].tolist()
    for name in ("query", "key", "value"):
        other = {**made, name: made[name].copy()}
        other[name][:, :, text[:-1]] *= 30
        assert cut(other, 8)[3].tolist() == before
    for name in ("query", "value"):
        other = {**made, name: made[name].copy()}
        other[name][:, :, text[-1]] *= -3
        assert cut(other, 8)[3].tolist() != before


def test_equal_rows_go_to_the_lower_one() -> None:
    made = {name: np.ones_like(value) for name, value in rows_of(6, 2, 0).items()}
    assert cut(made, 6)[3].tolist() == [[0, 1, 2, 3, 4, 5]] * 2


@pytest.mark.parametrize("factor", [0.0, 1e-8, 1e4])
def test_the_second_cut_in_fp16(factor: float) -> None:
    """At the end of the range products leave it; scores are fp32 and rows are left as they are."""
    made = {name: np.clip(value * np.float32(factor), -6e4, 6e4) for name, value in rows_of(6, 2, 0).items()}
    hidden, _, visual, kept = cut(made, 8, torch.float16)
    for row in range(2):
        assert kept[row].tolist() == sorted({*kept[row].tolist()}) and len(kept[row]) == 8
        source = made["hidden"][row].astype(np.float16)[places()[kept[row]]]
        np.testing.assert_array_equal(hidden[row][visual[row]], source)
