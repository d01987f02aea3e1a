"""A bundle on disk: opened only if every MUST holds, written so that a half-written one never opens.

It knows files, hashes and folders; what the files mean is the manifest's business.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from edgeprune.bundle.external import locations
from edgeprune.bundle.manifest import NAME, File, Graph, Manifest
from edgeprune.errors import BundleError, OutputError

_CHUNK = 4 << 20
MANIFEST_LIMIT = 16 << 20
"""Bytes; the manifest of a model with a hundred layers has 0.2 MB."""
GRAPH_LIMIT = 64 << 20
"""Bytes of an .onnx file, whose weights lie outside it; real ones have less than 1 MB."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and its checked manifest."""

    root: Path
    manifest: Manifest

    def path(self, file: File) -> Path:
        """Where a file of the manifest lies."""
        return self.root / file.path


def open_bundle(root: str | Path, check_hashes: bool = True) -> Bundle:
    """Open a bundle.

    Args:
        root: its folder.
        check_hashes: compare the content of every file with the manifest, not only its size.

    Raises:
        BundleError: it is no bundle, or breaks its specification; the message says where.
    """
    root = Path(root)
    try:
        manifest = Manifest.from_json(_read_manifest(root))
        for file in manifest.files:
            _check_place(root, file)
        if check_hashes:
            _check_hashes(root, manifest)
        for graph in manifest.graphs:
            _check_locations(root, graph)
    except OSError as error:
        raise BundleError(f"{root} cannot be read: {error}") from error
    return Bundle(root, manifest)


def _read_manifest(root: Path) -> str:
    """The text of ``edgeprune.json``, if it is a file of this folder and of a sane size."""
    path = root / NAME
    if not root.is_dir():
        if root.exists():
            folder = f": {root.parent}" if root.name == NAME else ""
            raise BundleError(f"{root} is a file, and a bundle is a folder; give the folder{folder}")
        raise BundleError(f"{root} is no bundle: there is no such folder; make one with edgeprune export")
    if not path.is_file():
        raise BundleError(f"{root} is no bundle: it has no {NAME}; make one with edgeprune export")
    _check_link(root, path)
    size = path.stat().st_size
    if size > MANIFEST_LIMIT:
        raise BundleError(f"{path} has {size:,} bytes; expected at most {MANIFEST_LIMIT:,}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} cannot be read: {error}") from error


def _check_hashes(root: Path, manifest: Manifest) -> None:
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        digests = pool.map(lambda file: sha256(root / file.path), manifest.files)
        for file, digest in zip(manifest.files, digests, strict=True):
            if digest != file.sha256:
                raise BundleError(
                    f"{root / file.path} was changed or damaged: sha256 {digest[:12]}..., "
                    f"{NAME} says {file.sha256[:12]}...; export the bundle again"
                )


def _check_locations(root: Path, graph: Graph) -> None:
    """A graph's weights must lie in the file that the manifest lists for it; a hash says nothing about that."""
    path = root / graph.file.path
    if graph.file.bytes > GRAPH_LIMIT:
        raise BundleError(
            f"{path} has {graph.file.bytes:,} bytes; expected at most {GRAPH_LIMIT:,}, with the weights in its data"
        )
    listed = Path(graph.data.path).name if graph.data else None
    try:
        for location in locations(path.read_bytes()):
            if location != listed:
                raise BundleError(
                    f"graph {graph.name!r} keeps weights in {location!r}; {NAME} lists "
                    f"{'no data' if listed is None else repr(listed)} for it, and nothing else is read"
                )
    except ValueError as error:
        raise BundleError(f"{path} is no ONNX graph: {error}") from error


def sha256(path: Path) -> str:
    """Hash a file in pieces, so that a large one takes no memory."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def describe(root: Path, path: Path) -> File:
    """The manifest's entry for a file inside ``root``."""
    return File(path.relative_to(root).as_posix(), path.stat().st_size, sha256(path))


def _check_place(root: Path, file: File) -> None:
    """A file must lie inside the bundle, links resolved, and have the size that the manifest says."""
    relative = Path(file.path)
    if relative.is_absolute() or ".." in relative.parts or "\\" in file.path:
        raise BundleError(f"{NAME}: path {file.path!r} leaves the bundle; paths are relative and stay inside")
    path = root / relative
    _check_link(root, path)
    if not path.is_file():
        raise BundleError(f"{path} is missing; {NAME} lists it: export the bundle again or copy it whole")
    size = path.stat().st_size
    if size != file.bytes:
        raise BundleError(f"{path} has {size:,} bytes; {NAME} says {file.bytes:,}: it was cut short or changed")


def _check_link(root: Path, path: Path) -> None:
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise BundleError(f"{path} is a link that leaves the bundle; a bundle holds its own files")


@contextlib.contextmanager
def writing(
    destination: str | Path, force: bool, needed_bytes: int = 0
) -> Iterator[tuple[Path, Callable[[Manifest], None]]]:
    """Write a bundle beside its destination and move it there when it is whole.

    Yields the temporary folder to write files to, and ``finish(manifest)``, which writes the manifest and moves the
    folder into place. Whatever happens before, the destination is untouched; the manifest is written last, so that a
    folder left by a killed process is no bundle. Such a folder is removed by the next export to the same destination.

    Args:
        destination: the bundle's folder.
        force: replace a bundle that is there.
        needed_bytes: about how much will be written; less free space is an error before anything is.

    Raises:
        OutputError: the destination exists (without ``force``), cannot be written, or the disk is full. Errors of
            the body that are not about writing pass unchanged.
    """
    with _output_errors(Path(destination)):
        destination = _absolute(destination)
    check_destination(destination, force)
    with _output_errors(destination):
        _sweep(destination)
        free = shutil.disk_usage(_existing(destination)).free
        if free < needed_bytes:
            raise OutputError(
                f"{destination} needs {needed_bytes / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free; "
                "nothing was written"
            )
        destination.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{destination.name}.{os.getpid()}."
        work = Path(tempfile.mkdtemp(prefix=prefix, suffix=".partial", dir=destination.parent))

    def finish(manifest: Manifest) -> None:
        with _output_errors(destination):
            (work / NAME).write_text(manifest.to_json(), encoding="utf-8")
            work.chmod(0o755)  # mkdtemp makes it private
            _replace(destination, work, force)

    try:
        with _output_errors(destination, work):
            yield work, finish
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_destination(destination: Path, force: bool) -> None:
    """Refuse what must not be replaced: anything without ``force``, and with it anything that is no bundle.

    Raises:
        OutputError: it must not be replaced, or cannot be looked at.
    """
    with _output_errors(destination):
        if not destination.exists():
            if destination.is_symlink():
                raise OutputError(f"{destination} is a link to nothing; give another -o")
            return
        if Path.cwd().is_relative_to(os.path.realpath(destination)):
            raise OutputError(f"{destination} is the folder you are in, or holds it; give another -o")
        if not force:
            raise OutputError(f"{destination} exists; give another -o, or --force to replace it")
        if destination.is_dir() and not any(destination.iterdir()):
            return
        if not (destination / NAME).is_file():
            raise OutputError(f"{destination} is no bundle and is not replaced, even with --force; give another -o")


def _replace(destination: Path, work: Path, force: bool) -> None:
    """Move ``work`` to the destination; what was there is back in its place if that fails.

    An export takes minutes, so the destination is looked at again: what appeared meanwhile is not replaced unasked.
    Should something appear after that look, the rename fails on it.
    """
    there = os.path.lexists(destination)
    check_destination(destination, force)
    if not there:
        work.rename(destination)
        return
    old = work.with_suffix(".old")
    destination.rename(old)
    try:
        work.rename(destination)
    except BaseException:
        old.rename(destination)
        raise
    if old.is_symlink():
        old.unlink()
    else:
        shutil.rmtree(old, ignore_errors=True)


def _sweep(destination: Path) -> None:
    """Remove what killed exports to this destination left beside it."""
    pattern = re.compile(rf"\.{re.escape(destination.name)}\.(\d+)\.[a-z0-9_]+\.partial")
    if not destination.parent.is_dir():
        return
    for path in list(destination.parent.iterdir()):
        match = pattern.fullmatch(path.name)
        if match and path.is_dir() and not path.is_symlink() and not _is_running(int(match[1])):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: int) -> bool:
    if os.name == "nt":  # where asking would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's process; no process id
        return True
    return True


@contextlib.contextmanager
def _output_errors(destination: Path, work: Path | None = None) -> Iterator[None]:
    """Map what the operating system says about writing.

    Args:
        destination: what is being written.
        work: where given, errors that name a file outside of it are not about writing and pass unchanged.
    """
    try:
        yield
    except OSError as error:
        if work is not None and error.errno not in _WRITING and not _names(error, work):
            raise
        if error.errno == errno.ENOSPC:
            raise OutputError(f"no space left to write {destination}{_free(destination)}; nothing was kept") from error
        raise OutputError(f"cannot write {destination}: {error.strerror or error}") from error


_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""Errors that are about writing even where they name no file."""


def _names(error: OSError, folder: Path) -> bool:
    """Whether an error names a file in ``folder``."""
    names = (os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes))
    return any(_absolute(name).is_relative_to(folder) for name in names)


def _absolute(path: str | Path) -> Path:
    """Gives "." a name and follows no link: a destination that is a link is replaced, not what it leads to."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.resolve would follow links


def _free(destination: Path) -> str:
    try:
        return f" ({shutil.disk_usage(_existing(destination)).free / 1e6:,.0f} MB free)"
    except OSError:
        return ""


def _existing(path: Path) -> Path:
    """The nearest folder above that exists."""
    while not path.exists():
        path = path.parent
    return path
