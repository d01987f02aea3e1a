"""Scores that tie, features that are all alike, one token that has it all: every stage against its numpy reference.

At 576 patches, where no whole model could be afforded, with inputs made by hand; decoder cuts with the weights of a
small checkpoint where they read any. Before the decoder with the class row apart from the patches, among them, and
without one; inside it with one picture, with text between several, and with positions of three axes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from edgeprune.budget.schedule import Site, make_schedule, reach
from edgeprune.bundle.manifest import Place
from edgeprune.bundle.sizes import ClassRow, Vision
from edgeprune.bundle.sizes import Decoder as Sizes
from edgeprune.checkpoint.config import read_config
from edgeprune.checkpoint.weights import Weights as Checkpoint
from edgeprune.families.language import Language
from edgeprune.methods import method as methods
from edgeprune.runtime.samplers import SAMPLERS
from tests.conftest import MakeCheckpoint
from tests.methods.references import REFERENCES, same_rows
from tests.methods.rig import arguments
from tests.reference.llava import Weights
from tests.reference.pruning import Prompt, Pruned, Stage, Tower, take_out

SIDE, WIDTH, HEADS, LAYERS, SELECTED = 24, 64, 4, 32, 22
PATCHES = SIDE * SIDE
Floats = NDArray[np.float64]
Kind = Callable[[np.random.Generator, tuple[int, ...]], Floats]


def fields(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Ordinary numbers, kept to few bits so that sums are the same in fp32 and fp64."""
    return np.round(rng.standard_normal(shape) * 64) / 64


def ties(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Three values only."""
    return rng.integers(-1, 2, shape).astype(np.float64)


def alike(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return np.ones(shape)


def dominant(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """One row of another size, a hundred times the others."""
    values = fields(rng, shape)
    values[..., shape[-2] // 3, :] *= 100
    return values


def coded(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Sixteen entries of 1 or -1 per row, else 0: cosines are multiples of 1/16 in every precision, and many tie."""
    place = rng.random(shape).argsort(axis=-1) < 16
    return np.where(place, rng.choice([-1.0, 1.0], shape), 0.0)


KINDS: dict[str, Kind] = {kind.__name__: kind for kind in (fields, ties, alike, dominant, coded)}


def probabilities(rng: np.random.Generator, kind: str) -> Floats:
    """The class row's attention [H, 1 + N]; ties are exact in every precision."""
    if kind == "alike":
        weights = np.ones((HEADS, 1 + PATCHES))
    elif kind == "ties":
        weights = rng.integers(1, 4, (1, 1 + PATCHES)).astype(np.float64).repeat(HEADS, axis=0)
    elif kind == "dominant":
        weights = np.full((HEADS, 1 + PATCHES), 2.0**-20)
        weights[:, 100] = 1.0
    else:
        weights = np.exp(rng.standard_normal((HEADS, 1 + PATCHES)))
    # Divided by a power of two, so that equal weights stay equal.
    shares: Floats = weights / 2.0 ** np.ceil(np.log2(weights.sum(axis=1, keepdims=True)))
    return shares


def make_tower(kind: str, seed: int, class_row: bool = True) -> Tower:
    rng = np.random.default_rng(seed)
    layers = SELECTED + 1
    attention = [probabilities(rng, kind) for _ in range(layers)]
    features = KINDS[kind](rng, (1 + PATCHES, WIDTH))
    keys = [KINDS[kind](rng, (HEADS, 1 + PATCHES, 16)) for _ in range(layers)]
    if not class_row:
        attention, keys = [row[:, 1:] for row in attention], [key[:, 1:] for key in keys]
        features = features[1:]
    return Tower((SIDE, SIDE), features, attention, keys, keys, class_row)


def early_places(record: methods.Method) -> tuple[Place, ...]:
    stages: dict[Place, object] = {"encoder": record.encoder, "vision": record.vision, "projected": record.projected}
    return tuple(place for place, stage in stages.items() if stage is not None)


EARLY = [name for name in sorted(REFERENCES) if methods.load(name).vision or methods.load(name).projected]
# The order of its rounds hangs on cosines that agree in fp64 and fp32 only where rows are far apart.
REORDERS = {"vispruner"}


@pytest.mark.parametrize(
    ("kind", "class_row"), [*((kind, "apart") for kind in sorted(KINDS)), ("fields", "inside"), ("fields", "none")]
)
@pytest.mark.parametrize("name", EARLY)
def test_before_the_decoder(name: str, kind: str, class_row: ClassRow) -> None:
    record = methods.load(name)
    site = Site(PATCHES, (*early_places(record), *record.cuts(LAYERS)), LAYERS)
    low, high = reach(name, site)
    keeps = {low, 64, 128, 192, high} if record.sampler != "dpp" else {1, 16, 48}  # beyond the rank rounding decides
    for keep in sorted(keeps):
        if not low <= keep <= high:
            continue
        stage = make_schedule(name, keep, site).stages[0]
        tower = make_tower(kind, keep, class_row != "none")
        check_early(name, kind, class_row, tower, Stage(stage.keep, stage.merge, 5))


def check_early(name: str, kind: str, class_row: ClassRow, tower: Tower, stage: Stage) -> None:
    record, reference = methods.load(name), REFERENCES[name]
    question = KINDS[kind](np.random.default_rng(1), (3, WIDTH))
    if record.vision:
        expected = reference.vision(tower, stage)
    else:
        expected = reference.projected(tower, tower.patches, question, stage)
    rows, kept = run_early(record, class_row, tower, question, stage)
    selected = stage.keep - stage.merge
    if name in REORDERS and kind != "coded":
        # The important half is exact; the other half only where cosines are bit by bit the same.
        attention = tower.scores().mean(axis=0)
        important = set(np.argsort(-attention, kind="stable")[: stage.keep // 2].tolist())
        assert important <= set(kept.tolist())
        assert len(set(kept.tolist()) & set(expected.kept.tolist())) >= (stage.keep if kind == "alike" else 0)
        return
    # Greedy repulsion adds up hundreds of terms: where patches tie by symmetry, the last bit of a sum decides.
    by_symmetry = name == "sts-greedy" and kind != "fields"
    if name in REORDERS:  # cosines are exact here, so all of it must be
        assert kept.tolist() == expected.kept.tolist()
        return
    if by_symmetry or not settled(
        name, tower, question, stage
    ):  # sums that tie but for their rounding: which rows stay is open
        assert kept.tolist() == sorted(set(kept.tolist()))
        same_rows(rows, tower.patches[kept])
        return
    assert kept[:selected].tolist() == expected.kept[:selected].tolist()
    if kind in ("fields", "dominant"):
        assert kept.tolist() == expected.kept.tolist()
        same_rows(rows, expected.rows)
    elif name != "vscan":  # where similarities tie, rounding decides what a row is merged with
        same_rows(rows[:selected], expected.rows[:selected])


def settled(name: str, tower: Tower, question: Floats, stage: Stage) -> bool:
    """Whether noise far above fp32's rounding on the features leaves the reference's selection as it is.

    Attention is left alone: its ties are exact, and must go to the lower patch.
    """
    rng, reference, selected = np.random.default_rng(0), REFERENCES[name], stage.keep - stage.merge
    chosen = []
    for size in (0.0, 1e-6, 1e-6, 1e-6):
        noisy = replace(tower, features=tower.features * (1 + size * rng.standard_normal(tower.features.shape)))
        if methods.load(name).vision is not None:
            result = reference.vision(noisy, stage)
        else:
            result = reference.projected(noisy, noisy.patches, question, stage)
        chosen.append(result.kept[:selected].tolist())
    return all(other == chosen[0] for other in chosen)


def run_early(
    record: methods.Method, class_row: ClassRow, tower: Tower, question: Floats, stage: Stage
) -> tuple[Floats, NDArray[np.int64]]:
    """The torch modules on the same tower."""
    facts = Vision((SIDE, SIDE), WIDTH, SELECTED + 1, 1, WIDTH, 14, class_row)
    rows = tower.features if class_row == "inside" else tower.patches
    values: dict[str, torch.Tensor] = {
        "features": torch.tensor(rows[None], dtype=torch.float32),
        "visual": torch.tensor(rows[None], dtype=torch.float32),
        "question": torch.tensor(question[None], dtype=torch.float32),
        "runs": torch.tensor(1),
        **{name: torch.tensor(getattr(stage, name)) for name in ("keep", "merge", "seed")},
    }
    for name, probe in record.probes(SELECTED).items():
        found = {
            "cls_feature": tower.features[:1],
            "cls_attention": tower.scores(probe.layer).sum(axis=0),
            "key": tower.keys[probe.layer].mean(axis=0),
        }
        values[name] = torch.tensor(found[probe.kind][None], dtype=torch.float32)
    if record.kernel is not None:
        kernel = record.kernel(facts)
        results = kernel(*(values[name] for name in arguments(kernel)))
        results = (results,) if isinstance(results, torch.Tensor) else results
        outputs = {name: value.numpy() for name, value in zip(("kernel", "start"), results, strict=False)}
        assert record.sampler is not None
        values["chosen"] = torch.from_numpy(SAMPLERS[record.sampler](outputs, stage.keep))
    make = record.vision or record.projected
    assert make is not None
    module = make(facts)
    found, kept = module(*(values[name] for name in arguments(module)))
    return found[0].numpy(), kept[0].numpy()


class Decoder:
    """A checkpoint as torch modules and as numpy weights, with positions of one axis or of three."""

    def __init__(self, checkpoint: Path, axes: int = 1) -> None:
        made = read_config(checkpoint, "llava").decoder
        config = json.loads((checkpoint / "config.json").read_text())
        if axes == 3:
            sections = (1, 1, made.head_dim // 2 - 2)
            made = replace(made, rope=replace(made.rope, sections=sections))
            config["text_config"]["rope_parameters"] = {"rope_theta": made.rope.theta, "mrope_section": sections}
        self.language = Language(made, Checkpoint(checkpoint))
        self.weights = Weights(load_file(checkpoint / "model.safetensors"), config)

    @property
    def facts(self) -> Sizes:
        return self.language.decoder_facts


@pytest.fixture(scope="module", params=["small-mha", "small-gqa"])
def decoder(request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint) -> Decoder:
    return Decoder(make_checkpoint(request.param))


@pytest.fixture(scope="module")
def three_axes(make_checkpoint: MakeCheckpoint) -> Decoder:
    return Decoder(make_checkpoint("small-gqa"), axes=3)


INSIDE = [name for name in sorted(REFERENCES) if methods.load(name).decoder_cut]


@pytest.mark.parametrize(("kind", "pictures"), [*((kind, 1) for kind in sorted(KINDS)), ("fields", 3), ("ties", 3)])
@pytest.mark.parametrize("name", INSIDE)
def test_inside_the_decoder(decoder: Decoder, name: str, kind: str, pictures: int) -> None:
    check_inside(decoder, name, kind, pictures)


@pytest.mark.parametrize("name", INSIDE)
def test_positions_of_three_axes_are_kept(three_axes: Decoder, name: str) -> None:
    check_inside(three_axes, name, "fields", 3)


def check_inside(decoder: Decoder, name: str, kind: str, pictures: int) -> None:
    """The first cut of a method, at its least budget, a middling one and the largest.

    FlowCut has it of tiles alone: then every run of four keeps half of the budget.
    """
    record, depth = methods.load(name), decoder.facts.layers
    cuts, runs = record.cuts(depth, "tiles"), 4 if record.encoder else 1
    site = Site(96, (*early_places(record), *cuts), depth, runs)
    low, high = reach(name, site)
    layer = cuts[0]
    for keep in (low, (low + high) // 2, high):
        schedule = make_schedule(name, keep, site)
        index = [stage.cut for stage in schedule.stages].index(layer)
        before = schedule.stages[index - 1].rows if index else site.tokens
        stage = schedule.stages[index]
        prompt = make_prompt(decoder, layer, before, kind, keep, pictures)
        check_cut(decoder, name, kind, prompt, Stage(stage.keep, stage.merge))


def make_prompt(decoder: Decoder, layer: int, count: int, kind: str, seed: int, pictures: int) -> Prompt:
    """Rows by hand; every head of a layer sees other numbers, but for those that are to tie."""
    rng, facts = np.random.default_rng(seed), decoder.facts
    is_visual = np.ones(count, bool)
    for cut in np.sort(rng.choice(np.arange(1, count), min(pictures, count) - 1, replace=False))[::-1]:
        is_visual = np.insert(is_visual, cut, np.zeros(rng.integers(1, 4), bool))
    places = 6 + np.flatnonzero(is_visual)
    rows = 6 + len(is_visual) + 9
    make = KINDS[kind]
    positions = np.arange(rows) if facts.axes == 1 else rng.integers(0, rows, (3, rows))
    return Prompt(
        w=decoder.weights,
        layer=layer,
        hidden=make(rng, (rows, facts.hidden)),
        positions=positions,
        places=places,
        query=make(rng, (facts.heads, rows, facts.head_dim)) / 4,
        key=make(rng, (facts.kv_heads, rows, facts.head_dim)) / 4,
        value=make(np.random.default_rng(seed + 1), (facts.kv_heads, rows, facts.head_dim)) / 4,
        visual=fields(rng, (count, facts.hidden)) / 16,
        after=fields(rng, (9, facts.hidden)) / 16,
    )


def check_cut(decoder: Decoder, name: str, kind: str, prompt: Prompt, stage: Stage) -> None:
    expected: Pruned = REFERENCES[name].cut(prompt, stage)
    hidden, ids, visual, kept = run_cut(decoder, name, prompt, stage)
    selected = stage.keep - stage.merge
    if kind == "fields":
        assert kept.tolist() == expected.kept.tolist()
        same_rows(hidden[visual], expected.rows)
    elif kind in ("ties", "dominant", "coded") and decided(name, prompt, stage):
        assert kept[:selected].tolist() == expected.kept[:selected].tolist()
        same_rows(hidden[visual][:selected], expected.rows[:selected])
    else:  # scores tie but for their rounding: which rows stay is open, how many and which order is not
        assert sorted(set(kept[:selected].tolist())) == kept[:selected].tolist()
        same_rows(hidden[visual][:selected], prompt.hidden[prompt.places[kept[:selected]]])
    # What is left of the prompt follows from what was kept, whatever that is.
    scheme = "keep" if decoder.facts.axes == 3 else methods.load(name).positions
    left = take_out(prompt.hidden, prompt.positions, prompt.places, Pruned(hidden[visual], kept), stage.merge, scheme)
    np.testing.assert_array_equal(hidden, left[0].astype(np.float32))
    np.testing.assert_array_equal(ids, left[1])
    np.testing.assert_array_equal(visual, left[2])


def run_cut(decoder: Decoder, name: str, prompt: Prompt, stage: Stage) -> list[NDArray[Any]]:
    """The torch modules on the same prompt: hidden, position ids, visual rows, kept."""
    record = methods.load(name)
    make, positions = record.decoder_cut, "keep" if decoder.facts.axes == 3 else record.positions
    assert make is not None
    module = decoder.language.cut(lambda config, fused: make(config, fused, positions), prompt.layer, False)
    values = {
        key: torch.tensor(getattr(prompt, key)[None], dtype=torch.float32)
        for key in ("hidden", "query", "key", "value")
    }
    values |= {
        "position_ids": torch.tensor(prompt.positions[..., None, :]),
        "visual_rows": torch.tensor(prompt.places[None]),
        "text_after": torch.tensor(len(prompt.after)),
        "keep": torch.tensor(stage.keep),
        "merge": torch.tensor(stage.merge),
    }
    if record.prepare is not None:  # which reads the decoder's input, long before the cut
        rows = np.concatenate([prompt.visual, prompt.after])[None]
        places = torch.arange(len(prompt.visual))[None]
        values["rater"] = record.prepare()(torch.tensor(rows, dtype=torch.float32), places, values["text_after"])
    made = module.load(torch.float32)
    hidden, ids, visual, kept = made(*(values[argument] for argument in arguments(made)))
    return [hidden[0].numpy(), ids[..., 0, :].numpy(), visual[0].numpy(), kept[0].numpy()]


def decided(name: str, prompt: Prompt, stage: Stage) -> bool:
    """Whether noise far above fp32's rounding leaves the reference's choice as it is."""
    rng = np.random.default_rng(0)
    selected = stage.keep - stage.merge
    expected = REFERENCES[name].cut(prompt, stage).kept[:selected].tolist()
    for _ in range(3):
        noisy = replace(
            prompt,
            hidden=prompt.hidden * (1 + 1e-5 * rng.standard_normal(prompt.hidden.shape)),
            query=prompt.query * (1 + 1e-5 * rng.standard_normal(prompt.query.shape)),
            value=prompt.value * (1 + 1e-5 * rng.standard_normal(prompt.value.shape)),
        )
        if REFERENCES[name].cut(noisy, stage).kept[:selected].tolist() != expected:
            return False
    return True
