"""Files that appear whole or not at all: written beside their place and renamed when they are complete."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgeprune.errors import OutputError, UsageError


def check_output(option: str, path: Path, bundle: Path, inputs: Sequence[Path] = ()) -> None:
    """Refuse a path that could not be written later, hours before it is.

    Args:
        option: what it was given to, for messages.
        path: a file, which may exist.
        bundle: folder of the bundle.
        inputs: files that are read.

    Raises:
        OutputError: its folder is missing or cannot be written, or it is a folder itself, or write-protected.
        UsageError: it lies in the bundle, or is an input.
    """
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"{option} {path}: there is no folder {folder}")
    if path.is_dir():
        raise OutputError(f"{option} {path}: it is a folder; give the name of a file")
    if path.exists() and not os.access(path, os.W_OK):
        raise OutputError(f"{option} {path}: it is write-protected")
    if path.resolve().is_relative_to(bundle.resolve()):
        raise UsageError(f"{option} {path} lies in the bundle; give another place")
    if path.resolve() in {each.resolve() for each in inputs}:
        raise UsageError(f"{option} {path} would overwrite an input; give another name")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"{option} {path}: {folder} cannot be written: {error.strerror or error}") from error


def write_output(path: Path, text: str) -> None:
    """Write a file beside ``path`` and put it in its place; what was there stays whole until then.

    Raises:
        OutputError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="replace")  # half a surrogate pair is no character
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
