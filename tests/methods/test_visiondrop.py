"""VisionDrop's modules: golden checks of the published code's behaviour, the numpy reference, and their graphs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from edgeprune.budget.schedule import Site, make_schedule
from edgeprune.bundle.store import open_bundle
from edgeprune.checkpoint.config import read_config
from edgeprune.checkpoint.rope import Rope
from edgeprune.checkpoint.weights import Weights
from edgeprune.decoders.llama import LlamaSettings
from edgeprune.families.llava import Llava
from edgeprune.methods.attention import probabilities
from edgeprune.methods.class_row import ApartStage
from edgeprune.methods.selection import merge_rest, selected_first
from edgeprune.methods.visiondrop import DecoderCut
from edgeprune.runtime.ort import OrtBackend
from tests.reference import llava, visiondrop
from tests.reference.visiondrop import Stage

PLAIN = Rope(10000.0)


@dataclass(frozen=True)
class Small:
    """A decoder configuration that is no checkpoint's."""

    hidden: int = 16
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 4
    intermediate: int = 8
    vocab: int = 8
    context: int = 256
    norm_eps: float = 1e-5
    rope: Rope = PLAIN
    qkv_bias: bool = False


def random_cut(seed: int) -> DecoderCut:
    """A cut with random weights and no rotation."""
    generator = torch.Generator().manual_seed(seed)
    cut = DecoderCut(Small(), fused=False, positions="repack")
    for parameter in cut.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    cut.rotary.cos.data.fill_(1.0)
    cut.rotary.sin.data.fill_(0.0)
    return cut.requires_grad_(False)


def repacking(config: LlamaSettings, fused: bool) -> DecoderCut:
    return DecoderCut(config, fused, "repack")


def scalars(*values: int) -> list[torch.Tensor]:
    return [torch.tensor(value) for value in values]


def span(start: int, length: int, batch: int = 1) -> torch.Tensor:
    """The visual rows of prompts with one picture."""
    return torch.arange(start, start + length).expand(batch, -1).contiguous()


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- golden checks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("others", "merged", "expected"),
    [
        (535, 6, [0, 89, 178, 267, 356, 445]),
        (523, 10, list(range(0, 469, 52))),
        (18, 5, [0, 3, 6, 9, 12]),
        (13, 4, [0, 3, 6, 9]),
        (10, 3, [0, 3, 6]),
        (3, 3, [0, 1, 2]),
    ],
)
def test_references_stand_at_a_uniform_stride(others: int, merged: int, expected: list[int]) -> None:
    dominant = 7
    order = torch.arange(dominant + others)[None]
    x = normal(0, 1, dominant + others, 8)
    _, index = merge_rest(x, x, order, dominant, merged)
    assert index[0, :dominant].tolist() == list(range(dominant))
    assert (index[0, dominant:] - dominant).tolist() == expected


def test_identical_keys_all_go_to_the_first_reference_as_a_mean_on_top_of_it() -> None:
    x, key = normal(0, 1, 21, 8), torch.ones(1, 21, 4)
    rows, _ = merge_rest(x, key, torch.arange(21)[None], 3, 5)  # 18 others, references at 0, 3, 6, 9, 12
    rest = x[0, 3:]
    candidates = [index for index in range(18) if index not in (0, 3, 6, 9, 12)]
    torch.testing.assert_close(rows[0, 3], rest[0] + rest[candidates].mean(dim=0))
    torch.testing.assert_close(rows[0, 4:], rest[[3, 6, 9, 12]], rtol=0, atol=0)


def test_lengths_of_the_published_prompt() -> None:
    """T = 64 with 63 rows of text, 35 of them before the picture: 159, 133, 115 and 101 rows."""
    stages = make_schedule("visiondrop", 64, Site(576, ("vision", 8, 16, 24), 32)).stages
    stage = ApartStage()
    features, cls = normal(0, 1, 576, 16), normal(1, 1, 1, 16)
    attention, key = normal(2, 1, 576).softmax(dim=1), normal(3, 1, 577, 4)
    visual, kept = stage(features, cls, attention, key, *scalars(stages[0].keep, stages[0].merge))
    hidden = torch.cat((normal(4, 1, 35, 16), visual, normal(5, 1, 28, 16)), dim=1)
    positions, lengths, cut = torch.arange(hidden.shape[1])[None], [hidden.shape[1]], random_cut(6)
    for before, after in pairwise(stages):
        text = hidden[:, :35], hidden[:, 35 + before.keep :]
        given = hidden, positions, span(35, before.keep), *scalars(after.keep, after.merge)
        hidden, positions, visual_rows, kept = cut(*given)
        assert torch.equal(visual_rows, span(35, after.keep))
        lengths.append(hidden.shape[1])
        assert positions.tolist() == [list(range(hidden.shape[1]))]
        assert kept.shape == (1, after.keep)
        assert torch.equal(hidden[:, :35], text[0]) and torch.equal(hidden[:, -28:], text[1])
    assert lengths == [159, 133, 115, 101]


def test_the_class_row_is_always_first_and_dominant() -> None:
    attention = torch.full((1, 64), 0.9)
    rows, kept = ApartStage()(
        normal(0, 1, 64, 8), torch.full((1, 1, 8), 7.0), attention, normal(1, 1, 65, 4), *scalars(10, 2)
    )
    assert kept[0, :8].tolist() == [-1, 0, 1, 2, 3, 4, 5, 6]  # all patches tie: the lower ones
    assert rows[0, 0].tolist() == [7.0] * 8


def test_softmax_over_the_whole_row_ranks_otherwise_than_over_visual_keys_alone() -> None:
    cut, hidden, start = random_cut(1), normal(2, 1, 60, 16), 20
    positions = torch.arange(60)[None]
    full = score(cut, hidden, positions, start)
    alone = score(cut, hidden[:, start:], positions[:, start:], 0)
    assert not torch.equal(full.argsort(descending=True), alone.argsort(descending=True))
    selected = [selected_first(found, 12)[0, :12].tolist() for found in (full, alone)]
    assert selected[0] != selected[1]
    *_, kept = cut(hidden, positions, span(start, 40), *scalars(14, 2))
    assert kept[0, :12].tolist() == selected[0]


def score(cut: DecoderCut, hidden: torch.Tensor, positions: torch.Tensor, start: int) -> torch.Tensor:
    """The mean attention [B, v] that every row from ``start`` on receives from all of them."""
    rows = span(start, hidden.shape[1] - start)
    query, key = cut.query_key(hidden, positions, rows)
    return probabilities(query, key, rows).mean(dim=1)[:, :, start:].mean(dim=1)


# --- the numpy reference --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(checkpoint_gqa: Path) -> llava.Weights:
    config: dict[str, Any] = json.loads((checkpoint_gqa / "config.json").read_text())
    return llava.Weights(load_file(checkpoint_gqa / "model.safetensors"), config)


@pytest.fixture(scope="module")
def family(checkpoint_gqa: Path) -> Llava:
    return Llava(read_config(checkpoint_gqa, "llava"), Weights(checkpoint_gqa))


def close(found: torch.Tensor, expected: llava.Array) -> None:
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5 * float(np.ptp(expected)))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("layer", [2, 6])
@pytest.mark.parametrize(("start", "length", "after"), [(9, 50, 5), (0, 40, 3), (12, 33, 0)])
def test_cut_like_the_reference(
    weights: llava.Weights, family: Llava, layer: int, fused: bool, start: int, length: int, after: int
) -> None:
    cut = family.cut(repacking, layer, fused).load(torch.float32)
    hidden = normal(layer, 1, start + length + after, 32)
    positions = torch.arange(hidden.shape[1])[None]
    for keep, merge in ((length, 1), (length - 8, 4), (20, 3), (2, 1)):
        rows, _, _, kept = cut(hidden, positions, span(start, length), *scalars(keep, merge))
        expected = visiondrop.decoder_stage(
            weights,
            layer,
            hidden[0].double().numpy(),
            positions[0].numpy(),
            np.arange(start, start + length),
            Stage(keep - merge, merge),
        )
        assert kept[0].tolist() == expected.kept.tolist()
        close(rows[0, start : start + keep], expected.rows)


@pytest.mark.parametrize(("keep", "merge"), [(64, 1), (48, 6), (20, 3), (9, 4), (2, 1)])
def test_vision_stage_like_the_reference(keep: int, merge: int) -> None:
    features, keys = normal(0, 65, 16), normal(1, 2, 65, 8)
    attention = normal(2, 2, 65).softmax(dim=1)
    check_vision_stage(features, attention, keys, keep, merge)


def test_ties_go_to_the_lower_row_and_the_first_reference() -> None:
    """Scores out of three values and keys along the axes, so that sums and cosines tie to the last bit."""
    generator = torch.Generator().manual_seed(5)
    attention = torch.randint(1, 4, (2, 65), generator=generator) / 256
    attention[1] = attention[0]
    axis = torch.randint(0, 4, (65,), generator=generator)
    keys = torch.nn.functional.one_hot(axis, 4).float().expand(2, -1, -1)
    for keep, merge in ((40, 5), (21, 9), (13, 2)):
        check_vision_stage(normal(6, 65, 16), attention, keys, keep, merge)


def test_all_scores_equal() -> None:
    check_vision_stage(torch.ones(65, 16), torch.full((2, 65), 1 / 65), torch.ones(2, 65, 4), 20, 3)
    assert selected_first(torch.zeros(2, 9), 4).tolist() == [list(range(9))] * 2


def check_vision_stage(
    features: torch.Tensor, attention: torch.Tensor, keys: torch.Tensor, keep: int, merge: int
) -> None:
    """Compare with the reference: features [65, D], attention [heads, 65] and keys [heads, 65, d], class row first."""
    rows, kept = ApartStage()(
        features[None, 1:],
        features[None, :1],
        attention.sum(dim=0)[None, 1:],
        keys.mean(dim=0)[None],
        *scalars(keep, merge),
    )
    vision = llava.Vision(features.double().numpy(), attention.double().numpy(), keys.double().numpy())
    expected = visiondrop.encoder_stage(vision, Stage(keep - merge, merge))
    assert kept[0].tolist() == (expected.kept - 1).tolist()
    np.testing.assert_allclose(rows[0].numpy(), expected.rows, atol=1e-5)


# --- ranges -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "merge"), [(5, 0), (5, 5), (3, 4), (66, 2)])
def test_counts_out_of_range_are_refused(keep: int, merge: int) -> None:
    with pytest.raises(RuntimeError):
        ApartStage()(
            normal(0, 1, 64, 8), normal(1, 1, 1, 8), normal(2, 1, 64), normal(3, 1, 65, 4), *scalars(keep, merge)
        )


@pytest.mark.parametrize(("start", "length"), [(-1, 10), (5, 1), (20, 11)])
def test_rows_out_of_range_are_refused(start: int, length: int) -> None:
    with pytest.raises((RuntimeError, IndexError)):
        random_cut(0)(normal(0, 1, 30, 16), torch.arange(30)[None], span(start, length), *scalars(8, 2))


def test_fp16_stays_finite() -> None:
    """Sums of hundreds of large rows would pass 65504; means do not."""
    features = torch.full((2, 576, 8), 30000.0, dtype=torch.float16)
    attention, key = normal(0, 2, 576).softmax(dim=1), torch.ones(2, 577, 4)
    rows, _ = ApartStage()(features, features[:, :1], attention, key, *scalars(20, 3))
    assert rows.dtype == torch.float16
    assert rows.isfinite().all() and float(rows.max()) == 60000.0

    cut = random_cut(1).half()
    hidden = (normal(2, 2, 80, 16) * 3000).half()
    pruned, positions, _, _ = cut(hidden, torch.arange(80).expand(2, -1), span(10, 60, 2), *scalars(20, 3))
    assert pruned.dtype == torch.float16 and positions.dtype == torch.int64
    assert pruned.isfinite().all()


# --- graphs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bundle_gqa", "bundle_gqa_fused"])
def test_graphs_like_the_modules(name: str, family: Llava, request: pytest.FixtureRequest) -> None:
    """The exported graphs on other sizes than they were traced with."""
    bundle = open_bundle(request.getfixturevalue(name), check_hashes=False)
    backend = OrtBackend(1)
    for graph in bundle.manifest.by_role("prune"):
        session = backend.session(graph, bundle.path(graph.file))
        at_vision = graph.name.endswith("vision")
        layer = 0 if at_vision else int(graph.name.rsplit("_", 1)[1])
        module = ApartStage() if at_vision else family.cut(repacking, layer, fused=False).load(torch.float32)
        for seed, batch in enumerate((1, 2, 3)):
            for inputs in vision_inputs(seed, batch) if at_vision else cut_inputs(seed, batch):
                expected = module(*inputs)
                feeds = [backend.array(value.numpy()) for value in inputs]
                found = session.run(dict(zip((tensor.name for tensor in graph.inputs), feeds, strict=True)))
                for tensor, value in zip(graph.outputs, expected, strict=True):
                    result = torch.from_numpy(backend.numpy(found[tensor.name]))
                    torch.testing.assert_close(result, value)


def vision_inputs(seed: int, batch: int) -> list[list[torch.Tensor]]:
    rows = [normal(seed, batch, 64, 32), normal(seed + 10, batch, 1, 32)]
    rows += [normal(seed + 20, batch, 64).softmax(dim=1), normal(seed + 30, batch, 65, 16)]
    rows[2][:, 5:40] = rows[2][:, 5:6]  # ties
    return [[*rows, *scalars(keep, merge)] for keep, merge in ((65, 1), (60, 8), (20, 3), (9, 8), (2, 1))]


def cut_inputs(seed: int, batch: int) -> list[list[torch.Tensor]]:
    found = []
    for before, length, after in ((7, 48, 21), (0, 20, 1), (30, 9, 0)):
        hidden = normal(seed, batch, before + length + after, 32)
        positions = torch.arange(hidden.shape[1]).expand(batch, -1).contiguous()
        for keep, merge in ((length, 1), (length - 3, 2), (length // 2, 3), (2, 1)):
            found.append([hidden, positions, span(before, length, batch), *scalars(keep, merge)])
    return found
