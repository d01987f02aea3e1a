"""Kernels that TensorRT-RTX compiles while a plan first runs, kept for the next process.

On the machine that compiled them, by plan and GPU, never in a bundle: they are native code, so they are read only where
nobody else can have written them. TensorRT-RTX checks what it reads against its own version and leaves what does not
suit. Without a place for them, every process compiles anew.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

from edgeprune.bundle.plans import write_whole
from edgeprune.errors import OutputError
from edgeprune.local import cache_folder, read_ours


class Kernels:
    """The compiled kernels of one plan.

    Args:
        cache: TensorRT-RTX's runtime cache, empty.
        plan: the plan's sha256.
        gpu: the GPU's name.
    """

    def __init__(self, cache: Any, plan: str, gpu: str) -> None:
        self.cache = cache
        folder = cache_folder()
        name = f"{plan}-{re.sub(r'[^A-Za-z0-9]+', '-', gpu)}"
        self._path = folder / "kernels" / name if folder else None
        self._read = (read_ours(self._path) if self._path else None) or b""
        if self._read:
            self.cache.deserialize(self._read)

    def keep(self) -> None:
        """Write what was compiled since, if anything; whatever goes wrong costs time later, no answer now."""
        if self._path is None:
            return
        try:
            found = self.cache.serialize()
            data = b"" if found is None else bytes(found)
        except Exception:  # a cache that is not to be had is as if nothing was compiled
            return
        if data and data != self._read:
            with contextlib.suppress(OutputError):
                write_whole(self._path, lambda path: path.write_bytes(data))
                self._read = data
