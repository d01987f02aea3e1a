"""Every method through the exported chain, against its numpy reference run on the whole model.

Kept rows of every stage, logits, caches and positions at prefill and in twenty decode steps, at budgets from the
smallest to the largest a method reaches, on a decoder with grouped keys and values; with as many keys as heads, of two
pictures with text between them, and with a prompt that is read in pieces, for one budget.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from edgeprune import catalog
from edgeprune.budget.schedule import Schedule, reach, site_of
from edgeprune.runtime.chain import Clock, Prefill, Text
from edgeprune.runtime.pixels import Pixels, prepare
from edgeprune.runtime.vlm import open_vlm
from tests.conftest import MakeAll, MakeCheckpoint
from tests.methods.references import REFERENCES, same_rows
from tests.reference import pruned
from tests.reference.llava import Weights
from tests.reference.pruning import Stage
from tests.runtime.case import picture

STEPS, SEED = 20, 3
ONE = Text(((1, 5, 9, 33), (7, 40, 41, 12, 60)), (40, 41, 12))
TWO = Text(((1, 5, 9, 33), (21, 8), (7, 40, 41, 12, 60)), (40, 41, 12))


class Case:
    """A bundle with every method, and the reference's weights."""

    def __init__(self, bundle: Path, checkpoint: Path) -> None:
        self.vlm = open_vlm(bundle, threads=1, check_hashes=False)
        config = json.loads((checkpoint / "config.json").read_text())
        self.weights = Weights(load_file(checkpoint / "model.safetensors"), config)

    def budgets(self, name: str, pictures: int) -> list[int]:
        """The smallest, one in the middle, and the largest."""
        entry, manifest = self.vlm.manifest.method(name), self.vlm.manifest
        assert entry is not None
        low, high = reach(name, site_of(manifest, entry, pictures * manifest.vision.tokens, pictures))
        return [low, (low + high) // 2, high]

    def run(self, name: str, keep: int, pixels: Pixels, text: Text) -> tuple[Prefill, Schedule]:
        entry, schedule = self.vlm.plan(keep, name, pixels.runs * self.vlm.manifest.vision.tokens, pixels.runs)
        assert entry is not None and schedule is not None
        self.vlm.chain.open_method(entry)
        return self.vlm.chain.prefill(pixels, text, entry, schedule, Clock(), SEED), schedule

    def expect(self, name: str, schedule: Schedule, pixels: Pixels, text: Text) -> pruned.Prefill:
        stages = [(stage.cut, Stage(stage.keep, stage.merge, SEED)) for stage in schedule.stages]
        runs = list(pixels.feeds["pixel_values"])
        return pruned.prefill_prompt(self.weights, runs, text.parts, REFERENCES[name], stages, question=text.question)


@pytest.fixture(scope="module")
def gqa(make_bundle_all: MakeAll, make_checkpoint: MakeCheckpoint) -> Case:
    return Case(make_bundle_all("small-gqa"), make_checkpoint("small-gqa"))


@pytest.fixture(scope="module")
def mha(make_bundle_all: MakeAll, make_checkpoint: MakeCheckpoint) -> Case:
    return Case(make_bundle_all("small-mha"), make_checkpoint("small-mha"))


@pytest.mark.parametrize("name", sorted(REFERENCES))
@pytest.mark.parametrize("place", [0, 1, 2])
def test_grouped_keys(gqa: Case, name: str, place: int) -> None:
    check(gqa, name, ONE, gqa.budgets(name, 1)[place])


@pytest.mark.parametrize("name", sorted(name for name in REFERENCES if name in catalog.names(variants=False)))
def test_as_many_keys_as_heads(mha: Case, name: str) -> None:
    if mha.vlm.manifest.method(name) is None:
        pytest.skip("no cut inside the decoder: kinds of heads make no difference to it")
    check(mha, name, ONE, mha.budgets(name, 1)[1])


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_text_between_two_pictures(gqa: Case, name: str) -> None:
    check(gqa, name, TWO, gqa.budgets(name, 2)[1])


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_a_prompt_in_pieces(gqa: Case, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments read 20 rows at a time; cuts see all rows."""
    monkeypatch.setattr(gqa.vlm.backend, "chunk", 20)
    check(gqa, name, TWO, gqa.budgets(name, 2)[1])


def check(case: Case, name: str, text: Text, keep: int) -> None:
    pixels = prepare([picture(4 + number) for number in range(len(text.parts) - 1)], case.vlm.manifest.image)
    found, schedule = case.run(name, keep, pixels, text)
    expected = case.expect(name, schedule, pixels, text)
    check_kept(name, found, expected)
    same_rows(found.logits[0], expected.logits)
    check_caches(case, found, expected)
    vocab = case.vlm.manifest.decoder.vocab
    tokens = [int(token) for token in np.random.default_rng(keep).integers(3, vocab, STEPS)]
    decoded = pruned.decode(case.weights, expected, tokens)
    for step, token in enumerate(tokens):
        positions = [found.cache.position(index) for index in range(len(found.cache.segments))]
        assert positions == spread(case, expected, decoded.positions[step].tolist())
        logits = case.vlm.chain.decode(np.array([token]), found.cache, Clock())
        same_rows(logits[0], decoded.logits[step])
    check_caches(case, found, expected)


def check_kept(name: str, found: Prefill, expected: pruned.Prefill) -> None:
    """Every stage's rows, composed to patches of the picture."""
    origin: np.ndarray | None = None
    for stage, rows in zip(found.stages, expected.kept, strict=True):
        first = stage.cut in ("encoder", "vision")
        origin = rows if first or origin is None else origin[rows]
        assert stage.kept[0].tolist() == origin.tolist(), f"{name} {stage.cut}"


def check_caches(case: Case, found: Prefill, expected: pruned.Prefill) -> None:
    """Keys and values of every layer, each of its own length."""
    for segment in found.cache.segments:
        for label, array in segment.arrays.items():
            _, kind, layer = label.split("_")
            entry = expected.cache[int(layer)]
            assert entry is not None
            value = entry[("key", "value").index(kind)]
            read = case.vlm.backend.numpy(array)[0]
            assert read.shape == value.shape
            same_rows(read, value)


def spread(case: Case, expected: pruned.Prefill, positions: list[int]) -> list[int]:
    """The reference cuts only where its method does; the bundle where any does."""
    found = []
    for graph in case.vlm.manifest.by_role("segment"):
        assert graph.layers is not None
        found.append(next(p for p, r in zip(positions, expected.segments, strict=True) if graph.layers[0] in r))
    return found
