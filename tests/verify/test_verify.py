"""Verify passes what is right, names what is not, and leaves its report in the bundle."""

from __future__ import annotations

import json
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgeprune.budget.schedule import Stage
from edgeprune.bundle.manifest import Model
from edgeprune.bundle.store import Bundle, describe, open_bundle
from edgeprune.errors import BudgetError, CheckpointError, OutputError
from edgeprune.runtime.cache import Cache
from edgeprune.runtime.ort import OrtBackend
from edgeprune.verify import Report, verify_bundle
from edgeprune.verify.difference import measure
from edgeprune.verify.examination import Examination
from edgeprune.verify.graphs import examine_cut
from edgeprune.verify.report import Check
from edgeprune.verify.thresholds import LIMITS, judge
from tests.conftest import MakeCheckpoint, MakeOf

BUNDLES = {
    "bundle_tiny": "checkpoint_tiny",
    "bundle_tiny_fp16": "checkpoint_tiny",
    "bundle_gqa": "checkpoint_gqa",
    "bundle_gqa_fused": "checkpoint_gqa",
}


def copy(bundle: Path, folder: Path) -> Bundle:
    return open_bundle(shutil.copytree(bundle, folder / "bundle"))


def verify(bundle: Bundle, checkpoint: Path, keeps: list[int | str] | None = None) -> Report:
    return verify_bundle(bundle, checkpoint, OrtBackend(1), keeps)


def damage(bundle: Bundle, graph: str, tensor: str) -> Bundle:
    """Double one weight in a graph's data, under an honest hash: what a faulty exporter would write."""
    entry = bundle.manifest.graph(graph)
    assert entry.data is not None
    model = onnx.load(bundle.path(entry.file), load_external_data=False)
    weight = next(value for value in model.graph.initializer if value.name == tensor)
    place = {pair.key: pair.value for pair in weight.external_data}
    path, begin, size = bundle.path(entry.data), int(place["offset"]), int(place["length"])
    data = bytearray(path.read_bytes())
    dtype = np.float32 if bundle.manifest.dtype == "fp32" else np.float16
    values = np.frombuffer(bytes(data[begin : begin + size]), dtype=dtype)
    data[begin : begin + size] = (values * 2).tobytes()
    path.write_bytes(data)
    changed = replace(entry, data=describe(bundle.root, path))
    graphs = tuple(changed if other.name == graph else other for other in bundle.manifest.graphs)
    (bundle.root / "edgeprune.json").write_text(replace(bundle.manifest, graphs=graphs).to_json(), encoding="utf-8")
    return open_bundle(bundle.root)


# --- bundles that are right ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUNDLES)
def test_a_fresh_bundle_passes(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    bundle = copy(request.getfixturevalue(name), tmp_path)
    told: list[str] = []
    report = verify_bundle(bundle, request.getfixturevalue(BUNDLES[name]), OrtBackend(1), progress=told.append)
    assert report.ok, report.table()
    assert report.first_failure is None
    graphs = [graph.name for graph in bundle.manifest.graphs]
    others = ("a wide picture", "a high picture", "two pictures")
    inputs = ["inputs", *(f"inputs of {other}" for other in others)]
    chains = ["chain keep=all", "chain visiondrop keep=21", "chain visiondrop keep=13"]
    chains += [f"chain keep=all of {other}" for other in others]
    assert [check.name for check in report.checks] == [*inputs, *graphs, *chains]
    assert told == [*graphs, *chains]
    for check in report.checks:
        assert check.differences
        assert (check.kept is None) == ("prune" not in check.name and "visiondrop" not in check.name)
        assert (check.tokens is None) == ("chain" not in check.name)


def test_the_report_is_saved_and_read_again(bundle_tiny: Path, checkpoint_tiny: Path, tmp_path: Path) -> None:
    bundle = copy(bundle_tiny, tmp_path)
    report = verify(bundle, checkpoint_tiny, [30])
    path = bundle.root / "verify.json"
    assert path.read_text(encoding="utf-8") == report.to_json()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert saved["ok"] is True and saved["first_failure"] is None
    assert saved["model"]["id"] == "tiny" and saved["backend"] == "onnxruntime-cpu"
    assert saved["limits"]["graph"]["cosine"] == 0.99999
    assert "chain visiondrop keep=30" in [check["name"] for check in saved["checks"]]
    assert {entry.name for entry in bundle.root.iterdir()} >= {"verify.json", "edgeprune.json"}
    assert not list(bundle.root.glob(".verify*"))
    open_bundle(bundle.root)  # the report makes it no other bundle
    assert "segment_3_4" in report.table() and "FAIL" not in report.table()


# --- bundles that are not -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("graph", "tensor"),
    [
        ("vision", "encoder.layers.0.self_attn.k_proj.weight"),
        ("project", "linear_2.weight"),
        ("segment_1_2", "layers.1.self_attn.v_proj.weight"),
        ("prune_visiondrop_2", "self_attn.q_proj.weight"),
        ("segment_3_4", "lm_head.weight"),
    ],
)
def test_the_graph_with_a_damaged_weight_is_named(
    bundle_tiny: Path, checkpoint_tiny: Path, tmp_path: Path, graph: str, tensor: str
) -> None:
    report = verify(damage(copy(bundle_tiny, tmp_path), graph, tensor), checkpoint_tiny, [30])
    assert not report.ok
    assert report.first_failure is not None and report.first_failure.name == graph
    failed = [check.name for check in report.checks if not check.name.startswith("chain") and not check.ok]
    assert failed == [graph]  # the others are not blamed
    assert any(check.name.startswith("chain") and not check.ok for check in report.checks)
    assert f"FAIL {graph}: " in report.table()
    assert json.loads((tmp_path / "bundle/verify.json").read_text())["first_failure"] == graph


@pytest.mark.parametrize(
    ("graph", "tensor"),
    [
        ("vision", "encoder.layers.0.mlp.fc2.weight"),
        ("segment_0_1", "layers.0.self_attn.k_proj.weight"),
        ("prune_visiondrop_1", "self_attn.k_proj.weight"),
    ],
)
def test_the_limits_of_fp16_find_it_too(
    bundle_tiny_fp16: Path, checkpoint_tiny: Path, tmp_path: Path, graph: str, tensor: str
) -> None:
    report = verify(damage(copy(bundle_tiny_fp16, tmp_path), graph, tensor), checkpoint_tiny, [20])
    assert report.first_failure is not None and report.first_failure.name == graph


def test_a_wrong_position_is_found_where_no_graph_is_wrong(
    bundle_tiny: Path, checkpoint_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classic silent bug: after a cut the next token goes on counting from the unpruned prompt."""
    monkeypatch.setattr(Cache, "position", lambda cache, index: cache.prompt + cache.generated)
    report = verify(copy(bundle_tiny, tmp_path), checkpoint_tiny, [20])
    assert [check.name for check in report.checks if not check.ok] == ["chain visiondrop keep=20"]


def test_a_graph_that_does_not_load_is_named(bundle_tiny: Path, checkpoint_tiny: Path, tmp_path: Path) -> None:
    bundle = copy(bundle_tiny, tmp_path)
    bundle.path(bundle.manifest.graph("segment_2_3").file).write_bytes(b"no graph")
    report = verify(bundle, checkpoint_tiny, [20])
    assert report.first_failure is not None and report.first_failure.name == "segment_2_3"
    assert "segment_2_3 does not load" in report.first_failure.failures[0]


def test_another_checkpoint_is_refused(bundle_tiny: Path, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="other sizes"):
        verify(copy(bundle_tiny, tmp_path), make_checkpoint("tiny-gqa"))


def test_a_budget_out_of_reach_is_refused(bundle_tiny: Path, checkpoint_tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"13\.\.42"):
        verify(copy(bundle_tiny, tmp_path), checkpoint_tiny, [12])


def test_a_method_that_cannot_prune_the_sample_is_left_out(
    make_bundle_of: MakeOf, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    """This model's videos are so small that VisionDrop has no budget for one; the report says so, and goes on."""
    bundle = copy(make_bundle_of("tiny-qwen2.5-vl", "video"), tmp_path)
    checkpoint = make_checkpoint("tiny-qwen2.5-vl")
    report = verify_bundle(bundle, checkpoint, OrtBackend(1))
    assert report.ok, report.table()
    assert not [check.name for check in report.checks if "visiondrop" in check.name]
    (note,) = (note for note in report.checks[0].notes if "visiondrop" in note)
    assert note.startswith("visiondrop and its graphs are not checked: visiondrop cannot prune 270 visual tokens")
    assert note in report.table()
    for keeps, methods in (([90], None), (None, ["visiondrop"])):  # asked for
        with pytest.raises(BudgetError, match="visiondrop cannot prune 270 visual tokens"):
            verify_bundle(bundle, checkpoint, OrtBackend(1), keeps, methods=methods)


def test_a_report_that_cannot_be_written(tmp_path: Path, bundle_tiny: Path) -> None:
    model = open_bundle(bundle_tiny, check_hashes=False).manifest.model
    with pytest.raises(OutputError, match=r"verify\.json"):
        Report(model, "fp32", "base", "fake", ()).save(tmp_path / "nowhere")


# --- the numbers --------------------------------------------------------------------------------------------------


def test_measure() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 1.0]])
    same = measure("x", reference, reference)
    assert (same.cosine, same.worst_cosine, same.norm_ratio, same.max_error) == (1.0, 1.0, 1.0, 0.0)
    assert judge(same, LIMITS["fp32", "graph"]) == ()
    twice = measure("x", reference, 2 * reference)
    assert (twice.cosine, twice.norm_ratio, twice.max_error) == (1.0, 2.0, 1.0)
    turned = measure("x", reference, np.array([[3.0, 4.0], [1.0, 0.0]]))
    assert (turned.cosine, turned.worst_cosine) == (0.5, 0.0)
    nothing = measure("x", np.zeros((2, 3)), np.zeros((2, 3)))
    assert (nothing.cosine, nothing.norm_ratio, nothing.max_error) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_fails(value: float) -> None:
    reference = np.ones((2, 3))
    found = reference.copy()
    found[1, 1] = value
    difference = measure("x", reference, found)
    assert len(judge(difference, LIMITS["fp16", "chain"])) == 4
    check = Check("a graph", "graph", (difference,), None, None, ("bad",), ())
    report = Report(Model("tiny", None, "LlavaForConditionalGeneration", "llava"), "fp32", "base", "fake", (check,))
    assert json.loads(report.to_json())["checks"][0]["differences"][0]["cosine"] is None
    assert "nan" in report.table()


def test_kept_rows() -> None:
    """In fp32 they must be the same; in fp16 most of the selected ones."""
    ours = np.array([[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 20, 22]])
    refers = np.arange(12)[None] >= 10
    theirs = ours.copy()
    theirs[0, 9:] = (10, 21, 23)  # one of ten selected rows, and the references that follow from it
    examination = Examination("x", "graph", "fp16")
    assert not examination.kept("kept", ours, theirs, refers)
    assert examination.done().ok and examination.done().kept == 0.9
    examination = Examination("x", "graph", "fp32")
    assert not examination.kept("kept", ours, theirs, refers)
    assert not examination.done().ok
    examination = Examination("x", "graph", "fp16")
    assert not examination.kept("kept", ours, np.where(ours == 22, 23, ours), refers)
    assert "other references" in examination.done().failures[0]
    examination = Examination("x", "graph", "fp16")
    assert not examination.kept("kept", ours, ours[:, [1, 0, *range(2, 12)]], refers)
    assert "in another order" in examination.done().failures[0]


def test_references_behind_graphs_that_round() -> None:
    """Two clusters of about one weight change places in fp16; in fp32 nothing does."""
    ours = np.array([[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 20, 22]])
    refers = np.arange(12)[None] >= 10
    theirs = ours[:, [*range(10), 11, 10]]
    for dtype, ok in (("fp16", True), ("fp32", False)):
        examination = Examination("chain", "pruned", dtype)
        assert not examination.kept("kept", ours, theirs, refers)
        assert examination.done().ok == ok
    examination = Examination("chain", "pruned", "fp16")
    assert not examination.kept("kept", ours, ours[:, [1, 0, *range(2, 12)]], refers)
    assert not examination.done().ok


@pytest.mark.parametrize("axes", [(), (3,)])
@pytest.mark.parametrize("wrong", [False, True])
def test_positions_of_rows_that_both_kept(axes: tuple[int, ...], wrong: bool) -> None:
    """Two rows of text around ten visual ones, which keep their positions; one of those is another one."""

    def outputs(kept: list[int]) -> dict[str, torch.Tensor]:
        rows = torch.tensor([[0, *(row + 1 for row in kept), 40]])
        places = torch.arange(1, 11)[None]
        hidden = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))[rows[0]][None]
        positions = rows.expand(*axes, *rows.shape).clone()
        return {
            "hidden_out": hidden,
            "position_ids_out": positions,
            "visual_rows_out": places,
            "kept": torch.tensor([kept]),
        }

    expected, other = outputs(list(range(0, 20, 2))), outputs([0, 1, *range(4, 20, 2)])
    other["position_ids_out"][..., 5] += wrong
    examination = Examination("x", "graph", "fp16")
    found = {name: value.numpy() for name, value in other.items()}
    examine_cut(expected, found, Stage(2, 10, 0, 2), 1.0, examination)
    assert examination.done().ok != wrong
    assert examination.done().kept == 0.9


def test_kept_rows_of_several_runs() -> None:
    """Class rows have one number in all of them; merged rows need not be the last."""
    ours = np.array([[-1, 3, 4, -1, 70, 68]])
    refers = np.array([[False, False, True, False, False, True]])
    examination = Examination("x", "graph", "fp32")
    assert examination.kept("kept", ours, ours.copy(), refers)
    assert not examination.kept("kept", ours, np.where(ours == 70, -1, ours), refers)
    assert not examination.done().ok


def test_a_mismatch_of_the_prompt_is_named(bundle_tiny: Path, checkpoint_tiny: Path, tmp_path: Path) -> None:
    """A processor that resizes otherwise and a template of other words are found before any graph is blamed."""
    bundle = copy(bundle_tiny, tmp_path)
    facts = bundle.manifest
    template = facts.prompt.template.replace("ASSISTANT:", "HELPER:")
    changed = replace(facts, image=replace(facts.image, resample=0), prompt=replace(facts.prompt, template=template))
    (bundle.root / "edgeprune.json").write_text(changed.to_json(), encoding="utf-8")
    report = verify(open_bundle(bundle.root), checkpoint_tiny, [20])
    assert report.first_failure is not None and report.first_failure.name == "inputs"
    words = " ".join(report.first_failure.failures)
    assert "token ids" in words and "pixel_values" in words


def test_a_shape_that_differs_fails() -> None:
    examination = Examination("x", "graph", "fp32")
    examination.tensor("hidden", np.ones((1, 2, 3)), np.ones((1, 3, 3)))
    assert examination.done().failures == ("hidden has shape [1, 3, 3], expected [1, 2, 3]",)
