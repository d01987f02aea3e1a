"""Folders and files of this user on this machine, outside of every bundle, and whether anybody else could write them.

Where they are is the XDG Base Directory Specification's: ``$XDG_STATE_HOME`` (default ``~/.local/state``) for what must
not be lost, ``$XDG_CACHE_HOME`` (default ``~/.cache``) for what can be made again. Knows nothing of what lies there.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from edgeprune.errors import OutputError


def state_folder() -> Path:
    """Where state is kept, or would be: ``<state>/edgeprune``, which may not exist yet.

    Raises:
        OutputError: this user has no home directory.
    """
    base = _base("XDG_STATE_HOME", ".local/state")
    if base is None:
        raise OutputError("there is no home directory to keep state in; set XDG_STATE_HOME")
    return base / "edgeprune"


def cache_folder() -> Path | None:
    """``<cache>/edgeprune``, made with mode 0700 if it is missing.

    None where nothing is to be cached: there is no home directory, the folder cannot be made, belongs to somebody else,
    or others may write to it.
    """
    base = _base("XDG_CACHE_HOME", ".cache")
    if base is None:
        return None
    folder = base / "edgeprune"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder if is_ours(folder.stat()) else None
    except OSError:
        return None


def read_ours(path: Path) -> bytes | None:
    """The content of a file that only this user can have written; None where it is missing, or not such a file."""
    try:
        with path.open("rb") as stream:
            return stream.read() if is_ours(os.fstat(stream.fileno())) else None
    except OSError:
        return None


def write_ours(path: Path, data: bytes) -> None:
    """Write a file that ``read_ours`` reads: whole or not at all, readable and writable by this user alone.

    Raises:
        OutputError: it cannot be written; what was there is untouched.
    """
    work: str | None = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, work = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)  # of mode 0600
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        Path(work).replace(path)
    except OSError as error:
        if work is not None:
            with contextlib.suppress(OSError):
                Path(work).unlink()
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def is_ours(facts: os.stat_result) -> bool:
    """Whether a file or folder belongs to this user, and neither its group nor others may write to it."""
    return facts.st_uid == os.getuid() and not is_open(facts)


def is_open(facts: os.stat_result) -> bool:
    """Whether the group of a file or folder, or others, may write to it."""
    return bool(stat.S_IMODE(facts.st_mode) & 0o022)


def _base(variable: str, default: str) -> Path | None:
    """The folder that a variable names, else the default in the home directory; None where there is none."""
    named = os.environ.get(variable, "")
    if os.path.isabs(named):  # noqa: PTH117 - the specification: relative paths are to be ignored
        return Path(named)
    try:
        return Path.home() / default
    except RuntimeError:
        return None
