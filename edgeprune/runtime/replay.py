"""Runs of one TensorRT context recorded as a CUDA graph, and replayed while nothing about the context changes.

A recording holds the addresses and sizes it was made with, and NVIDIA documents its replay only for a context that was
not touched since. So it serves graphs of fixed shape, such as vision, whose buffers come round at the same places. A
segment's cache grows with every token, so decode steps are never replayed. Knows nothing of what is run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgeprune.errors import BackendError
from edgeprune.nvidia.cuda import Cuda
from edgeprune.nvidia.logger import Messages


class Replays:
    """The recording of a context, if it has one.

    The first run after a change is done, never recorded: TensorRT may finish its work for new shapes in it, which must
    not end up in a recording. The second is recorded, and replayed like all that follow.

    Args:
        cuda: the GPU.
        enqueue: puts the run that the context is set up for on the stream; False if that failed.
        messages: where TensorRT's log goes.
    """

    def __init__(self, cuda: Cuda, enqueue: Callable[[], bool], messages: Messages) -> None:
        self._cuda, self._enqueue, self._messages = cuda, enqueue, messages
        self._recording: Any = None
        self._able, self._fresh = True, True

    def run(self) -> bool:
        """Replay the run that the context is set up for, or do it.

        Returns:
            False if it failed.
        """
        if self._recording is None and self._able and not self._fresh:
            self._record()
        if self._recording is not None:
            self._cuda.launch(self._recording)
            return True
        done = self._enqueue()
        self._fresh = not done
        return done

    def changed(self) -> None:
        """Something about the context is about to change: shapes, addresses, or where it computes."""
        self._fresh = True
        self.close()

    def close(self) -> None:
        """Destroy the recording, once it does not run any more.

        Raises:
            BackendError: work on the stream failed.
        """
        if self._recording is not None:
            recording, self._recording = self._recording, None
            self._cuda.synchronize()
            self._cuda.forget(recording)

    def _record(self) -> None:
        """Record the run; if that cannot be done once, it is not tried again: it runs all the same."""
        self._able = False
        self._cuda.begin_capture()
        enqueued = self._enqueue()
        try:
            recording = self._cuda.end_capture()
        except BackendError:
            self._messages.clear()  # no reason for what may fail later
            return
        if enqueued:
            self._able, self._recording = True, recording
        else:
            self._messages.clear()
            self._cuda.forget(recording)
