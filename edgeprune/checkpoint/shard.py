"""One safetensors file: a header that is checked when it is opened, and bytes that are read on request.

Reads with seek and read, never with mmap: a mapped shard would stay in memory as long as one of its tensors.
Knows nothing of what the names mean. The format: 8 bytes of header length (little endian), JSON header, data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import CheckpointError

if TYPE_CHECKING:
    import torch

DTYPES: Mapping[str, tuple[str, int]] = {
    "BOOL": ("bool", 1),
    "U8": ("uint8", 1),
    "I8": ("int8", 1),
    "I16": ("int16", 2),
    "I32": ("int32", 4),
    "I64": ("int64", 8),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F32": ("float32", 4),
    "F64": ("float64", 8),
}
"""Name in the file: (name in torch, bytes per element)."""

_LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies in its file.

    Attributes:
        dtype: torch's name (``"float16"``).
        shape: dimensions; empty for a scalar.
        begin: first byte, from the start of the file.
        end: the byte after the last.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Shard:
    """A file whose header was found sound.

    Attributes:
        path: the file.
        entries: every tensor, by its name in the file.
    """

    path: Path
    entries: Mapping[str, Entry]

    def read(self, name: str) -> torch.Tensor:
        """Reads one tensor into memory of its own (CPU, dtype as stored).

        Raises:
            CheckpointError: the file was removed or cut since it was opened.
        """
        import torch

        entry = self.entries[name]
        if entry.begin == entry.end:
            return torch.empty(entry.shape, dtype=getattr(torch, entry.dtype))
        data = torch.empty(entry.end - entry.begin, dtype=torch.uint8)
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(entry.begin)
                _fill(file, data.numpy().data)
        except (OSError, EOFError) as error:
            raise CheckpointError(f"{self.path}: tensor {name!r} cannot be read: {error}") from error
        return data.view(getattr(torch, entry.dtype)).reshape(entry.shape)


def open_shard(path: Path) -> Shard:
    """Reads and checks the header of a safetensors file.

    Raises:
        CheckpointError: the file is missing, cut, longer than its header says, or its header is damaged.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _LONGEST_HEADER):
                raise CheckpointError(f"{path} is no safetensors file: {size} bytes, but a header of {length}")
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        entries = {name: _entry(value, 8 + length) for name, value in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged header: {error}") from error
    _check_layout(path, entries, 8 + length, size)
    return Shard(path, entries)


def _entry(value: Any, start: int) -> Entry:
    if value["dtype"] not in DTYPES:
        raise ValueError(f"dtype {value['dtype']!r} is not read; expected one of {', '.join(DTYPES)}")
    dtype, width = DTYPES[value["dtype"]]
    shape = tuple(value["shape"])
    begin, end = value["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise ValueError(f"shape {list(shape)} and offsets {[begin, end]} must be whole numbers from 0 on")
    if end - begin != math.prod(shape) * width:
        raise ValueError(f"{end - begin} bytes cannot be {list(shape)} of {dtype}")
    return Entry(dtype, shape, start + begin, start + end)


def _check_layout(path: Path, entries: Mapping[str, Entry], start: int, size: int) -> None:
    """The tensors cover the data without gap or overlap, as the format demands; a cut download does not."""
    position = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            raise CheckpointError(f"{path}: damaged header: {name!r} starts at byte {entry.begin}, not {position}")
        position = entry.end
    if position != size:
        what = "truncated" if size < position else "longer than its header says"
        raise CheckpointError(f"{path} is {what}: {size} bytes, expected {position}; download it again")


def _fill(file: Any, view: memoryview) -> None:
    position = 0
    while position < len(view):  # one read returns at most 2 GiB on Linux
        count = file.readinto(view[position:])
        if not count:
            raise EOFError(f"the file ends {len(view) - position} bytes early")
        position += count
