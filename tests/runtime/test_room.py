"""What a request adds to a device's memory, and what is said when it does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeprune.budget.schedule import make_schedule, site_of
from edgeprune.bundle.manifest import Manifest
from edgeprune.bundle.store import open_bundle
from edgeprune.errors import BackendError
from edgeprune.runtime.room import cache_bytes, check_request


@pytest.fixture(scope="module")
def manifest(bundle_tiny: Path) -> Manifest:
    return open_bundle(bundle_tiny).manifest


def test_the_cache_is_two_copies_of_keys_and_values_of_every_layer(manifest: Manifest) -> None:
    d = manifest.decoder
    rows = 64 + 10
    assert cache_bytes(manifest, None, 10) == 2 * d.layers * 2 * d.kv_heads * rows * d.head_dim * 4
    schedule = make_schedule("visiondrop", 16, site_of(manifest, manifest.methods[0]))
    pruned = sum(stage.layers * (stage.keep + 10) for stage in schedule.stages)
    assert cache_bytes(manifest, schedule, 10) == 2 * 2 * d.kv_heads * pruned * d.head_dim * 4


def test_the_largest_budget_that_fits_is_named(manifest: Manifest) -> None:
    method = manifest.methods[0]
    schedule = make_schedule("visiondrop", 20, site_of(manifest, method))
    free = cache_bytes(manifest, schedule, 10)
    check_request(manifest, method, schedule, 10, 1, free)
    with pytest.raises(BackendError, match=r"cache of --keep all with 10 rows .* free; --keep (2[01]) would fit"):
        check_request(manifest, None, None, 10, 1, free)
    with pytest.raises(BackendError, match=r"for 2 pictures.* no budget fits; ask for fewer pictures at once"):
        check_request(manifest, method, schedule, 10, 2, free // 4)


def test_fp16_takes_half(manifest: Manifest) -> None:
    assert 2 * cache_bytes(replace(manifest, dtype="fp16"), None, 5) == cache_bytes(manifest, None, 5)


def test_a_backend_on_the_host_is_not_asked(manifest: Manifest) -> None:
    check_request(manifest, None, None, 10**9, 1, None)
