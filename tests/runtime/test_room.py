"""What a request adds to a device's memory, and what is said when it does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeprune.budget.schedule import make_schedule, site_of
from edgeprune.bundle.image import Frames, Tiles
from edgeprune.bundle.manifest import Manifest
from edgeprune.bundle.store import open_bundle
from edgeprune.errors import BackendError
from edgeprune.runtime.room import cache_bytes, check_request, flags_for


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
    with pytest.raises(BackendError, match=r"for 2 prompts.* no budget fits; ask for fewer pictures at once"):
        check_request(manifest, method, schedule, 10, 2, free // 4)


def test_all_that_plans_lack_is_named_at_once(manifest: Manifest) -> None:
    image = manifest.image
    tiles = replace(
        image,
        kind="tiles",
        tiles=Tiles("best_fit", ((2, 2), (1, 2))),
        crop=None,
        resize_exact=image.size,
        resize_shortest=None,
    )
    video = replace(image, kind="frames", frames=Frames(8))
    assert flags_for({"C": 5}, tiles) == "--runs 5"
    assert flags_for({"C": 10}, tiles) == "--runs 10 (for 2 prompts at once: --batch 2 --runs 5)"
    assert flags_for({"C": 16}, video) == "--batch 2"
    assert flags_for({"C": 3}, image) == flags_for({"C": 3}) == "--runs 3 (for as many prompts at once: --batch 3)"
    assert (
        flags_for({"V": 700, "S": 900, "B": 2, "t": 70, "keep": 5}) == "--batch 2 --text 70 --kept 900 --context 1156"
    )
    assert flags_for({"x": 3}) is None


def test_fp16_takes_half(manifest: Manifest) -> None:
    assert 2 * cache_bytes(replace(manifest, dtype="fp16"), None, 5) == cache_bytes(manifest, None, 5)


def test_a_backend_on_the_host_is_not_asked(manifest: Manifest) -> None:
    check_request(manifest, None, None, 10**9, 1, None)
