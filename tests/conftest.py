"""Random tiny checkpoints and the bundles exported from them, each made once per session when first asked for.

A bundle takes half a minute to export: tests share these, and copy one before they change anything in it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune.bundle.manifest import Dialect, Dtype

MakeCheckpoint = Callable[[str], Path]
MakeBundle = Callable[[str, Dtype, Dialect], Path]
MakeDemo = Callable[[Dialect], Path]


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """Writes a checkpoint of a shape in ``tools/random_checkpoint.py``, fp32, and gives its folder."""
    made: dict[str, Path] = {}

    def make(shape: str) -> Path:
        from tools.random_checkpoint import write_checkpoint

        if shape not in made:
            made[shape] = write_checkpoint(shape, tmp_path_factory.mktemp("checkpoint") / shape)
        return made[shape]

    return make


@pytest.fixture(scope="session")
def make_bundle(make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> MakeBundle:
    """Exports a shape with VisionDrop, and gives the bundle's folder."""
    made: dict[tuple[str, Dtype, Dialect], Path] = {}

    def make(shape: str, dtype: Dtype, dialect: Dialect) -> Path:
        from edgeprune.checkpoint.source import resolve
        from edgeprune.export.bundle import Request, export_bundle

        key = (shape, dtype, dialect)
        if key not in made:
            source = resolve(str(make_checkpoint(shape)))
            path = tmp_path_factory.mktemp("bundle") / "-".join(key)
            made[key] = export_bundle(Request(source, ("visiondrop",), None, dtype, dialect), path).root
        return made[key]

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
def make_bundle_demo(tmp_path_factory: pytest.TempPathFactory) -> MakeDemo:
    """Exports the model that ships, in fp16."""
    made: dict[Dialect, Path] = {}

    def make(dialect: Dialect) -> Path:
        from edgeprune import demo
        from edgeprune.checkpoint.source import Source
        from edgeprune.export.bundle import Request, export_bundle

        if dialect not in made:
            path = tmp_path_factory.mktemp("bundle") / f"demo-fp16-{dialect}"
            source = Source(demo.CHECKPOINT, "edgeprune/demo", None)
            made[dialect] = export_bundle(Request(source, ("visiondrop",), None, "fp16", dialect), path).root
        return made[dialect]

    return make


@pytest.fixture(scope="session")
def bundle_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that ships, in fp32 and primitive operators."""
    from edgeprune import demo
    from edgeprune.checkpoint.source import Source
    from edgeprune.export.bundle import Request, export_bundle

    path = tmp_path_factory.mktemp("bundle") / "demo"
    return export_bundle(Request(Source(demo.CHECKPOINT, "edgeprune/demo", None), ("visiondrop",)), path).root
