"""A family's graphs for TensorRT: clean for every version that takes them, and built by TensorRT-RTX without a GPU."""

from __future__ import annotations

import onnx
import pytest

from edgeprune.bundle.store import Bundle, open_bundle
from edgeprune.engines.builder import build_plan
from edgeprune.engines.key import Conditions
from edgeprune.engines.monitor import Silent
from edgeprune.engines.profile import fit_shapes, make_profile
from edgeprune.lint.lint import lint
from edgeprune.nvidia.library import open_library
from edgeprune.recipes.target import Flavour, Shapes
from tests.conftest import MakeCheckpoint, MakeOnce
from tests.families.conformance.case import KINDS, MakeCase

LIBRARIES: tuple[tuple[Flavour, tuple[int, ...]], ...] = (
    ("tensorrt", (10, 3, 0)),
    ("tensorrt", (10, 16, 1)),
    ("tensorrt", (11, 4, 0)),
    ("tensorrt-rtx", (1, 7, 1)),
)
FUSED = {"llava_next": "small-next", "llava_onevision": "small-onevision", "qwen2_5_vl": "small-qwen2.5-vl"}
"""A newline row, rows that are blended, positions of three axes: what `fused` has that LLaVA-1.5 does not. By shapes
that TensorRT has fused kernels for: heads of 32 columns or more, and not all of them on one key/value head."""


@pytest.mark.parametrize("name", KINDS)
def test_base(make_case: MakeCase, name: str) -> None:
    bundle = make_case(name).vlm.bundle
    check_lint(bundle, LIBRARIES)
    check_build(bundle)


@pytest.mark.parametrize(("name", "shape"), FUSED.items())
def test_fused(make_checkpoint: MakeCheckpoint, make_once: MakeOnce, name: str, shape: str) -> None:
    from edgeprune.checkpoint.source import resolve
    from edgeprune.export.bundle import Request, export_bundle

    source = resolve(str(make_checkpoint(shape)))
    request = Request(source, ("fastv",), "fp16", "fused", medium=KINDS[name].medium)
    bundle = open_bundle(make_once(f"bundles/{name}-fused", lambda folder: export_bundle(request, folder)))
    check_lint(bundle, LIBRARIES[1:])
    check_build(bundle)


def check_lint(bundle: Bundle, libraries: tuple[tuple[Flavour, tuple[int, ...]], ...]) -> None:
    shapes = fit_shapes(Shapes(), bundle.manifest)
    for graph in bundle.manifest.graphs:
        model = onnx.load(bundle.path(graph.file), load_external_data=False)
        profile = make_profile(graph, bundle.manifest, shapes)
        for flavour, version in libraries:
            assert lint(model, profile, flavour, version) == (), (graph.name, version)


def check_build(bundle: Bundle) -> None:
    """Every graph but those that repeat another: later segments, and a method's later cuts."""
    facts = bundle.manifest
    first = {min(cuts) for method in facts.methods if (cuts := method.decoder_cuts)}
    seen = set()
    conditions = Conditions(open_library("tensorrt-rtx"), ("8.6",), None, facts.dtype, 2 << 30)
    shapes = fit_shapes(Shapes(), facts)
    for graph in facts.graphs:
        kind = graph.name.rstrip("0123456789") if graph.role == "prune" else graph.name
        if kind in seen or (graph.role == "segment" and graph.layers and graph.layers[0] not in {0, *first}):
            continue
        seen.add(kind)
        profile = make_profile(graph, facts, shapes)
        built = build_plan(graph, bundle.path(graph.file), profile, conditions, Silent())
        assert [output.name for output in built.outputs] == [tensor.name for tensor in graph.outputs]
