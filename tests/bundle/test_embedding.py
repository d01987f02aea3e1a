"""The embedding table: any other file under its name is refused, not read."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest

from edgeprune.bundle.store import Bundle
from edgeprune.errors import BundleError
from edgeprune.runtime.chain import _open_embedding
from tests.bundle.test_manifest import manifest


def saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def zipped() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros((96, 32), np.float32))
    return stream.getvalue()


TABLE = saved(np.zeros((96, 32), np.float32))


def bundle(folder: Path, content: bytes) -> Bundle:
    (folder / "embedding.npy").write_bytes(content)
    return Bundle(folder, manifest())


def test_a_table_is_mapped(tmp_path: Path) -> None:
    table = _open_embedding(bundle(tmp_path, TABLE))
    assert isinstance(table, np.memmap)
    assert table.shape == (96, 32)


@pytest.mark.parametrize(
    "content",
    [b"", TABLE[:5], TABLE[:40], TABLE[:-1], zipped(), pickle.dumps([1]), saved(np.array([{}], dtype=object))],
)
def test_no_array_file(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BundleError, match="is no numpy array file"):
        _open_embedding(bundle(tmp_path, content))


def test_another_shape(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected"):
        _open_embedding(bundle(tmp_path, saved(np.zeros((96, 31), np.float32))))
