"""Whether a request fits into the memory that its device has left, and what would fit instead.

Weights are loaded by then; what a request adds is its cache, twice, because a step reads one copy and writes the other.
Backends that use the host's memory do not tell and are not asked.
"""

from __future__ import annotations

from edgeprune.budget.schedule import Schedule, make_schedule, reach, site_of
from edgeprune.bundle.build import Build
from edgeprune.bundle.manifest import Manifest, MethodEntry
from edgeprune.errors import BackendError, UsageError

_BYTES = {"fp32": 4, "fp16": 2}


def cache_bytes(manifest: Manifest, schedule: Schedule | None, others: int) -> int:
    """Keys and values of one picture's request at its end, twice.

    Args:
        manifest: of the bundle.
        schedule: of the budget; None keeps all.
        others: rows that are not visual: text, and tokens to come.
    """
    row = row_bytes(manifest)
    if schedule is None:
        return 2 * manifest.decoder.layers * (manifest.vision.tokens + others) * row
    layers = manifest.decoder.layers
    return 2 * round(layers * (schedule.average + others)) * row


def row_bytes(manifest: Manifest) -> int:
    """Bytes of the key and the value of one row in one layer."""
    return 2 * manifest.decoder.kv_heads * manifest.decoder.head_dim * _BYTES[manifest.dtype]


def check_request(
    manifest: Manifest,
    method: MethodEntry | None,
    schedule: Schedule | None,
    others: int,
    pictures: int,
    free: int | None,
) -> None:
    """Raise if a request cannot fit.

    Args:
        manifest: of the bundle.
        method, schedule: the budget; both None keep all.
        others: rows of one picture's request that are not visual: text, and tokens to come.
        pictures: asked about at once.
        free: bytes the device has left; None where nobody knows.

    Raises:
        BackendError: how much is missing, and the largest budget that fits.
    """
    if free is None:
        return
    need = pictures * cache_bytes(manifest, schedule, others)
    if need > free:
        asked = f"--keep {schedule.asked}" if schedule else "--keep all"
        raise BackendError(
            f"the cache of {asked} with {others} rows of text and answer takes {spell(need)}"
            f"{f' for {pictures} pictures' if pictures > 1 else ''}, and the device has {spell(free)} free; "
            f"{_what_fits(manifest, method, others, pictures, free)}"
        )


def check_plans(build: Build, free: int) -> None:
    """Raise if the plans of a build cannot be loaded.

    Raises:
        BackendError: how much they take and how much there is.
    """
    need = sum(plan.file.bytes for plan in build.plans)
    if need > free:
        half = "fp16 takes half: export again with --dtype fp16" if build.dtype == "fp32" else "take a smaller model"
        raise BackendError(
            f"the plans of {build.key} take {spell(need)}, and the device has {spell(free)} free; "
            f"close what else uses the GPU (nvidia-smi), or: {half}"
        )


def _what_fits(manifest: Manifest, method: MethodEntry | None, others: int, pictures: int, free: int) -> str:
    for entry in (method,) if method else manifest.methods:
        most = _largest(manifest, entry, others, free // pictures)
        if most is not None:
            return f"--keep {most} would fit" + ("" if method else f" (--method {entry.name})")
    fewer = "fewer pictures at once, or " if pictures > 1 else ""
    return f"no budget fits; ask for {fewer}a shorter answer (--max-new-tokens)"


def _largest(manifest: Manifest, method: MethodEntry, others: int, free: int) -> int | None:
    """The largest average that fits, None if none does; the cache grows with it."""
    site = site_of(manifest, method)
    try:
        low, high = reach(method.name, site)
    except UsageError:  # a bundle of a newer edgeprune
        return None
    fitting = [
        keep
        for keep in range(low, high + 1)
        if cache_bytes(manifest, make_schedule(method.name, keep, site), others) <= free
    ]
    return max(fitting, default=None)


def spell(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
