"""Every method of the demo in fp16, at 576 patches: graphs, chain and tokens against the checkpoint."""

from __future__ import annotations

from edgeprune import demo
from edgeprune.bundle.store import open_bundle
from edgeprune.runtime.ort import OrtBackend
from edgeprune.verify import verify_bundle
from tests.conftest import MakeDemo


def test_every_method(make_bundle_demo: MakeDemo) -> None:
    bundle = open_bundle(make_bundle_demo("fp16", "base"), check_hashes=False)
    report = verify_bundle(bundle, demo.CHECKPOINT, OrtBackend(1), ["192"])
    assert report.ok, report.table()
    names = {check.name for check in report.checks}
    assert {f"chain {method.name} keep=192" for method in bundle.manifest.methods} <= names
    assert {graph.name for graph in bundle.manifest.graphs} <= names
