"""The exported graphs in the hands of NVIDIA's own tool, as its users call it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgeprune.bundle.manifest import Graph
from edgeprune.bundle.store import Bundle, open_bundle

SIZES = {"B": 1, "C": 1, "S": 40, "P": 0, "K": 16, "V": 32, "t": 5}
SCALARS = {"text_after": 5, "runs": 1, "keep": 16, "merge": 4}


@pytest.fixture(scope="module")
def bundle(bundle_tiny: Path) -> Bundle:
    return open_bundle(bundle_tiny)


def polygraphy(*words: object) -> str:
    command = [sys.executable, str(Path(sys.executable).with_name("polygraphy")), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shapes(graph: Graph) -> list[str]:
    return [
        f"{tensor.name}:[{','.join(str(SIZES.get(str(axis), axis)) for axis in tensor.shape)}]"
        for tensor in graph.inputs
    ]


def ranges(graph: Graph) -> list[str]:
    counts = [f"{name}:[{n},{n}]" for name, n in SCALARS.items() if any(t.name == name for t in graph.inputs)]
    positions = [f"{tensor.name}:[0,39]" for tensor in graph.inputs if tensor.name in ("position_ids", "visual_rows")]
    return [*counts, *positions]


@pytest.mark.parametrize("name", ["prune_visiondrop_vision", "segment_0_1", "prune_visiondrop_1"])
def test_run_with_onnx_runtime(bundle: Bundle, name: str) -> None:
    graph = bundle.manifest.graph(name)
    words = ["run", bundle.path(graph.file), "--onnxrt", "--input-shapes", *shapes(graph)]
    if ranges(graph):
        words += ["--val-range", *ranges(graph)]
    assert "PASSED" in polygraphy(*words)


def test_inspect_model(bundle: Bundle) -> None:
    graph = bundle.manifest.graph("segment_0_1")
    text = polygraphy("inspect", "model", bundle.path(graph.file), "--show", "layers")
    assert all(tensor.name in text for tensor in (*graph.inputs, *graph.outputs))


def test_weights_are_mapped_by_the_parser_not_read(bundle: Bundle) -> None:
    from edgeprune.engines.network import parse
    from edgeprune.nvidia.library import open_library

    graph = bundle.manifest.graph("segment_0_1")
    assert graph.data is not None
    parsed = parse(open_library("tensorrt-rtx"), graph, bundle.path(graph.file))
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    assert str(bundle.path(graph.data).resolve()) in maps
    del parsed
