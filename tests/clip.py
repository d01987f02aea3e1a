"""A random CLIP checkpoint for the tiny model's encoder, and the tiny model exported with both forms of CDPruner."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import MakeCheckpoint, MakeOnce


def make_clip(make_once: MakeOnce, legacy_end: bool = True) -> Path:
    """The checkpoint; its end token as OpenAI's configurations have it, or as newer ones do."""
    from tools.random_checkpoint import write_clip

    name = f"checkpoints/clip-{'legacy' if legacy_end else 'new'}"
    return make_once(name, lambda folder: write_clip(folder, legacy_end=legacy_end))


def make_cdpruner(make_once: MakeOnce, make_checkpoint: MakeCheckpoint) -> Path:
    """The bundle, in fp32."""
    from edgeprune.checkpoint.source import resolve
    from edgeprune.export.bundle import Request, export_bundle

    model, clip = resolve(str(make_checkpoint("tiny"))), resolve(str(make_clip(make_once)))
    request = Request(model, ("cdpruner", "cdpruner-llm"), clip=clip)
    return make_once("bundles/tiny-cdpruner", lambda folder: export_bundle(request, folder))
