"""Whether a request fits into the memory that its device has left, and what would fit instead.

Weights are loaded by then; what a request adds is its cache, twice, because a step reads one copy and writes the other.
Backends that use the host's memory do not tell and are not asked. Also which options of ``edgeprune build`` make plans
for what a plan does not cover.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeprune.budget.schedule import Schedule, Site, make_schedule, reach, site_of
from edgeprune.bundle.build import Build
from edgeprune.bundle.image import ImageProcessing
from edgeprune.bundle.manifest import Manifest, MethodEntry
from edgeprune.errors import BackendError, UsageError

_BYTES = {"fp32": 4, "fp16": 2}
_FLAGS = {
    "B": ("--batch",),
    **dict.fromkeys(("p", "runs"), ("--runs",)),
    **dict.fromkeys(("t", "q", "text_after"), ("--text",)),
    **dict.fromkeys(("N", "K", "V", "w", "l", "keep", "merge"), ("--kept",)),
    "S": ("--kept", "--context"),
    "P": ("--context",),
}
"""Options of ``edgeprune build`` by letters of the specification and names of scalars; C is another matter."""
_ORDER = ("--batch", "--runs", "--text", "--kept", "--context")
_ANSWER = 256
"""Rows of it, that a context has room for, too."""


def flags_for(short: Mapping[str, int], image: ImageProcessing | None = None) -> str | None:
    """The options of ``edgeprune build`` under which plans take a request beyond theirs; None where none does.

    Args:
        short: what the request has, by the letters of axes, and names of scalars, that the plans have too little for.
        image: how pictures become runs of the encoder; None where that is not known.
    """
    wanted: dict[str, int] = {}
    other = ""
    for letter, value in short.items():
        found = {flag: value + _ANSWER * (flag == "--context") for flag in _FLAGS.get(letter, ())}
        if letter == "C":
            found, other = _runs_or_prompts(value, image)
        wanted |= {flag: max(number, wanted.get(flag, 0)) for flag, number in found.items()}
    return (_spelled(wanted) + other) or None


def _runs_or_prompts(count: int, image: ImageProcessing | None) -> tuple[dict[str, int], str]:
    """Options for so many runs of all prompts together, and what else they may mean: one prompt, or several."""
    if image is not None and image.kind in ("frames", "native"):  # whose prompts always have as many
        return {"--batch": -(-count // image.most_runs)}, ""
    most = 1 if image is None else image.most_runs
    prompts = -(-count // most)
    if prompts == 1:
        return {"--runs": count}, ""
    if most == 1:
        return {"--runs": count}, f" (for as many prompts at once: --batch {count})"
    return {"--runs": count}, f" (for {prompts} prompts at once: --batch {prompts} --runs {most})"


def _spelled(flags: Mapping[str, int]) -> str:
    return " ".join(f"{flag} {flags[flag]}" for flag in _ORDER if flag in flags)


def cache_bytes(manifest: Manifest, schedule: Schedule | None, others: int, tokens: int | None = None) -> int:
    """Keys and values of one prompt at its end, twice.

    Args:
        manifest: of the bundle.
        schedule: of the budget; None keeps all.
        others: rows that are not visual: text, and tokens to come.
        tokens: visual rows without pruning; None for the most that one picture or video can have.
    """
    whole = manifest.most_tokens if tokens is None else tokens
    visual = whole if schedule is None else schedule.average
    return 2 * round(manifest.decoder.layers * (visual + others)) * row_bytes(manifest)


def row_bytes(manifest: Manifest) -> int:
    """Bytes of the key and the value of one row in one layer."""
    return 2 * manifest.decoder.kv_heads * manifest.decoder.head_dim * _BYTES[manifest.dtype]


def check_request(
    manifest: Manifest,
    method: MethodEntry | None,
    schedule: Schedule | None,
    others: int,
    prompts: int,
    free: int | None,
    tokens: int | None = None,
    runs: int | None = None,
) -> None:
    """Raise if a request cannot fit.

    Args:
        manifest: of the bundle.
        method, schedule: the budget; both None keep all.
        others: rows of one prompt that are not visual: text, and tokens to come.
        prompts: at once.
        free: bytes the device has left; None where nobody knows.
        tokens, runs: visual rows of a prompt without pruning, and runs of the encoder; None for the most that one
            picture or video can have.

    Raises:
        BackendError: how much is missing, and the largest budget that fits.
    """
    if free is None:
        return
    need = prompts * cache_bytes(manifest, schedule, others, tokens)
    if need > free:
        asked = f"--keep {schedule.asked}" if schedule else "--keep all"
        raise BackendError(
            f"the cache of {asked} with {others} rows of text and answer takes {spell(need)}"
            f"{f' for {prompts} prompts' if prompts > 1 else ''}, and the device has {spell(free)} free; "
            f"{_what_fits(manifest, method, others, prompts, free, tokens, runs)}"
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


def _what_fits(
    manifest: Manifest,
    method: MethodEntry | None,
    others: int,
    prompts: int,
    free: int,
    tokens: int | None,
    runs: int | None,
) -> str:
    for entry in (method,) if method else manifest.methods:
        most = _largest(entry.name, manifest, site_of(manifest, entry, tokens, runs), others, free // prompts)
        if most is not None:
            return f"--keep {most} would fit" + ("" if method else f" (--method {entry.name})")
    fewer = "fewer pictures at once, or " if prompts > 1 else ""
    return f"no budget fits; ask for {fewer}a shorter answer (--max-new-tokens)"


def _largest(method: str, manifest: Manifest, site: Site, others: int, free: int) -> int | None:
    """The largest average that fits, None if none does; the cache grows with it."""
    try:
        low, high = reach(method, site)
    except UsageError:  # out of reach at this site, or a bundle of a newer edgeprune
        return None
    fitting = [
        keep
        for keep in range(low, high + 1)
        if cache_bytes(manifest, make_schedule(method, keep, site), others, site.tokens) <= free
    ]
    return max(fitting, default=None)


def spell(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
