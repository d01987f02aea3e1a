"""A build from beginning to end with TensorRT-RTX: what it writes, what it reuses and why it builds again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgeprune.bundle.build import NAME, Build
from edgeprune.bundle.plans import built_keys, plan_folder, plan_path, read_build
from edgeprune.bundle.store import Bundle, open_bundle, sha256
from edgeprune.engines.build import build_bundle
from edgeprune.engines.choose import Choice, available_bytes
from edgeprune.engines.examine import Request, examine
from edgeprune.engines.monitor import Silent
from edgeprune.engines.profile import fit_shapes, widen_shapes
from edgeprune.errors import BackendError, UsageError
from edgeprune.nvidia.library import open_library
from edgeprune.recipes import find
from edgeprune.recipes import target as targets
from edgeprune.recipes.target import Range, Shapes, Target
from edgeprune.runtime import trusted

LIBRARY = open_library("tensorrt-rtx")
CHOICE = Choice(targets.load("rtx-portable").stacks[0], LIBRARY, None, None)
KEY = "one@tensorrt-rtx"


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has built nothing yet; ``built`` takes over what its plans' machine remembers."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(scope="module")
def target_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``rtx-portable`` for one GPU, which builds four times as fast."""
    text = find.find("engines", "rtx-portable").read_text(encoding="utf-8")
    text, count = re.subn(r"(?m)^compute_capability = .*$", 'compute_capability = ["8.6"]', text)
    assert count == 1
    path = tmp_path_factory.mktemp("target") / "one.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def request_(target_file: Path) -> Request:
    target = targets.load(str(target_file))
    return Request(target, target.stacks[0], "fp16")


@pytest.fixture(scope="module")
def finished(
    bundle_tiny_fp16: Path, request_: Request, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Bundle, Build, dict[str, str], list[str]]]:
    """A bundle that was built, the build, what became of every graph, and what was told."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        bundle = open_bundle(shutil.copytree(bundle_tiny_fp16, folder / "bundle"))
        yield bundle, *build(bundle, request_)


@pytest.fixture
def bundle(bundle_tiny_fp16: Path, tmp_path: Path) -> Bundle:
    """Not built yet."""
    return open_bundle(shutil.copytree(bundle_tiny_fp16, tmp_path / "bundle"))


@pytest.fixture
def built(finished: tuple[Bundle, Build, dict[str, str], list[str]], tmp_path: Path) -> Bundle:
    """Built, to be changed."""
    shutil.copytree(finished[0].root.parent / "state", tmp_path / "state")
    return open_bundle(shutil.copytree(finished[0].root, tmp_path / "built"))


def build(bundle: Bundle, request: Request) -> tuple[Build, dict[str, str], list[str]]:
    """The build, what became of every graph, and what was told."""
    outcomes: dict[str, str] = {}
    told: list[str] = []
    steps: list[tuple[int, int]] = []

    class Recorder:
        name = ""

        def start(self, name: str, index: int, count: int) -> None:
            assert count == len(bundle.manifest.graphs) and index == len(outcomes)
            self.name = name

        def step(self, phase: str, done: int, total: int) -> None:
            steps.append((done, total))  # judged below: TensorRT swallows what is raised here

        def finish(self, outcome: str) -> None:
            outcomes[self.name] = outcome

    built = build_bundle(bundle, request, CHOICE, available_bytes(), Recorder(), told.append)
    assert bool(steps) == ("built" in outcomes.values())
    assert all(0 <= done <= total for done, total in steps)
    return built, outcomes, told


def test_every_graph_becomes_a_plan_that_build_json_describes(
    finished: tuple[Bundle, Build, dict[str, str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, built, outcomes, told = finished
    monkeypatch.setenv("XDG_STATE_HOME", str(bundle.root.parent / "state"))
    assert outcomes == {graph.name: "built" for graph in bundle.manifest.graphs} and told == []
    assert built_keys(bundle.root) == (KEY,)
    folder = plan_folder(bundle.root, KEY)
    assert read_build(folder) == built
    assert built.version == ".".join(map(str, LIBRARY.version)) and built.device is None
    for plan, graph in zip(built.plans, bundle.manifest.graphs, strict=True):
        path = plan_path(folder, plan)
        assert (plan.graph, plan.file.sha256, plan.file.bytes) == (graph.name, sha256(path), path.stat().st_size)
        assert [(bound.name, bound.dtype) for bound in plan.inputs] == [(t.name, t.dtype) for t in graph.inputs]
        assert [(out.name, out.dtype) for out in plan.outputs] == [(t.name, t.dtype) for t in graph.outputs]
        assert trusted.is_known(plan.file.sha256)
    assert sorted(path.name for path in folder.iterdir()) == sorted([NAME, *(p.file.path for p in built.plans)])
    open_bundle(bundle.root)  # plans do not make the bundle another one


def test_precisions_are_those_of_the_layers_that_cost(
    finished: tuple[Bundle, Build, dict[str, str], list[str]],
) -> None:
    bundle, done, _, _ = finished
    layers = bundle.manifest.decoder.layers
    counts = {plan.graph: plan.precisions for plan in done.plans}
    assert counts["segment_0_1"] == {"fp16": 7}  # q, k, v, o, gate, up, down
    assert counts[f"segment_{layers - 1}_{layers}"] == {"fp16": 8}  # and the head
    assert counts["prune_visiondrop_1"] == {"fp16": 2}  # q and k; scores have no weights
    assert counts["assemble"] == {}


def test_a_second_build_builds_nothing(built: Bundle, request_: Request) -> None:
    first = read_build(plan_folder(built.root, KEY))
    second, outcomes, told = build(built, request_)
    assert set(outcomes.values()) == {"as it was"} and told == []
    assert second == first


def test_another_range_builds_again_and_says_why(built: Bundle, request_: Request) -> None:
    shapes = fit_shapes(request_.target.shapes, built.manifest)
    other = replace(shapes, kept=Range(1, 20, 48))
    _, outcomes, told = build(built, replace(request_, shapes=other))
    assert outcomes["vision"] == "as it was" and outcomes["project"] == "built"
    line = next(line for line in told if line.startswith("project "))
    assert line == (
        "project is built again: profile features: shape 1x1x32 1x64x32 4x64x32 before, "
        "shape 1x1x32 1x20x32 4x64x32 now"
    )


def test_a_changed_or_missing_plan_is_built_again(built: Bundle, request_: Request) -> None:
    folder = plan_folder(built.root, KEY)
    (folder / "vision.plan").write_bytes(b"other")
    (folder / "project.plan").unlink()
    _, outcomes, told = build(built, request_)
    assert {name for name, outcome in outcomes.items() if outcome == "built"} == {"vision", "project"}
    assert told == [
        "vision is built again: vision.plan was changed",
        "project is built again: project.plan is gone",
    ]


def test_a_graph_exported_anew_is_built_again(built: Bundle, request_: Request) -> None:
    folder = plan_folder(built.root, KEY)
    old = read_build(folder)
    plans = tuple(replace(p, key=p.key | {"graph": "0" * 64}) if p.graph == "assemble" else p for p in old.plans)
    (folder / NAME).write_text(replace(old, plans=plans).to_json())
    _, outcomes, told = build(built, request_)
    assert [name for name, outcome in outcomes.items() if outcome == "built"] == ["assemble"]
    assert told == ["assemble is built again: the graph was exported anew"]


def test_plans_that_another_machine_built_are_built_again(
    finished: tuple[Bundle, Build, dict[str, str], list[str]], request_: Request, tmp_path: Path
) -> None:
    """``run`` would refuse them, and say to build."""
    copied = open_bundle(shutil.copytree(finished[0].root, tmp_path / "copied"))
    _, outcomes, told = build(copied, request_)
    assert set(outcomes.values()) == {"built"}
    assert told[0] == "vision is built again: vision.plan was not built on this machine"


def test_a_stopped_rebuild_vouches_for_nothing_of_the_older_build(built: Bundle, request_: Request) -> None:
    """A few graphs of other ranges are built, then the machine stops: only those are listed, and what is unchanged."""
    shapes = replace(fit_shapes(request_.target.shapes, built.manifest), kept=Range(1, 20, 48))

    class Stop(Exception):
        pass

    class Stopper(Silent):
        def start(self, name: str, index: int, count: int) -> None:
            if name == "prune_visiondrop_1":
                raise Stop

    with pytest.raises(Stop):
        build_bundle(built, replace(request_, shapes=shapes), CHOICE, available_bytes(), Stopper())
    listed = {plan.graph: plan for plan in read_build(plan_folder(built.root, KEY)).plans}
    assert set(listed) == {"vision", "prune_visiondrop_vision", "project", "assemble", "segment_0_1"}
    assert listed["project"].inputs[0].usual == (1, 20, 32)


def test_an_unreadable_build_json_costs_a_build_and_not_more(built: Bundle, request_: Request) -> None:
    (plan_folder(built.root, KEY) / NAME).write_text("{")
    _, outcomes, told = build(built, request_)
    assert set(outcomes.values()) == {"built"}
    assert told[0].startswith("everything is built again: build.json is no valid JSON")


def test_killed_in_the_middle_nothing_half_built_is_listed(bundle: Bundle, target_file: Path) -> None:
    command = [sys.executable, "-m", "edgeprune", "build", str(bundle.root), "--target", str(target_file), "-q"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    folder = plan_folder(bundle.root, KEY)
    deadline = time.monotonic() + 60
    while not (folder / NAME).is_file() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    listed = read_build(folder).plans
    assert 0 < len(listed) < len(bundle.manifest.graphs)
    for plan in listed:
        assert sha256(plan_path(folder, plan)) == plan.file.sha256
    done = subprocess.run([*command[:-1], "--json"], check=True, capture_output=True, text=True)
    outcomes = {plan["graph"]: plan["outcome"] for plan in json.loads(done.stdout.splitlines()[-1])["plans"]}
    assert [outcomes[plan.graph] for plan in listed] == ["as it was"] * len(listed)
    assert set(outcomes) == {graph.name for graph in bundle.manifest.graphs}


def test_ctrl_c_ends_a_build_and_leaves_no_partial_file(bundle: Bundle, target_file: Path) -> None:
    command = [sys.executable, "-m", "edgeprune", "build", str(bundle.root), "--target", str(target_file), "-q"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    folder = plan_folder(bundle.root, KEY)
    deadline = time.monotonic() + 60
    while not (folder / NAME).is_file() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.strip() == "edgeprune: interrupted"
    assert not list(folder.glob(".*partial"))


def small(target: Target, memory: int) -> Target:
    return replace(target, memory=memory)


@pytest.fixture
def jetson() -> Request:
    target = targets.load("orin-nano-8gb")
    return Request(target, target.stack("jetpack-6.2"), "fp16")


def test_a_device_too_small_to_run_says_how_much_and_what_fits(bundle: Bundle, jetson: Request) -> None:
    need, reserve = examine(bundle, jetson).need, 2 << 30
    assert examine(bundle, replace(jetson, target=small(jetson.target, reserve + need.total))).need == need
    tight = replace(jetson, target=small(jetson.target, reserve + need.total - 1))
    with pytest.raises(BackendError, match=r"running takes .* cache of 1 x 512 rows.* would do with") as caught:
        examine(bundle, tight)
    advice = re.findall(r"--(context|batch|text|kept) ([\d,]+)", str(caught.value))
    asked = {name: tuple(map(int, value.split(","))) for name, value in advice}
    assert set(asked) == {"context", "batch", "text", "kept"}
    followed = widen_shapes(fit_shapes(tight.target.shapes, bundle.manifest), bundle.manifest, asked)
    examine(bundle, replace(tight, shapes=followed))  # what is advised fits
    none = replace(jetson, target=small(jetson.target, reserve + 1000))
    with pytest.raises(BackendError, match="no dtype, context or budget of this model fits"):
        examine(bundle, none)


def test_half_the_bytes_are_advised_where_they_fit(bundle_tiny: Path, jetson: Request) -> None:
    bundle = open_bundle(bundle_tiny)
    request = replace(jetson, precision="fp32")
    total = examine(bundle, request).need.total
    tight = replace(request, target=small(jetson.target, (2 << 30) + total * 2 // 3))
    with pytest.raises(BackendError, match="export again with --dtype fp16"):
        examine(bundle, tight)


def test_a_machine_too_small_to_build(bundle: Bundle, request_: Request) -> None:
    with pytest.raises(BackendError, match=r"at its peak, this machine has 100\.0 MB free; close other programs, or "):
        build_bundle(bundle, request_, CHOICE, 100_000_000)
    assert built_keys(bundle.root) == ()


def test_what_is_built_already_takes_no_memory(built: Bundle, request_: Request) -> None:
    done = build_bundle(built, request_, CHOICE, 1)
    assert done == read_build(plan_folder(built.root, KEY))


def test_a_gpu_too_small_to_build_on(bundle: Bundle, request_: Request) -> None:
    with pytest.raises(BackendError, match=r"on the GPU, which has 0\.0 MB free; close what else uses it"):
        build_bundle(bundle, request_, replace(CHOICE, device_free=1000), available_bytes())


def test_a_gpu_that_tensorrt_rtx_cannot_name_must_be_here(bundle: Bundle, request_: Request) -> None:
    other = replace(request_, target=replace(request_.target, capabilities=("9.0",)))
    with pytest.raises(BackendError, match=r"builds for SM75, SM80, .* for compute capability 9\.0 it needs that GPU"):
        build_bundle(bundle, other, CHOICE, available_bytes())


def test_a_dialect_that_the_stack_does_not_take(make_fused: Bundle, jetson: Request) -> None:
    with pytest.raises(UsageError, match=r"dialect is fused; orin-nano-8gb@jetpack-6.2 .* takes base: export again"):
        examine(make_fused, jetson)


@pytest.fixture
def make_fused(bundle_gqa_fused: Path) -> Iterator[Bundle]:
    yield open_bundle(bundle_gqa_fused)


def test_fused_attention_in_fp32_builds_by_falling_apart(make_fused: Bundle, request_: Request, tmp_path: Path) -> None:
    bundle = open_bundle(shutil.copytree(make_fused.root, tmp_path / "bundle"))
    done, _, _ = build(bundle, replace(request_, precision="fp32"))
    assert all(set(plan.precisions) <= {"fp32"} for plan in done.plans)


def test_a_precision_that_the_bundle_does_not_have(bundle: Bundle, request_: Request) -> None:
    with pytest.raises(UsageError, match=r"in fp16, and one is to compute in fp32: export again with --dtype"):
        examine(bundle, replace(request_, precision="fp32"))


def test_a_graph_in_another_precision_than_its_bundle_says_is_refused(
    bundle: Bundle, bundle_tiny: Path, request_: Request
) -> None:
    """The manifest says fp16 and the graph computes in fp32: an error, not a slow surprise."""
    from edgeprune.engines.builder import build_plan
    from edgeprune.engines.key import Conditions
    from edgeprune.engines.profile import make_profile

    other = open_bundle(bundle_tiny)
    graph = other.manifest.graph("project")
    profile = make_profile(graph, other.manifest, fit_shapes(Shapes(), other.manifest))
    conditions = Conditions(LIBRARY, ("8.6",), None, "fp16", 1 << 30)
    with pytest.raises(BackendError, match=r"graph project: .* has 2 in fp32 of its 2 layers with weights; expected"):
        build_plan(graph, other.path(graph.file), profile, conditions, Silent())


def test_a_graph_that_the_lint_refuses_is_not_built(bundle: Bundle, request_: Request) -> None:
    import onnx

    entry = bundle.manifest.graph("assemble")
    model = onnx.load(bundle.path(entry.file))
    model.opset_import[0].version = 27
    onnx.save(model, bundle.path(entry.file))
    with pytest.raises(BackendError, match=r"graph assemble: .*opset"):
        build_bundle(bundle, request_, CHOICE, available_bytes())
    assert built_keys(bundle.root) == ()


def test_what_tensorrt_itself_refuses_is_told_in_its_words(bundle: Bundle, request_: Request) -> None:
    from edgeprune.engines.builder import build_plan
    from edgeprune.engines.key import Conditions
    from edgeprune.engines.profile import make_profile

    graph = bundle.manifest.graph("assemble")
    profile = make_profile(graph, bundle.manifest, fit_shapes(Shapes(), bundle.manifest))
    conditions = Conditions(LIBRARY, ("8.6",), None, "fp16", 1 << 30)
    bundle.path(graph.file).write_bytes(b"no graph")
    with pytest.raises(BackendError, match=r"^tensorrt-rtx .* cannot parse graph assemble: \S+"):
        build_plan(graph, bundle.path(graph.file), profile, conditions, Silent())
