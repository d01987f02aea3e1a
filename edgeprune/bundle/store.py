"""A bundle on disk: opened only if every MUST holds, written so that a half-written one never opens.

It knows files, hashes and folders; what the files mean is the manifest's business.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from edgeprune.bundle.manifest import NAME, File, Manifest
from edgeprune.errors import BundleError, OutputError

_CHUNK = 4 << 20


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
    manifest_path = root / NAME
    if not root.is_dir():
        raise BundleError(f"{root} is no bundle: there is no such folder; make one with edgeprune export")
    if not manifest_path.is_file():
        raise BundleError(f"{root} is no bundle: it has no {NAME}; make one with edgeprune export")
    try:
        text = manifest_path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{manifest_path} cannot be read: {error}") from error
    manifest = Manifest.from_json(text)
    for file in manifest.files:
        _check_place(root, file)
    if check_hashes:
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            digests = pool.map(lambda file: sha256(root / file.path), manifest.files)
            for file, digest in zip(manifest.files, digests, strict=True):
                if digest != file.sha256:
                    raise BundleError(
                        f"{root / file.path} was changed or damaged: sha256 {digest[:12]}..., "
                        f"{NAME} says {file.sha256[:12]}...; export the bundle again"
                    )
    return Bundle(root, manifest)


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
    if not path.resolve().is_relative_to(root.resolve()):
        raise BundleError(f"{path} is a link that leaves the bundle; a bundle holds its own files")
    if not path.is_file():
        raise BundleError(f"{path} is missing; {NAME} lists it: export the bundle again or copy it whole")
    size = path.stat().st_size
    if size != file.bytes:
        raise BundleError(f"{path} has {size:,} bytes; {NAME} says {file.bytes:,}: it was cut short or changed")


@contextlib.contextmanager
def writing(
    destination: str | Path, force: bool, needed_bytes: int = 0
) -> Iterator[tuple[Path, Callable[[Manifest], None]]]:
    """Write a bundle beside its destination and move it there when it is whole.

    Yields the temporary folder to write files to, and ``finish(manifest)``, which writes the manifest and moves the
    folder into place. Whatever happens before, the destination is untouched; the manifest is written last, so that a
    folder left by a killed process is no bundle.

    Args:
        destination: the bundle's folder.
        force: replace a bundle that is there.
        needed_bytes: about how much will be written; less free space is an error before anything is.

    Raises:
        OutputError: the destination exists (without ``force``), cannot be written, or the disk is full.
    """
    destination = Path(destination)
    check_destination(destination, force)
    free = shutil.disk_usage(_existing(destination)).free
    if free < needed_bytes:
        raise OutputError(
            f"{destination} needs {needed_bytes / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free; nothing was written"
        )
    with _output_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=".partial", dir=destination.parent))

    def finish(manifest: Manifest) -> None:
        (work / NAME).write_text(manifest.to_json(), encoding="utf-8")
        work.chmod(0o755)  # mkdtemp makes it private
        if destination.exists():
            old = destination.with_name(f".{destination.name}.{os.getpid()}.old")
            destination.rename(old)
            work.rename(destination)
            shutil.rmtree(old)
        else:
            work.rename(destination)

    try:
        with _output_errors(destination):
            yield work, finish
    finally:
        if work.exists():
            shutil.rmtree(work, ignore_errors=True)


def check_destination(destination: Path, force: bool) -> None:
    """Refuse what must not be replaced: anything without ``force``, and with it anything that is no bundle."""
    if not destination.exists():
        return
    if not force:
        raise OutputError(f"{destination} exists; give another -o, or --force to replace it")
    if destination.is_dir() and not any(destination.iterdir()):
        return
    if not (destination / NAME).is_file():
        raise OutputError(f"{destination} is no bundle and is not replaced, even with --force; give another -o")


@contextlib.contextmanager
def _output_errors(destination: Path) -> Iterator[None]:
    """Map what the operating system says about writing."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            free = shutil.disk_usage(_existing(destination)).free
            raise OutputError(
                f"no space left to write {destination} ({free / 1e6:,.0f} MB free); nothing was kept"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EDQUOT):
            raise OutputError(f"cannot write {destination}: {error.strerror}") from error
        raise


def _existing(path: Path) -> Path:
    """The nearest folder above that exists."""
    while not path.exists():
        path = path.parent
    return path
