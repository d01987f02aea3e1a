"""The graphs that edgeprune exports, against the lint."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from edgeprune.bundle.manifest import Manifest
from edgeprune.engines.profile import fit_shapes, make_profile
from edgeprune.lint.lint import lint
from edgeprune.lint.shapes import points
from edgeprune.recipes.target import Flavour, Shapes

LIBRARIES: tuple[tuple[Flavour, tuple[int, ...]], ...] = (
    ("tensorrt", (10, 3, 0)),
    ("tensorrt", (10, 16, 1)),
    ("tensorrt", (11, 4, 0)),
    ("tensorrt-rtx", (1, 7, 1)),
)


@pytest.mark.parametrize("name", ["bundle_tiny_fp16", "bundle_gqa_fused"])
def test_exported_graphs_are_clean_and_every_size_in_them_is_known(name: str, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(name)
    manifest = Manifest.from_json((root / "edgeprune.json").read_text(encoding="utf-8"))
    shapes = fit_shapes(Shapes(), manifest)
    refused = set()
    for entry in manifest.graphs:
        model = onnx.load(root / entry.file.path, load_external_data=False)
        profile = make_profile(entry, manifest, shapes)
        for point in points(model, profile):
            assert None not in point.shapes.values() and None not in point.dtypes.values(), (entry.name, point.place)
        for flavour, version in LIBRARIES:
            findings = lint(model, profile, flavour, version)
            if manifest.dialect == "fused" and version == (10, 3, 0):
                refused |= {finding.rule for finding in findings}
            else:
                assert findings == (), (entry.name, version)
    assert refused == ({"opset-range", "operator-unknown"} if manifest.dialect == "fused" else set())
