"""fp16 graphs against the fp32 reference within verify's own table, over the whole reach of a method's budgets.

Every segment is run on a whole prompt with an empty cache and on one row with a full one; the chain at every budget.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune import demo
from edgeprune.budget.schedule import reach, site_of
from edgeprune.bundle.manifest import Dialect
from edgeprune.bundle.store import open_bundle
from edgeprune.runtime.ort import OrtBackend
from edgeprune.verify import verify_bundle
from tests.conftest import MakeDemo

KEEPS = (13, 32, 64, 128, 192, 288, 384)


@pytest.mark.parametrize("dialect", ["base", "fused"])
def test_the_demo_in_fp16(make_bundle_demo: MakeDemo, dialect: Dialect, tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle_demo("fp16", dialect))
    facts = bundle.manifest
    method = facts.method("visiondrop")
    assert method is not None
    assert (KEEPS[0], KEEPS[-1]) == reach("visiondrop", site_of(facts, method))
    report = verify_bundle(bundle, demo.CHECKPOINT, OrtBackend(1), KEEPS, methods=["visiondrop"])
    assert report.ok, report.table()
    names = [check.name for check in report.checks]
    assert {f"chain visiondrop keep={keep}" for keep in KEEPS} <= set(names)
    segments = [check for check in report.checks if check.name.startswith("segment")]
    assert all(any("(decode)" in difference.tensor for difference in check.differences) for check in segments)
