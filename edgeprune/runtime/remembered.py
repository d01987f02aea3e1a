"""Measured times to first token of a bundle, kept from one process to the next in the state folder.

One small JSON file per bundle, method, backend, threads and device, writable by this user alone. A file that is
damaged or somebody else's counts as empty; one that cannot be written costs trial runs later, no answer now.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeprune.bundle.codec import decode, encode
from edgeprune.errors import BundleError, OutputError
from edgeprune.local import read_ours, state_folder, write_ours
from edgeprune.runtime.auto import Sample


@dataclass(frozen=True)
class Place:
    """What a measured time belongs to.

    Attributes:
        manifest: sha256 of the bundle's ``edgeprune.json``, which has those of all its files.
        method: that prunes.
        tokens, runs: visual tokens and encoder runs of a prompt; what its pictures are.
        backend, threads, device: what computes; threads are 0 where they are not chosen.
    """

    manifest: str
    method: str
    backend: str
    threads: int
    device: str
    tokens: int
    runs: int

    @property
    def path(self) -> Path:
        """The file, which may not exist yet.

        Raises:
            OutputError: this user has no home directory.
        """
        words = json.dumps(asdict(self), sort_keys=True)
        return state_folder() / "ttft" / f"{hashlib.sha256(words.encode()).hexdigest()[:32]}.json"


@dataclass(frozen=True)
class _File:
    place: Place
    samples: tuple[Sample, ...]


def recall(place: Place) -> tuple[Sample, ...]:
    """What was measured there, oldest first."""
    try:
        data = read_ours(place.path)
        found = decode(_File, json.loads(data), "ttft") if data is not None else None
    except (OutputError, BundleError, ValueError, RecursionError):  # no home directory, or a damaged file
        return ()
    return found.samples if found is not None and found.place == place else ()


def remember(place: Place, samples: Sequence[Sample]) -> None:
    """Keep these in place of what was there."""
    data = json.dumps(encode(_File(place, tuple(samples))))
    with contextlib.suppress(OutputError):
        write_ours(place.path, f"{data}\n".encode())
