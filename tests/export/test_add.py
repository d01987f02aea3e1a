"""Methods added to a bundle that is there: what they need is new, everything else is the same file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgeprune.bundle.manifest import NAME, Graph, Manifest
from edgeprune.bundle.store import Bundle, open_bundle
from edgeprune.checkpoint.source import Source, resolve
from edgeprune.errors import BudgetError, CheckpointError, UsageError
from edgeprune.export.add import Added, add_methods
from edgeprune.export.bundle import Request, export_bundle
from edgeprune.runtime.ort import OrtBackend
from edgeprune.verify import verify_bundle
from tools.random_checkpoint import write_checkpoint

PLAN = Path("engines/h200@tensorrt-11/project.plan")


@dataclass(frozen=True)
class Case:
    """A bundle before and after FastV came to it; ``before`` are its files' numbers in the file system."""

    old: Manifest
    before: dict[Path, int]
    done: Added


def copy(bundle: Path, folder: Path) -> Path:
    """A bundle of one's own, with a plan and a report."""
    root = Path(shutil.copytree(bundle, folder / "bundle"))
    (root / PLAN).parent.mkdir(parents=True, exist_ok=True)
    (root / PLAN).write_bytes(b"a plan")
    (root / "verify.json").write_text("{}")
    return root


def files(root: Path) -> dict[Path, int]:
    return {path.relative_to(root): path.stat().st_ino for path in sorted(root.rglob("*")) if path.is_file()}


def add_fastv(bundle: Path, checkpoint: Path, folder: Path) -> Case:
    root = copy(bundle, folder)
    opened, before = open_bundle(root), files(root)
    return Case(opened.manifest, before, add_methods(opened, resolve(str(checkpoint)), ["fastv"]))


@pytest.fixture(scope="module")
def gqa(bundle_gqa: Path, checkpoint_gqa: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """FastV cuts before layer 1, where this bundle has no segment's end."""
    return add_fastv(bundle_gqa, checkpoint_gqa, tmp_path_factory.mktemp("gqa"))


@pytest.fixture(scope="module")
def tiny(bundle_tiny: Path, checkpoint_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """FastV cuts where VisionDrop cuts, and wants the queries in front of it."""
    return add_fastv(bundle_tiny, checkpoint_tiny, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(params=["gqa", "tiny"])
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.getfixturevalue(request.param)
    return found


def of(manifest: Manifest) -> dict[str, Graph]:
    return {graph.name: graph for graph in manifest.graphs}


# --- what becomes of the graphs -----------------------------------------------------------------------------------


def test_a_cut_in_a_new_place_splits_one_segment(gqa: Case) -> None:
    assert gqa.done.added == ("segment_0_1", "prune_fastv_1", "segment_1_2")
    assert gqa.done.rewritten == ()
    assert gqa.done.removed == ("segment_0_2",)
    assert gqa.done.kept == tuple(graph.name for graph in gqa.old.graphs if graph.name != "segment_0_2")


def test_queries_in_front_of_a_cut_rewrite_one_segment(tiny: Case) -> None:
    assert tiny.done.added == ("prune_fastv_1",)
    assert tiny.done.rewritten == ("segment_0_1",)
    assert tiny.done.removed == ()
    assert tiny.done.kept == tuple(graph.name for graph in tiny.old.graphs if graph.name != "segment_0_1")
    shown = of(tiny.done.bundle.manifest)["segment_0_1"].outputs
    assert shown[:-1] == of(tiny.old)["segment_0_1"].outputs
    assert shown[-1].name == "query_0"


def test_every_graph_is_told_once_and_truly(case: Case) -> None:
    done, old, new = case.done, of(case.old), of(case.done.bundle.manifest)
    told = [*done.added, *done.rewritten, *done.kept, *done.removed]
    assert len(set(told)) == len(told)
    assert set(done.added) == set(new) - set(old)
    assert set(done.removed) == set(old) - set(new)
    assert set(done.rewritten) == {name for name in set(old) & set(new) if old[name] != new[name]}
    assert set(done.kept) == {name for name in set(old) & set(new) if old[name] == new[name]}


def test_what_stays_is_the_same_file_and_what_is_gone_is_gone(case: Case) -> None:
    root, new = case.done.bundle.root, case.done.bundle.manifest
    after, graphs = files(root), of(new)
    same = [new.tokenizer, new.embedding]
    same += [file for name in case.done.kept for file in (graphs[name].file, graphs[name].data) if file is not None]
    for file in same:
        assert after[Path(file.path)] == case.before[Path(file.path)], file.path
    for name in (*case.done.added, *case.done.rewritten):
        assert after[Path(graphs[name].file.path)] not in case.before.values()
    listed = {Path(file.path) for file in new.files}
    assert set(after) == {*listed, Path(NAME), PLAN}  # no file of a removed graph, and no report about another bundle
    assert [path.name for path in root.parent.iterdir()] == ["bundle"]


def test_plans_stay(case: Case) -> None:
    root = case.done.bundle.root
    assert (root / PLAN).read_bytes() == b"a plan"
    assert files(root)[PLAN] == case.before[PLAN]


def test_the_manifest_is_that_of_an_export_with_both(tiny: Case, checkpoint_tiny: Path, tmp_path: Path) -> None:
    """Hashes included: nothing tells how a bundle came to its methods."""
    fresh = export_bundle(Request(resolve(str(checkpoint_tiny)), ("visiondrop", "fastv")), tmp_path / "both")
    assert tiny.done.bundle.manifest == fresh.manifest


def test_the_old_method_is_as_it_was(case: Case) -> None:
    new = case.done.bundle.manifest
    assert [method.name for method in new.methods] == ["visiondrop", "fastv"]
    assert new.methods[0] == case.old.methods[0]
    assert replace(new, graphs=case.old.graphs, methods=case.old.methods) == case.old


# --- what it computes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gqa", "tiny"])
def test_it_verifies_with_both_methods_and_with_none(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    case: Case = request.getfixturevalue(name)
    checkpoint: Path = request.getfixturevalue(f"checkpoint_{name}")
    bundle = open_bundle(shutil.copytree(case.done.bundle.root, tmp_path / "copy"))  # every hash is checked
    report = verify_bundle(bundle, checkpoint, OrtBackend(1), ["all", 30])
    assert report.ok, report.table()
    names = {check.name for check in report.checks}
    others = ("a wide picture", "a high picture", "two pictures")
    assert names == {
        "inputs",
        *(f"inputs of {other}" for other in others),
        *(graph.name for graph in bundle.manifest.graphs),
        "chain keep=all",
        *(f"chain keep=all of {other}" for other in others),
        "chain visiondrop keep=30",
        "chain fastv keep=30",
    }


# --- what is refused, and what a failure leaves -------------------------------------------------------------------


@pytest.fixture
def root(bundle_tiny: Path, tmp_path: Path) -> Iterator[Path]:
    """A bundle that must not change."""
    folder = copy(bundle_tiny, tmp_path)
    before, text = files(folder), (folder / NAME).read_text()
    yield folder
    assert files(folder) == before
    assert (folder / NAME).read_text() == text
    open_bundle(folder)
    assert not list(tmp_path.glob(".bundle*"))


def source(folder: Path) -> Source:
    return Source(folder, folder.name, None)


def test_a_method_that_is_there(root: Path, checkpoint_tiny: Path) -> None:
    with pytest.raises(UsageError, match="--add-method visiondrop: the bundle has it already; it has visiondrop"):
        add_methods(open_bundle(root), source(checkpoint_tiny), ["fastv", "visiondrop"])


def test_methods_that_are_none(root: Path, checkpoint_tiny: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown method 'fastvv'.*did you mean 'fastv'"):
        add_methods(open_bundle(root), source(checkpoint_tiny), ["fastvv"])
    with pytest.raises(UsageError, match="names a method twice"):
        add_methods(open_bundle(root), source(checkpoint_tiny), ["fastv", "fastv"])


def test_a_checkpoint_of_other_sizes(root: Path, checkpoint_gqa: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tiny-gqa is not the checkpoint of .*bundle, .* exported from tiny;"):
        add_methods(open_bundle(root), source(checkpoint_gqa), ["fastv"])


def test_a_checkpoint_of_the_same_sizes(root: Path, tmp_path: Path) -> None:
    other = write_checkpoint("tiny", tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match="give that one with --model"):
        add_methods(open_bundle(root), source(other), ["fastv"])


@pytest.mark.parametrize("part", ["vision_tower", "multi_modal_projector"])
def test_a_checkpoint_with_another_encoder_or_projector(
    root: Path, checkpoint_tiny: Path, tmp_path: Path, part: str
) -> None:
    """Its language model is the bundle's."""
    other = Path(shutil.copytree(checkpoint_tiny, tmp_path / "other"))
    tensors = load_file(other / "model.safetensors")
    strange = {name: value + np.float32(0.1) if part in name else value for name, value in tensors.items()}
    save_file(strange, other / "model.safetensors")
    with pytest.raises(CheckpointError, match="give that one with --model"):
        add_methods(open_bundle(root), source(other), ["fastv"])


def test_no_checkpoint(root: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        add_methods(open_bundle(root), source(tmp_path), ["fastv"])


class Stops:
    """Progress of an export that fails when two graphs are written."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.started = error, list[str]()

    def start(self, name: str, index: int, count: int, total_bytes: int) -> None:
        self.started.append(name)

    def advance(self, written_bytes: int) -> None:
        pass

    def finish(self) -> None:
        if len(self.started) == 2:
            raise self.error


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_the_old_bundle(root: Path, checkpoint_tiny: Path, error: BaseException) -> None:
    progress = Stops(error)
    with pytest.raises(type(error)):
        add_methods(open_bundle(root), source(checkpoint_tiny), ["visionzip", "sparsevlm"], progress)
    assert len(progress.started) == 2


def test_a_failure_at_the_end_leaves_the_old_bundle(
    root: Path, checkpoint_tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise BudgetError("who knows")

    monkeypatch.setattr("edgeprune.export.add.entries", fail)
    with pytest.raises(BudgetError, match="who knows"):
        add_methods(open_bundle(root), source(checkpoint_tiny), ["fastv"])


def test_the_bundle_given_is_not_read_again(root: Path, checkpoint_tiny: Path) -> None:
    """A manifest whose method this edgeprune does not know is refused by name."""
    opened = open_bundle(root)
    method = replace(opened.manifest.methods[0], name="tomorrow")
    newer = Bundle(root, replace(opened.manifest, methods=(method,)))
    with pytest.raises(UsageError, match="unknown method 'tomorrow'"):
        add_methods(newer, source(checkpoint_tiny), ["fastv"])
