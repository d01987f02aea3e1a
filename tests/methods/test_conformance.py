"""What every pruning method must hold, whatever it scores: every graph of every method, beside its eager module.

One picture, and five: before the decoder a batch of five runs of one prompt, inside it five times as many rows with
text between them. Heads with keys of their own, and grouped ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeprune import catalog
from edgeprune.budget.keep import parse_keep
from edgeprune.budget.schedule import Stage, make_schedule, site_of
from edgeprune.errors import BudgetError
from edgeprune.methods import method as methods
from tests.conftest import MakeAll, MakeCheckpoint
from tests.methods.rig import Arrays, Rig, Station, eager, rows_in, rows_out
from tests.reference.pruning import Pruned, take_out

NAMES = tuple(name for name in catalog.names() if name != "cdpruner")  # see its own file: it needs CLIP's text tower
CROPS = 5


@pytest.fixture(scope="module", params=["small-mha", "small-gqa"])
def rig(request: pytest.FixtureRequest, make_bundle_all: MakeAll, make_checkpoint: MakeCheckpoint) -> Rig:
    return Rig(make_bundle_all(request.param), make_checkpoint(request.param))


def cases(rig: Rig, name: str, crops: int) -> Iterator[tuple[Station, Stage, int, int]]:
    """Every station with its stage, the visual rows before it and its batch."""
    if rig.manifest.method(name) is None:
        pytest.skip("no cut inside the decoder: kinds of heads make no difference to it")
    for station in rig.stations(name):
        inside = isinstance(station.at, int)
        visual = rig.patches * crops if inside else rig.patches
        batch = 2 if inside else max(2, crops)
        schedule = rig.schedule(name, visual)
        index = [stage.cut for stage in schedule.stages].index(station.at)
        before = [stage for stage in schedule.stages[:index] if isinstance(stage.cut, int) or not inside]
        rows = before[-1].keep if before else visual
        yield station, schedule.stages[index], rows, batch


@pytest.mark.parametrize("crops", [1, CROPS])
@pytest.mark.parametrize("name", NAMES)
def test_counts_order_text_and_graph(rig: Rig, name: str, crops: int) -> None:
    for station, stage, visual, batch in cases(rig, name, crops):
        arrays = rig.inputs(station, stage, visual, batch, pictures=crops)
        expected = eager(station.module, station.graph, arrays)
        check_outputs(station, stage, visual, batch, arrays, expected)
        found = rig.run(station.graph, arrays)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key].shape == value.shape
            np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-4 * max(1.0, float(np.abs(value).max())))
        np.testing.assert_array_equal(found["kept"], expected["kept"])


def check_outputs(station: Station, stage: Stage, visual: int, batch: int, arrays: Arrays, outputs: Arrays) -> None:
    assert outputs["kept"].shape == (batch, stage.keep)
    assert rows_out(station, outputs).shape[:2] == (batch, stage.keep)
    for row in outputs["kept"].tolist():
        selected = row[: stage.keep - stage.merge]
        assert len(set(row)) == stage.keep
        assert selected == sorted(selected)
        assert min(row) >= (-1 if station.at == "vision" else 0)
        assert max(row) < visual
    if isinstance(station.at, int):
        staying = stage.keep - stage.merge
        for row, kept in enumerate(outputs["kept"]):
            pruned = Pruned(rows_out(station, outputs)[row], kept)
            hidden, ids, rows = (arrays[name][row] for name in ("hidden", "position_ids", "visual_rows"))
            np.testing.assert_array_equal(pruned.rows[:staying], hidden[rows[kept[:staying]]])
            left = take_out(hidden, ids, rows, pruned, stage.merge, station.entry.positions)
            for name, value in zip(("hidden_out", "position_ids_out", "visual_rows_out"), left, strict=True):
                np.testing.assert_array_equal(outputs[name][row], value)


@pytest.mark.parametrize("name", NAMES)
def test_keeping_every_row_changes_nothing(rig: Rig, name: str) -> None:
    for station, stage, visual, batch in cases(rig, name, 1):
        if stage.merge:  # a merge always fuses; the budget says so and sends such a request past the cut
            site = site_of(rig.manifest, station.entry)
            with pytest.raises(BudgetError, match=r"or all$"):
                make_schedule(name, site.tokens, site)
            assert parse_keep(site.tokens, site.tokens) is None
            continue
        whole = Stage(stage.cut, visual, 0, stage.layers)
        arrays = rig.inputs(station, whole, visual, batch)
        outputs = rig.run(station.graph, arrays)
        assert outputs["kept"].tolist() == [list(range(visual))] * batch
        rows = rows_in(station, arrays)
        if rows is None:
            rows = rig.run(rig.manifest.by_role("vision")[0], arrays)["features"]
            np.testing.assert_allclose(rows_out(station, outputs), rows, atol=1e-5)
        else:
            np.testing.assert_array_equal(rows_out(station, outputs), rows)


@pytest.mark.parametrize("name", NAMES)
def test_batch_rows_are_independent(rig: Rig, name: str) -> None:
    for station, stage, visual, batch in cases(rig, name, 1):
        arrays = rig.inputs(station, stage, visual, batch)
        together = rig.run(station.graph, arrays)
        for row in range(batch):
            own = {k: v[row : row + 1] if v.ndim and len(v) == batch else v for k, v in arrays.items()}
            alone = rig.run(station.graph, own)
            for key, value in alone.items():
                np.testing.assert_allclose(value[0], together[key][row], rtol=0, atol=2e-5)


Floats = NDArray[np.float32]


def tiny(value: Floats) -> Floats:
    """What fp16 cannot hold."""
    return np.multiply(value, 1e-8, dtype=np.float32)


def constant(value: Floats) -> Floats:
    return np.ones_like(value)


def zero(value: Floats) -> Floats:
    return np.zeros_like(value)


def large(value: Floats) -> Floats:
    return np.clip(np.multiply(value, 3e3, dtype=np.float32), -6e4, 6e4)


@pytest.mark.parametrize("change", [tiny, constant, zero, large])
@pytest.mark.parametrize("name", NAMES)
def test_fp16_stays_finite_and_exact_in_number(rig: Rig, name: str, change: Callable[[Floats], Floats]) -> None:
    """Rows of nothing, of one value, or at the end of the range: scores tie or underflow, counts hold all the same."""
    for (station, stage, visual, batch), half in zip(
        cases(rig, name, 1), rig.stations(name, torch.float16), strict=True
    ):
        arrays = rig.inputs(station, stage, visual, batch)
        for key in ("features", "hidden", "visual", "pixel_values"):
            if key in arrays:
                arrays[key] = change(arrays[key])
        for key in arrays:
            if key.startswith("cls_attention_"):  # all attention on one patch, the rest underflown
                arrays[key] = np.eye(1, visual, 3, dtype=np.float32).repeat(batch, axis=0)
            elif key.startswith(("query_", "present_key_")) and change is large:
                arrays[key] = arrays[key] * np.float32(40)
        outputs = eager(half.module, station.graph, arrays, half=True)
        check_outputs(station, stage, visual, batch, _half_text(arrays), outputs)
        if station.at == "encoder" and change is large:
            continue  # a tower fed with pixels of thousands overflows without a method, too
        if not stage.merge or change is not large:
            for key, value in outputs.items():
                assert np.isfinite(value).all(), f"{station.graph.name} {key}"


def _half_text(arrays: Arrays) -> Arrays:
    return {k: v.astype(np.float16) if k == "hidden" else v for k, v in arrays.items()}


def test_every_card_is_a_method_and_every_method_has_a_card() -> None:
    for name in catalog.names():
        card, method = catalog.card(name), methods.load(name)
        assert method.name == name
        assert method.positions == card.positions
        early = [p for p in ("encoder", "vision", "projected") if getattr(method, p) is not None]
        for kind in ("fixed", *card.places_of):
            assert card.at(32, kind) == (*early, *method.cuts(32, kind))
