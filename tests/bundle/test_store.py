"""A bundle on disk: every abuse of the specification is refused by name, and nothing half-written opens."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgeprune.bundle import store
from edgeprune.bundle.manifest import NAME, Manifest
from edgeprune.errors import BundleError, OutputError
from tests.bundle.test_external import initializer
from tests.bundle.test_manifest import manifest


def fill(folder: Path) -> Manifest:
    """Empty graphs, other files with arbitrary content, and the manifest that describes them."""
    plan = manifest()
    for file in plan.files:
        path = folder / file.path
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"" if path.suffix == ".onnx" else file.path.encode())
    graphs = tuple(replace(graph, file=store.describe(folder, folder / graph.file.path)) for graph in plan.graphs)
    return replace(
        plan,
        graphs=graphs,
        tokenizer=store.describe(folder, folder / plan.tokenizer.path),
        embedding=store.describe(folder, folder / plan.embedding.path),
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    root = tmp_path / "bundle"
    with store.writing(root, force=False) as (work, finish):
        finish(fill(work))
    return root


def rewrite(root: Path, change: Callable[[dict[str, object]], None]) -> None:
    data = json.loads((root / NAME).read_text())
    change(data)
    (root / NAME).write_text(json.dumps(data))


def test_what_was_written_opens(bundle: Path) -> None:
    opened = store.open_bundle(bundle)
    assert opened.path(opened.manifest.tokenizer).read_bytes() == b"tokenizer.json"
    assert opened.manifest.tokenizer.sha256 == hashlib.sha256(b"tokenizer.json").hexdigest()


def test_no_folder_and_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no such folder; make one with edgeprune export"):
        store.open_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=f"it has no {NAME}"):
        store.open_bundle(tmp_path)


def test_a_changed_byte_is_found(bundle: Path) -> None:
    (bundle / "embedding.npy").write_bytes(b"embedding.npY")
    with pytest.raises(BundleError, match=r"embedding.npy was changed or damaged: sha256"):
        store.open_bundle(bundle)
    store.open_bundle(bundle, check_hashes=False)  # asked for: sizes only


def test_a_missing_and_a_cut_file(bundle: Path) -> None:
    (bundle / "embedding.npy").write_bytes(b"emb")
    with pytest.raises(BundleError, match=r"embedding.npy has 3 bytes; .* says 13"):
        store.open_bundle(bundle, check_hashes=False)
    (bundle / "embedding.npy").unlink()
    with pytest.raises(BundleError, match=r"embedding.npy is missing"):
        store.open_bundle(bundle)


@pytest.mark.parametrize("path", ["../secret", "/etc/hostname", "graphs/../../secret", "graphs\\x"])
def test_a_path_that_leaves_the_bundle(bundle: Path, path: str) -> None:
    (bundle.parent / "secret").write_bytes(b"tokenizer.json")
    rewrite(bundle, lambda data: data["tokenizer"].update(path=path))  # type: ignore[attr-defined]
    with pytest.raises(BundleError, match="leaves the bundle"):
        store.open_bundle(bundle)


def test_a_link_that_leaves_the_bundle(bundle: Path) -> None:
    secret = bundle.parent / "secret"
    secret.write_bytes(b"tokenizer.json")
    (bundle / "tokenizer.json").unlink()
    (bundle / "tokenizer.json").symlink_to(secret)
    with pytest.raises(BundleError, match="is a link that leaves the bundle"):
        store.open_bundle(bundle)


def test_a_bundle_reached_through_a_link_opens(bundle: Path) -> None:
    link = bundle.parent / "link"
    link.symlink_to(bundle)
    store.open_bundle(link)


def test_an_existing_bundle_is_replaced_only_with_force(bundle: Path) -> None:
    before = (bundle / NAME).read_text()
    with pytest.raises(OutputError, match="exists; give another -o, or --force"), store.writing(bundle, force=False):
        pass
    with store.writing(bundle, force=True) as (work, finish):
        finish(replace(fill(work), tools={"torch": "9"}))
    assert (bundle / NAME).read_text() != before
    assert store.open_bundle(bundle).manifest.tools == {"torch": "9"}
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_force_replaces_bundles_only(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_bytes(b"meow")
    with pytest.raises(OutputError, match="is no bundle and is not replaced"), store.writing(tmp_path / "photos", True):
        pass
    assert (tmp_path / "photos/cat.jpg").read_bytes() == b"meow"


def test_a_failure_leaves_nothing_and_keeps_the_old_bundle(bundle: Path) -> None:
    before = (bundle / NAME).read_text()
    with pytest.raises(ZeroDivisionError), store.writing(bundle, force=True) as (work, _):
        fill(work)
        raise ZeroDivisionError
    assert (bundle / NAME).read_text() == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_too_little_space_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="MB are free; nothing was written"),
        store.writing(tmp_path / "b", False, 1 << 60),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB; only root may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    with (
        pytest.raises(OutputError, match="no space left to write"),
        store.writing(small_disk / "b", False) as (work, _),
    ):
        (work / "big").write_bytes(bytes(1 << 20))
    assert list(small_disk.iterdir()) == []


def test_a_read_only_disk(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with (
        pytest.raises(OutputError, match=r"cannot write .*: Read-only file system"),
        store.writing(small_disk / "b", False),
    ):
        pass


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write"), store.writing(tmp_path / "file/b", False):
        pass


# --- reading: what an honest hash does not tell


def test_a_file_is_no_folder(bundle: Path) -> None:
    with pytest.raises(BundleError, match=f"is a file, and a bundle is a folder; give the folder: {bundle}"):
        store.open_bundle(bundle / NAME)


def test_a_manifest_outside_or_too_large(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MANIFEST_LIMIT", 100)
    with pytest.raises(BundleError, match="expected at most 100"):
        store.open_bundle(bundle)
    (bundle / NAME).rename(bundle.parent / "secret")
    (bundle / NAME).symlink_to(bundle.parent / "secret")
    with pytest.raises(BundleError, match=f"{NAME} is a link that leaves the bundle"):
        store.open_bundle(bundle)


def put_graph(bundle: Path, content: bytes, data: bool) -> None:
    """Replace a graph and its entry, under an honest hash."""
    (bundle / "graphs/project.onnx").write_bytes(content)
    (bundle / "graphs/project.onnx.data").write_bytes(b"weights")
    text = (bundle / NAME).read_text()
    manifest = Manifest.from_json(text)
    paths = [bundle / "graphs/project.onnx", bundle / "graphs/project.onnx.data"]
    file, beside = (store.describe(bundle, path) for path in paths)
    changed = replace(manifest.graph("project"), file=file, data=beside if data else None)
    graphs = tuple(changed if graph.name == "project" else graph for graph in manifest.graphs)
    (bundle / NAME).write_text(replace(manifest, graphs=graphs).to_json())


@pytest.mark.parametrize("check", [True, False])
def test_weights_lie_in_the_listed_file_only(bundle: Path, check: bool) -> None:
    put_graph(bundle, initializer("project.onnx.data"), data=True)
    store.open_bundle(bundle, check)
    put_graph(bundle, initializer("../../secret"), data=True)
    with pytest.raises(BundleError, match=r"'project' keeps weights in '../../secret'; .* 'project.onnx.data'"):
        store.open_bundle(bundle, check)
    put_graph(bundle, initializer("project.onnx.data"), data=False)
    with pytest.raises(BundleError, match=r"keeps weights in 'project.onnx.data'; .* lists no data"):
        store.open_bundle(bundle, check)


def test_a_graph_that_is_none_or_too_large(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_graph(bundle, b"no graph", data=False)
    with pytest.raises(BundleError, match=r"project.onnx is no ONNX graph"):
        store.open_bundle(bundle)
    monkeypatch.setattr(store, "GRAPH_LIMIT", 7)
    with pytest.raises(BundleError, match="has 8 bytes; expected at most 7"):
        store.open_bundle(bundle)


# --- writing: what happens meanwhile


def test_what_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists"), store.writing(tmp_path / "b", False) as (work, finish):
        (tmp_path / "b").mkdir()
        (tmp_path / "b/mine").write_text("keep me")
        finish(fill(work))
    assert (tmp_path / "b/mine").read_text() == "keep me"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_failed_swap_puts_the_old_bundle_back(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.suffix == ".partial" and target == bundle:
            raise OSError(errno.EBUSY, "busy")
        return rename(path, target)

    before = (bundle / NAME).read_text()
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError, match="busy"), store.writing(bundle, True) as (work, finish):
        finish(replace(fill(work), tools={}))
    assert (bundle / NAME).read_text() == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("force", [True, False])
def test_the_current_folder_is_not_replaced(bundle: Path, monkeypatch: pytest.MonkeyPatch, force: bool) -> None:
    monkeypatch.chdir(bundle)
    for name in (".", "..", ""):
        with pytest.raises(OutputError, match="is the folder you are in"), store.writing(name, force):
            pass


@pytest.mark.parametrize("length", [250, 300])
def test_a_name_too_long(tmp_path: Path, length: int) -> None:
    with pytest.raises(OutputError, match="File name too long"), store.writing(tmp_path / ("x" * length), False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_errors_of_reading_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), store.writing(tmp_path / "b", False):
        (tmp_path / "checkpoint").read_bytes()
    with (
        pytest.raises(OutputError, match=r"cannot write .*b: No such file"),
        store.writing(tmp_path / "b", False) as (
            work,
            _,
        ),
    ):
        (work / "graphs/x").write_bytes(b"")


def test_leftovers_of_killed_exports_are_removed(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    stale, live, other = (
        tmp_path / f".{name}.partial" for name in (f"b.{gone.pid}.abc_1234", f"b.{os.getppid()}.x", f"c.{gone.pid}.x")
    )
    for folder in (stale, live, other):
        (folder / "graphs").mkdir(parents=True)
    with store.writing(tmp_path / "b", False) as (work, finish):
        assert work.name.startswith(f".b.{os.getpid()}.")
        finish(fill(work))
    assert not stale.exists()
    assert live.exists() and other.exists()
