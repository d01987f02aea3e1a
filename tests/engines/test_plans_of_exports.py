"""What edgeprune exports, built by NVIDIA's own parser and builder for every GPU they can build for without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from edgeprune.bundle.manifest import Dialect
from edgeprune.bundle.store import Bundle, open_bundle
from edgeprune.engines.builder import build_plan
from edgeprune.engines.examine import Request, examine
from edgeprune.engines.key import Conditions
from edgeprune.engines.memory import graph_weights
from edgeprune.engines.monitor import Silent
from edgeprune.engines.profile import fit_shapes, make_profile
from edgeprune.estimate.memory import BUILDER_COPIES
from edgeprune.nvidia.library import open_library
from edgeprune.recipes import target as targets
from edgeprune.recipes.target import Range, Shapes
from tests.conftest import MakeDemo, MakeOnce

NARROW = Shapes(kept=Range(1, 192, 576), context=4096)
WIDE = Shapes(kept=Range(1, 320, 2880), context=4096)
CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")


@pytest.fixture(scope="module", params=["base", "fused"])
def bundle_7b(request: pytest.FixtureRequest, make_once: MakeOnce) -> Bundle:
    """LLaVA-1.5-7B's widths, four decoder layers in two segments, four of the encoder's layers.

    Of methods that cut in the middle: one by the next layer's projections, one by the queries of the layer before.
    """
    from edgeprune.checkpoint.source import Source
    from edgeprune.export.bundle import Request as Export
    from edgeprune.export.bundle import export_bundle
    from tools.gpu.checkpoint import write_fast
    from tools.random_checkpoint import SHAPES

    shape, dialect = "llava-1.5-7b-4-layers", cast("Dialect", request.param)
    checkpoint = make_once(f"checkpoints/{shape}-fp16", lambda folder: write_fast(SHAPES[shape], folder, "fp16"))
    export = Export(Source(checkpoint, shape, None), ("vscan", "sts"), "fp16", dialect)
    return open_bundle(make_once(f"bundles/{shape}-{dialect}", lambda folder: export_bundle(export, folder)))


def build_all(bundle: Bundle, shapes: Shapes, workspace: int = 4 << 30) -> None:
    conditions = Conditions(open_library("tensorrt-rtx"), CAPABILITIES, None, "fp16", workspace)
    for graph in bundle.manifest.graphs:
        profile = make_profile(graph, bundle.manifest, shapes)
        built = build_plan(graph, bundle.path(graph.file), profile, conditions, Silent())
        assert built.data.nbytes > (graph.data.bytes if graph.data else 0)
        assert [output.name for output in built.outputs] == [tensor.name for tensor in graph.outputs]
        assert set(built.precisions) <= {"fp16"}


def lint_all(bundle: Bundle, shapes: Shapes) -> None:
    """The oldest TensorRT of every stack that takes the dialect: 10.3, 10.13, 10.16, 11.x, TensorRT-RTX."""
    seen = set()
    for name in targets.names():
        target = targets.load(name)
        for stack in target.stacks:
            if bundle.manifest.dialect in stack.dialects and (stack.flavour, stack.least) not in seen:
                seen.add((stack.flavour, stack.least))
                examination = examine(bundle, Request(targets.load("h200"), stack, "fp16", shapes))
                assert examination.findings == (), stack
    assert {least[:2] for _, least in seen} >= {(10, 16), (11, 4), (1, 7)}
    assert bundle.manifest.dialect == "fused" or ("tensorrt", (10, 3)) in seen


@pytest.mark.parametrize("shapes", [NARROW, WIDE], ids=["576", "2880"])
def test_llava_7b(bundle_7b: Bundle, shapes: Shapes) -> None:
    lint_all(bundle_7b, shapes)
    build_all(bundle_7b, shapes)


@pytest.mark.parametrize("dialect", ["base", "fused"])
def test_the_demo_at_a_batch_of_four_with_little_scratch(make_bundle_demo: MakeDemo, dialect: Dialect) -> None:
    bundle = open_bundle(make_bundle_demo("fp16", dialect))
    shapes = fit_shapes(Shapes(batch=Range(1, 1, 4)), bundle.manifest)
    lint_all(bundle, shapes)
    build_all(bundle, shapes, workspace=512 << 20)  # an axis that TensorRT cannot bound takes gigabytes here


def test_the_memory_a_build_takes_is_what_its_estimate_says(bundle_7b: Bundle) -> None:
    if bundle_7b.manifest.dialect == "fused":
        pytest.skip("one dialect tells: both have the same weights")
    graph = bundle_7b.manifest.by_role("segment")[0]
    code = """
import sys
from edgeprune.bundle.store import open_bundle
from edgeprune.engines.builder import build_plan
from edgeprune.engines.key import Conditions
from edgeprune.engines.monitor import Silent
from edgeprune.engines.profile import make_profile
from edgeprune.recipes.target import Shapes
from edgeprune.nvidia.library import open_library

bundle = open_bundle(sys.argv[1], check_hashes=False)
graph = bundle.manifest.graph(sys.argv[2])
conditions = Conditions(open_library("tensorrt-rtx"), ("8.6",), None, "fp16", 4 << 30)
build_plan(graph, bundle.path(graph.file), make_profile(graph, bundle.manifest, Shapes()), conditions, Silent())
print(next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""
    command = [sys.executable, "-c", code, str(bundle_7b.root), graph.name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    peak = json.loads(done.stdout)
    assert peak <= BUILDER_COPIES * graph_weights(graph)
    assert peak > 2 * graph_weights(graph)  # or the estimate says too much


def test_the_folder_of_a_plan_is_not_needed_to_parse(make_bundle_demo: MakeDemo, tmp_path: Path) -> None:
    """Weights are found beside the graph, wherever the process stands."""
    bundle = open_bundle(make_bundle_demo("fp16", "base"))
    graph = bundle.manifest.by_role("project")[0]
    conditions = Conditions(open_library("tensorrt-rtx"), ("8.6",), None, "fp16", 1 << 30)
    profile = make_profile(graph, bundle.manifest, fit_shapes(Shapes(), bundle.manifest))
    built = build_plan(graph, bundle.path(graph.file), profile, conditions, Silent())
    assert built.data.nbytes > 0
