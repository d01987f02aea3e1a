"""Runs of one TensorRT context recorded as CUDA graphs, and replayed when everything about a run is the same.

A recording holds the addresses and sizes it was made with, so it serves exactly the runs with equal ones: graphs of
fixed shape, such as vision, once their buffers come round again. A segment's cache grows with every token, so decode
steps are never replayed. Knows nothing of what is run.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from edgeprune.errors import BackendError
from edgeprune.nvidia.cuda import Cuda

LIMIT = 4
"""Recordings of a context; each takes some MB on the GPU."""
_REMEMBERED = 32
"""Runs among which an equal one is looked for."""


class Replays:
    """The recordings of a context.

    A run is recorded when it comes a second time, and not while it is the first with the shapes that the context is
    set up for: TensorRT may finish its work for new shapes in that one, which must not end up in a recording.

    Args:
        cuda: the GPU.
        enqueue: puts the run that the context is set up for on the stream; False if that failed.
    """

    def __init__(self, cuda: Cuda, enqueue: Callable[[], bool]) -> None:
        self._cuda, self._enqueue = cuda, enqueue
        self._recorded: dict[Hashable, Any] = {}
        self._seen: dict[Hashable, None] = {}
        self._able, self._fresh = True, True

    def run(self, key: Hashable) -> bool:
        """Replay the run of that key, or do it.

        Args:
            key: all that a recording depends on: shapes and addresses.

        Returns:
            False if it failed.
        """
        if key in self._recorded:
            self._cuda.launch(self._recorded[key])
            return True
        if self._able and not self._fresh and key in self._seen and self._record(key):
            self._cuda.launch(self._recorded[key])
            return True
        self._seen[key] = None
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._fresh = False
        return self._enqueue()

    def changed(self) -> None:
        """The context was set up for other shapes: its next run must not be recorded."""
        self._fresh = True

    def close(self) -> None:
        """Destroy the recordings."""
        recorded, self._recorded = self._recorded, {}
        for recording in recorded.values():
            self._cuda.forget(recording)

    def _record(self, key: Hashable) -> bool:
        """Record the run; if that cannot be done once, it is not tried again."""
        self._able = False
        self._cuda.begin_capture()
        enqueued = self._enqueue()
        try:
            recording = self._cuda.end_capture()
        except BackendError:  # what cannot be recorded runs all the same
            return False
        if not enqueued:
            self._cuda.forget(recording)
            return False
        if len(self._recorded) == LIMIT:
            self._cuda.synchronize()  # it may be running
            self._cuda.forget(self._recorded.pop(next(iter(self._recorded))))
        self._able, self._recorded[key] = True, recording
        return True
