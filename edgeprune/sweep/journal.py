"""What a sweep has finished, line by line in a file, so that one that was interrupted goes on where it stopped.

The first line says which sweep it is; every other line is one value under a key: a kind ("round", "reply", ...), a
cell and a number. Nothing is rewritten: a line is appended when its value is known, so that a process killed at any
moment loses what it was doing and no more. Knows nothing of what the values mean.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from edgeprune.bundle.codec import decode, encode
from edgeprune.errors import BundleError, OutputError
from edgeprune.local import state_folder

T = TypeVar("T")
_Key = tuple[str, str, int]


class Journal:
    """An open journal; made by ``open_journal``.

    Attributes:
        path: its file.
    """

    def __init__(self, path: Path, stream: FileIO, values: dict[_Key, Any]) -> None:
        self.path, self._stream, self._values = path, stream, values

    def add(self, kind: str, cell: str, number: int, value: Any) -> None:
        """Append a value; it is out of this process when this returns, so that only a power cut can lose it.

        Raises:
            OutputError: the file cannot be written.
        """
        plain = encode(value)
        _append(self.path, self._stream, {"kind": kind, "cell": cell, "number": number, "value": plain})
        self._values[kind, cell, number] = plain

    def get(self, what: type[T], kind: str, cell: str, number: int = 0) -> T | None:
        """A value as a dataclass; None where it is not there yet.

        Raises:
            OutputError: it was written by another version.
        """
        value = self._values.get((kind, cell, number))
        if value is None:
            return None
        try:
            return decode(what, value, kind)
        except BundleError as error:
            raise _damaged(self.path, str(error)) from error

    def has(self, kind: str, cell: str, number: int = 0) -> bool:
        """Whether a value is there."""
        return (kind, cell, number) in self._values

    def count(self, kind: str) -> int:
        """How many values of a kind there are."""
        return sum(key[0] == kind for key in self._values)

    @property
    def written(self) -> bool:
        """Whether there is any value."""
        return bool(self._values)

    def remove(self) -> None:
        """Delete the file: the report is complete."""
        self.path.unlink(missing_ok=True)


@contextmanager
def open_journal(identity: dict[str, Any], fresh: bool) -> Iterator[Journal]:
    """The journal of one sweep, in the state folder; it stays there unless it is empty or removed.

    Args:
        identity: everything that a finished value depends on: another sweep has another journal.
        fresh: forget what is there.

    Raises:
        OutputError: the folder cannot be written, the same sweep runs already, or the journal is damaged.
    """
    text = json.dumps(identity, sort_keys=True)
    path = state_folder() / "sweeps" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        stream = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
    except OSError as error:
        raise _unwritable(path, error) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"the same sweep runs already: another process holds {path}") from error
        except OSError as error:  # a file system without locks
            raise OutputError(f"cannot lock the sweep's journal {path}: {error.strerror or error}") from error
        if fresh:
            stream.truncate(0)
        values = _read(path, stream)
        if not stream.tell():
            _append(path, stream, {"sweep": identity})
        journal = Journal(path, stream, values)
        try:
            yield journal
        finally:
            if not journal.written:
                journal.remove()


def _append(path: Path, stream: FileIO, value: dict[str, Any]) -> None:
    """A line; nothing is buffered, so that a disk that is full is told here and not when the file is closed."""
    left = json.dumps(value).encode() + b"\n"
    try:
        while left:
            left = left[stream.write(left) :]
    except OSError as error:
        raise _unwritable(path, error) from error


def _read(path: Path, stream: FileIO) -> dict[_Key, Any]:
    """All values; a last line that was cut off is cut away, and the stream stands at the end."""
    content = stream.read()
    whole = content[: content.rfind(b"\n") + 1]
    stream.truncate(len(whole))
    stream.seek(len(whole))
    values: dict[_Key, Any] = {}
    for number, line in enumerate(whole.splitlines()[1:], start=2):
        try:
            entry = json.loads(line)
            key = entry["kind"], entry["cell"], entry["number"]
            values[key] = entry["value"]
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(path, f"line {number} is none of its entries") from error
    return values


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write the sweep's journal {path}: {error.strerror or error}")


def _damaged(path: Path, reason: str) -> OutputError:
    return OutputError(f"the sweep's journal {path} is damaged: {reason}; --fresh begins again")
