"""The lines for NVIDIA's own tool: every input that varies, in the words of that tool and version."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from edgeprune.bundle.manifest import Manifest
from edgeprune.bundle.store import open_bundle
from edgeprune.engines.examine import Request
from edgeprune.engines.profile import make_profile
from edgeprune.engines.trtexec import trtexec_line
from edgeprune.recipes import target as targets
from edgeprune.recipes.target import Range, Shapes

FIXED = Shapes(batch=Range(2, 2, 2), text=Range(2, 60, 100), kept=Range(1, 20, 40), runs=Range(1, 1, 1), context=512)


@pytest.fixture(scope="module")
def manifest(bundle_tiny: Path) -> Manifest:
    return open_bundle(bundle_tiny).manifest


def words(manifest: Manifest, name: str, target: str, stack: str) -> dict[str, str]:
    graph = manifest.graph(name)
    found = targets.load(target)
    request = Request(found, found.stack(stack), "fp16")
    line = trtexec_line(graph, Path("g.onnx"), Path("a b.plan"), make_profile(graph, manifest, FIXED), request)
    program, *options = shlex.split(line)
    return {"program": program} | dict(option.partition("=")[::2] for option in options)


def test_an_axis_that_the_graph_leaves_open_is_given_even_where_it_is_fixed_here(manifest: Manifest) -> None:
    found = words(manifest, "vision", "h200", "tensorrt-11")
    assert found["--minShapes"] == found["--maxShapes"] == "pixel_values:2x3x112x112"
    assert found["--saveEngine"] == "a b.plan"


def test_counts_are_given_as_values(manifest: Manifest) -> None:
    found = words(manifest, "prune_visiondrop_vision", "h200", "tensorrt-11")
    assert found["--maxShapes"].endswith("keep:40,merge:39")


def test_each_flavour_and_version_has_its_own_words(manifest: Manifest) -> None:
    old, new = (words(manifest, "project", "h200", stack) for stack in ("tensorrt-10", "tensorrt-11"))
    assert "--stronglyTyped" in old and "--stronglyTyped" not in new
    rtx = words(manifest, "project", "rtx-portable", "tensorrt-rtx")
    assert rtx["program"] == "tensorrt_rtx" and rtx["--computeCapabilities"] == "80,86,89,120"
