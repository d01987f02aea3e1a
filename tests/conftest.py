"""Random tiny checkpoints and the bundles exported from them, each made once when first asked for.

A bundle takes half a minute to export: tests share these, and copy one before they change anything in it.
Test processes that run side by side share them, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from edgeprune.bundle.manifest import Dialect, Dtype
from edgeprune.bundle.prompt import Medium

if "PYTEST_XDIST_WORKER" in os.environ:  # processes side by side, one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("edgeprune", deadline=None)  # a busy machine is no failure
settings.load_profile("edgeprune")

MakeCheckpoint = Callable[[str], Path]
MakeBundle = Callable[[str, Dtype, Dialect], Path]
MakeOf = Callable[[str, Medium], Path]
MakeAll = Callable[[str], Path]
MakeDemo = Callable[[Dtype, Dialect], Path]
MakeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """Gives the folder of a name, made by the first of all test processes that asks for it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base

    def make(name: str, write: Callable[[Path], object]) -> Path:
        folder = shared / "made" / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                work = folder.with_name(f"{folder.name}.partial")
                write(work)
                work.rename(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def make_checkpoint(make_once: MakeOnce) -> MakeCheckpoint:
    """Writes a checkpoint of a shape in ``tools/random_checkpoint.py``, fp32, and gives its folder."""
    from tools.random_checkpoint import write_checkpoint

    return lambda shape: make_once(f"checkpoints/{shape}", lambda folder: write_checkpoint(shape, folder))


@pytest.fixture(scope="session")
def make_bundle(make_checkpoint: MakeCheckpoint, make_once: MakeOnce) -> MakeBundle:
    """Exports a shape with VisionDrop, and gives the bundle's folder."""

    def make(shape: str, dtype: Dtype, dialect: Dialect) -> Path:
        from edgeprune.checkpoint.source import resolve
        from edgeprune.export.bundle import Request, export_bundle

        source = resolve(str(make_checkpoint(shape)))
        request = Request(source, ("visiondrop",), dtype, dialect)
        return make_once(f"bundles/{shape}-{dtype}-{dialect}", lambda folder: export_bundle(request, folder))

    return make


@pytest.fixture(scope="session")
def make_bundle_of(make_checkpoint: MakeCheckpoint, make_once: MakeOnce) -> MakeOf:
    """Exports a shape of any family for a medium with VisionDrop, fp32, and gives the bundle's folder."""

    def make(shape: str, medium: Medium) -> Path:
        from edgeprune.checkpoint.source import resolve
        from edgeprune.export.bundle import Request, export_bundle

        request = Request(resolve(str(make_checkpoint(shape))), ("visiondrop",), medium=medium)
        return make_once(f"bundles/{shape}-visiondrop-{medium}", lambda folder: export_bundle(request, folder))

    return make


@pytest.fixture(scope="session")
def make_bundle_all(make_checkpoint: MakeCheckpoint, make_once: MakeOnce) -> MakeAll:
    """Exports a shape with every method that needs nothing but the checkpoint, variants included, in fp32.

    ``small-mha`` gets those that cut the decoder, without variants: kinds of heads make no difference to the others.
    """

    def make(shape: str) -> Path:
        from edgeprune import catalog
        from edgeprune.checkpoint.source import resolve
        from edgeprune.export.bundle import Request, export_bundle

        names = [name for name in catalog.names() if name != "cdpruner"]  # it needs CLIP's text tower
        if shape == "small-mha":
            cards = [catalog.card(name) for name in names]
            inside = [card for card in cards if isinstance(card.places[-1], int)]
            names = [card.name for card in inside if card.variant_of is None or card.name == "sparsevlm-plus"]
        request = Request(resolve(str(make_checkpoint(shape))), names)
        return make_once(f"bundles/{shape}-all", lambda folder: export_bundle(request, folder))

    return make


@pytest.fixture(scope="session")
def checkpoint_tiny(make_checkpoint: MakeCheckpoint) -> Path:
    """Four layers, two heads, 64 patches."""
    return make_checkpoint("tiny")


@pytest.fixture(scope="session")
def checkpoint_gqa(make_checkpoint: MakeCheckpoint) -> Path:
    """Eight layers, four heads over two key/value heads, 64 patches."""
    return make_checkpoint("tiny-gqa")


@pytest.fixture(scope="session")
def bundle_tiny(make_bundle: MakeBundle) -> Path:
    """``checkpoint_tiny`` in fp32 and primitive operators."""
    return make_bundle("tiny", "fp32", "base")


@pytest.fixture(scope="session")
def bundle_tiny_fp16(make_bundle: MakeBundle) -> Path:
    """``checkpoint_tiny`` in fp16 and primitive operators."""
    return make_bundle("tiny", "fp16", "base")


@pytest.fixture(scope="session")
def bundle_gqa(make_bundle: MakeBundle) -> Path:
    """``checkpoint_gqa`` in fp32 and primitive operators."""
    return make_bundle("tiny-gqa", "fp32", "base")


@pytest.fixture(scope="session")
def bundle_gqa_fused(make_bundle: MakeBundle) -> Path:
    """``checkpoint_gqa`` in fp32 and fused operators."""
    return make_bundle("tiny-gqa", "fp32", "fused")


@pytest.fixture(scope="session")
def make_bundle_demo(make_once: MakeOnce) -> MakeDemo:
    """Exports the model that ships: in fp16 and primitive operators with every method that needs no other checkpoint.

    In fused operators with those whose own graphs differ from the primitive ones, else with VisionDrop alone.
    """

    def make(dtype: Dtype, dialect: Dialect) -> Path:
        from edgeprune import catalog, demo
        from edgeprune.checkpoint.source import Source
        from edgeprune.export.bundle import Request, export_bundle

        methods: tuple[str, ...] = ("visiondrop",)
        if dtype == "fp16":  # coast-rest has the same graph as coast, but for one number
            every = tuple(name for name in catalog.names() if name not in ("cdpruner", "coast-rest"))
            methods = every if dialect == "base" else ("visiondrop", "pyramiddrop", "sparsevlm-plus", "vscan")
        request = Request(Source(demo.CHECKPOINT, "edgeprune/demo", None), methods, dtype, dialect)
        return make_once(f"bundles/demo-{dtype}-{dialect}", lambda folder: export_bundle(request, folder))

    return make


@pytest.fixture(scope="session")
def bundle_demo(make_bundle_demo: MakeDemo) -> Path:
    """The model that ships, in fp32 and primitive operators."""
    return make_bundle_demo("fp32", "base")
