"""Memory of a GPU for one stream: a pool of buffers, and arrays that live in them.

All work is on one stream, so a buffer may be given to new work as soon as no array is left in it: what still reads
the old content was enqueued before. A pool never gives memory back while it serves, but for room.

Sizes are rounded up to a quarter of a power of two. That is what makes growing caches cheap: a decode step writes
its ``present_*`` into the buffers that the ``past_*`` of the step before left, two buffers per cache in turns, and
only a cache that grows out of its class, every eighth to fifth of its length, allocates anything.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import BackendError
from edgeprune.nvidia.cuda import Cuda

LEAST = 512
"""Bytes of the smallest class. TensorRT wants an address of its own for every tensor, an empty one too."""
HOST_LIMIT = 64
"""Bytes; int64 arrays up to here keep a host copy, because TensorRT reads the sizes among them on the host."""


def size_class(size: int) -> int:
    """Bytes that a buffer for ``size`` bytes has: at most a quarter more, but for tiny ones."""
    if size <= LEAST:
        return LEAST
    step = 1 << (size - 1).bit_length() - 3
    return -(-size // step) * step


class Buffer:
    """Bytes of a pool, back in it when the last reference is gone."""

    __slots__ = ("_pool", "pointer", "size")

    def __init__(self, pool: Pool, pointer: int, size: int) -> None:
        self._pool, self.pointer, self.size = pool, pointer, size

    def __del__(self) -> None:
        self._pool.give(self.pointer, self.size)


class Pool:
    """Buffers that are used again.

    Args:
        allocate: gives the address of so many bytes, or None where there is no room.
        free: gives one back.
        room: says how much room there is, for the message when there is none.
    """

    def __init__(
        self, allocate: Callable[[int], int | None], free: Callable[[int], None], room: Callable[[], str]
    ) -> None:
        self._allocate, self._free, self._room = allocate, free, room
        self._idle: dict[int, dict[int, int]] = {}  # size: address: when it was given back
        self._busy: dict[int, int] = {}  # address: size
        self._returned: list[tuple[int, int]] = []
        self._clock, self._used, self._peak, self._open = 0, 0, 0, True

    def take(self, size: int) -> Buffer:
        """A buffer of ``size`` bytes or a little more; its content is whatever was there.

        Raises:
            BackendError: there is no room for it, or the pool is closed.
        """
        if not self._open:
            raise BackendError("the backend is closed; open the bundle again")
        self._collect()
        size = size_class(size)
        idle = self._idle.get(size)
        # The lowest address, not the latest: equal requests then find equal addresses, and runs can be replayed.
        pointer = min(idle) if idle else self._grow(size)
        if idle:
            del idle[pointer]
        self._busy[pointer] = size
        self._used += size
        self._peak = max(self._peak, self._used)
        return Buffer(self, pointer, size)

    @property
    def idle(self) -> int:
        """Bytes that are not in use."""
        self._collect()
        return sum(size * len(idle) for size, idle in self._idle.items())

    def give(self, pointer: int, size: int) -> None:
        """Take a buffer back; the garbage collector may call this in the middle of anything."""
        self._returned.append((pointer, size))

    def close(self) -> None:
        """Free everything, arrays in use included; nothing can be taken afterwards."""
        self._open = False
        busy, self._busy = self._busy, {}
        for pointer in busy:
            self._free(pointer)
        self._trim(0)

    def _collect(self) -> None:
        while self._returned:
            pointer, size = self._returned.pop(0)
            del self._busy[pointer]
            self._clock += 1
            self._used -= size
            self._idle.setdefault(size, {})[pointer] = self._clock

    def _grow(self, size: int) -> int:
        # What a cache grew out of would stay for ever. Caches in turns need twice what is in use at once.
        self._trim(max(2 * self._peak - self._used, 0))
        pointer = self._allocate(size)
        if pointer is None:
            self._trim(0)
            pointer = self._allocate(size)
        if pointer is None:
            raise BackendError(f"no room for {size / 1e6:,.1f} MB{self._room()}; prune more (--keep) or ask less")
        return pointer

    def _trim(self, limit: int) -> None:
        """Free idle buffers, the longest idle first, until ``limit`` bytes of them are left."""
        kept = sum(size * len(idle) for size, idle in self._idle.items())
        idle = [(when, pointer, size) for size, some in self._idle.items() for pointer, when in some.items()]
        for _, pointer, size in sorted(idle):
            if kept <= limit:
                return
            del self._idle[size][pointer]
            self._free(pointer)
            kept -= size


class DeviceArray:
    """An array for a GPU: on it, or a small one that still waits on the host.

    Attributes:
        shape, dtype: as in numpy.
        buffer: where it is on the GPU; None while it is on the host alone.
        host: its content on the host, kept for small int64 arrays only.
    """

    __slots__ = ("buffer", "dtype", "host", "shape")

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], buffer: Buffer | None, host: NDArray[Any] | None = None
    ) -> None:
        self.shape, self.dtype, self.buffer, self.host = shape, dtype, buffer, host

    @property
    def nbytes(self) -> int:
        """Bytes of its content."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class Memory:
    """Arrays on a GPU, and the way there and back through pinned host memory.

    Args:
        cuda: the GPU; all copies are on its stream.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.device = Pool(cuda.allocate, cuda.free, self._room)
        self._pinned = Pool(cuda.allocate_pinned, cuda.free_pinned, lambda: " of pinned host memory")
        self._flying: list[Any] = []

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        """An array on the GPU, its content undefined."""
        array = DeviceArray(shape, dtype, None)
        array.buffer = self.device.take(array.nbytes)
        return array

    def array(self, value: NDArray[Any]) -> DeviceArray:
        """A copy of a numpy array; a small int64 one goes to the GPU only when it is needed there."""
        value = np.asarray(value, order="C")  # keeps 0-dimensional arrays as they are
        if value.dtype == np.int64 and value.nbytes <= HOST_LIMIT:
            return DeviceArray(value.shape, value.dtype, None, value.copy())
        array = self.empty(value.shape, value.dtype)
        self._upload(value, array.buffer)
        return array

    def pointer(self, array: DeviceArray) -> int:
        """Where an array is on the GPU; it is copied there first if it was not."""
        if array.buffer is None:
            assert array.host is not None  # an array is somewhere
            array.buffer = self.device.take(array.nbytes)
            self._upload(array.host, array.buffer)
        return array.buffer.pointer

    def on_host(self, array: DeviceArray) -> NDArray[Any]:
        """The host copy of an array, made now if it has none; not to be written to."""
        if array.host is None:
            array.host = self.numpy(array)
        return array.host

    def host_pointer(self, array: DeviceArray) -> int:
        """Where the host copy of an array is; it stays there until ``wait``."""
        host = self.on_host(array)
        self._flying.append(host)
        return int(host.ctypes.data)

    def numpy(self, array: DeviceArray) -> NDArray[Any]:
        """Copy to the host; waits for everything before.

        Raises:
            BackendError: that work failed.
        """
        if array.host is not None:
            return np.array(array.host)
        assert array.buffer is not None  # an array is somewhere
        value = np.empty(array.shape, array.dtype)
        if value.nbytes:
            pinned = self._pinned.take(value.nbytes)
            self._cuda.download(pinned.pointer, array.buffer.pointer, value.nbytes)
            self._flying.append(pinned)
            self.wait()
            ctypes.memmove(value.ctypes.data, pinned.pointer, value.nbytes)
        return value

    def wait(self) -> None:
        """Wait for everything on the stream.

        Raises:
            BackendError: it failed.
        """
        self._cuda.synchronize()
        self._flying.clear()

    def close(self) -> None:
        """Free everything, once all work is done; arrays that are left are worthless.

        Raises:
            BackendError: that work failed.
        """
        self.wait()
        self.device.close()
        self._pinned.close()

    def _upload(self, value: NDArray[Any], buffer: Buffer | None) -> None:
        assert buffer is not None  # just taken
        if not value.nbytes:
            return
        pinned = self._pinned.take(value.nbytes)
        ctypes.memmove(pinned.pointer, value.ctypes.data, value.nbytes)
        self._cuda.upload(buffer.pointer, pinned.pointer, value.nbytes)
        self._flying.append(pinned)  # the copy may not have begun: not to be used again before the stream is done

    def _room(self) -> str:
        free, total = self._cuda.memory()
        return f" on the GPU: {free / 1e6:,.0f} of its {total / 1e6:,.0f} MB are free"
