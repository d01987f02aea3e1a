"""A GPU that this machine does not have, simulated in host memory: CUDA's runtime as far as we call it.

It stands in for a GPU so that the whole chain can run through the TensorRT backend on a machine without one;
``simulated_tensorrt`` has the TensorRT that goes with it. It proves how buffers are handled and in which order calls
are made, and nothing about numerics, speed, or what a driver accepts.

It is stricter than a GPU. Work on the stream is done as late as it may be, when somebody waits: what is read, changed
or freed too early shows. Pointers must lie in live memory of the right kind, with room for what is read or written, and
what is closed is closed. Misuse that on a GPU would be silent raises ``Misuse``, which no production code catches.
"""

from __future__ import annotations

import ctypes
import enum
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

ALIGNMENT = 256
POISON = 0xA5
"""Fills new memory: reading what was never written gives huge numbers."""


class Misuse(BaseException):
    """A call that on a GPU would be undefined behaviour."""


class Code(enum.IntEnum):
    """Error codes, with CUDA's numbers."""

    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorLaunchFailure = 719
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


def _anything() -> None:
    """A recording whose replay nothing speaks against."""


@dataclass(frozen=True)
class _Work:
    """Something on a stream: what is done, what must hold when a recording of it is launched, and whose part it is."""

    do: Callable[[], None]
    check: Callable[[], None] = _anything
    recording: int | None = None


@dataclass
class _Capture:
    work: list[_Work] = field(default_factory=list)
    broken: bool = False


class SimulatedCuda:
    """``cuda.bindings.runtime``: functions return a tuple that begins with an error code.

    Args:
        capability: major and minor.
        memory: bytes of the GPU.
        others: capabilities of further GPUs, numbered from 1.

    Attributes:
        fail: codes that calls give instead of working, by the call's name.
        calls: how often each function was called.
        live: bytes of every live allocation, by kind ("device", "pinned").
        integrated: whether CPU and GPU share their memory.
        used: numbers of the GPUs that memory was taken on, or asked for, or work was done on.
    """

    cudaError_t = Code
    cudaMemcpyKind = enum.Enum("cudaMemcpyKind", ["cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"])
    cudaStreamCaptureMode = enum.Enum("cudaStreamCaptureMode", ["cudaStreamCaptureModeThreadLocal"])
    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0

    def __init__(
        self,
        capability: tuple[int, int] = (8, 7),
        memory: int = 1 << 30,
        others: tuple[tuple[int, int], ...] = (),
    ) -> None:
        self.capabilities, self.total = (capability, *others), memory
        self.integrated = True
        self.used: set[int] = set()
        self._thread = threading.local()
        self.fail: dict[str, Code] = {}
        self.calls: dict[str, int] = {}
        self._blocks: dict[str, dict[int, ctypes.Array[ctypes.c_char]]] = {"device": {}, "pinned": {}}
        self._streams: dict[int, list[_Work]] = {}
        self._capturing: dict[int, _Capture] = {}
        self._graphs: dict[int, list[_Work]] = {}
        self._execs: dict[int, list[_Work]] = {}
        self._handles = itertools.count(0x5EED)
        self._sticky = Code.cudaSuccess
        self.last_error = Code.cudaSuccess

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if not name.startswith("cuda") or not callable(found) or isinstance(found, type):
            return found

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls[name] = self.calls.get(name, 0) + 1
            code = self.fail.get(name) or self._sticky
            if code and not name.startswith("cudaGet"):
                self.last_error = code
                return code, None
            result: tuple[Any, ...] = found(*arguments)
            if result[0] and name != "cudaGetLastError":
                self.last_error = result[0]
            return result

        return call

    # --- the device -----------------------------------------------------------------------------------------------

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        code = self.fail.get("cudaGetDeviceCount")
        return (code, None) if code else (Code.cudaSuccess, len(self.capabilities))

    def cudaGetDeviceProperties(self, index: int) -> tuple[Any, ...]:
        major, minor = self.capabilities[index]
        facts = SimpleNamespace(
            name=b"Simulated Orin\0",
            major=major,
            minor=minor,
            totalGlobalMem=self.total,
            integrated=int(self.integrated),
        )
        return Code.cudaSuccess, facts

    def cudaSetDevice(self, index: int) -> tuple[Any, ...]:
        if index >= len(self.capabilities):
            return (Code.cudaErrorInvalidDevice,)
        self._thread.gpu = index
        return (Code.cudaSuccess,)

    def use(self) -> None:
        """Note that something happens on the GPU of this thread, the first unless it was told otherwise."""
        self.used.add(getattr(self._thread, "gpu", 0))

    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        self.use()
        return Code.cudaSuccess, self.total - self.live["device"], self.total

    def cudaGetErrorName(self, code: Code) -> tuple[Any, ...]:
        return Code.cudaSuccess, code.name.encode()

    def cudaGetErrorString(self, code: Code) -> tuple[Any, ...]:
        return Code.cudaSuccess, f"what {int(code)} means".encode()

    def cudaGetLastError(self) -> tuple[Any, ...]:
        code, self.last_error = self.last_error, Code.cudaSuccess
        return (code,)

    # --- memory ---------------------------------------------------------------------------------------------------

    @property
    def live(self) -> dict[str, int]:
        return {kind: sum(len(block) - ALIGNMENT for block in blocks.values()) for kind, blocks in self._blocks.items()}

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        self._not_capturing("cudaMalloc")
        self.use()
        if self.live["device"] + size > self.total:
            return Code.cudaErrorMemoryAllocation, None
        return Code.cudaSuccess, self._new("device", size)

    def cudaFree(self, pointer: int) -> tuple[Any, ...]:
        self._not_capturing("cudaFree")
        self._drain()
        return self._drop("device", pointer)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        self._not_capturing("cudaHostAlloc")
        return Code.cudaSuccess, self._new("pinned", size)

    def cudaFreeHost(self, pointer: int) -> tuple[Any, ...]:
        self._drain()
        return self._drop("pinned", pointer)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: int) -> tuple[Any, ...]:
        down = kind == self.cudaMemcpyKind.cudaMemcpyDeviceToHost

        def copy() -> None:
            self.require("pinned" if down else "device", target, size)
            self.require("device" if down else "pinned", source, size)
            ctypes.memmove(target, source, size)

        return self.enqueue(stream, copy)

    def require(self, kind: str, pointer: int, size: int) -> None:
        """Raise unless ``size`` bytes at a pointer lie within one live allocation of that kind."""
        for start, block in self._blocks[kind].items():
            if start <= pointer and pointer + size <= start + len(block) - ALIGNMENT:
                return
        raise Misuse(f"{size} bytes at {pointer:#x} are not within live {kind} memory")

    def is_device(self, pointer: int) -> bool:
        return any(start <= pointer < start + len(block) - ALIGNMENT for start, block in self._blocks["device"].items())

    def _new(self, kind: str, size: int) -> int:
        if size < 1:
            raise Misuse(f"an allocation of {size} bytes gives a null pointer")
        block = ctypes.create_string_buffer(size + ALIGNMENT)
        pointer = -(-ctypes.addressof(block) // ALIGNMENT) * ALIGNMENT
        ctypes.memset(pointer, POISON, size)
        self._blocks[kind][pointer] = block
        return pointer

    def _drop(self, kind: str, pointer: int) -> tuple[Any, ...]:
        if pointer not in self._blocks[kind]:
            raise Misuse(f"{pointer:#x} is freed twice, or was no {kind} memory")
        block = self._blocks[kind].pop(pointer)
        ctypes.memset(pointer, POISON, len(block) - ALIGNMENT)
        return (Code.cudaSuccess,)

    # --- the stream -----------------------------------------------------------------------------------------------

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        self.use()
        handle = next(self._handles)
        self._streams[handle] = []
        return Code.cudaSuccess, handle

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        if stream not in self._streams:
            return (Code.cudaErrorInvalidResourceHandle,)
        self._drain()
        del self._streams[stream]
        return (Code.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        if stream not in self._streams:
            return (Code.cudaErrorInvalidResourceHandle,)
        self._not_capturing("cudaStreamSynchronize")
        self._drain()
        return (self._sticky,)

    def enqueue(self, stream: int, do: Callable[[], None], check: Callable[[], None] = _anything) -> tuple[Any, ...]:
        """Put work on a stream: into the recording while it captures, else to be done when somebody waits.

        A recording may be launched only while ``check`` does not raise.
        """
        if stream not in self._streams:
            return (Code.cudaErrorInvalidResourceHandle,)
        if stream in self._capturing:
            self._capturing[stream].work.append(_Work(do, check))
        else:
            self._streams[stream].append(_Work(do))
        return (Code.cudaSuccess,)

    def break_stream(self, code: Code) -> None:
        """All that waits from now on fails, as after a kernel that crashed."""
        self._sticky = code

    def _drain(self) -> None:
        for queue in self._streams.values():
            while queue:
                queue.pop(0).do()

    # --- recordings -----------------------------------------------------------------------------------------------

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> tuple[Any, ...]:
        self._capturing[stream] = _Capture()
        return (Code.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        capture = self._capturing.pop(stream)
        if capture.broken:
            return Code.cudaErrorStreamCaptureInvalidated, None
        handle = next(self._handles)
        self._graphs[handle] = capture.work
        return Code.cudaSuccess, handle

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        handle = next(self._handles)
        self._execs[handle] = self._graphs[graph]
        return Code.cudaSuccess, handle

    def cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        del self._graphs[graph]
        return (Code.cudaSuccess,)

    def cudaGraphLaunch(self, recorded: int, stream: int) -> tuple[Any, ...]:
        for work in self._execs[recorded]:
            work.check()
            self._streams[stream].append(_Work(work.do, recording=recorded))
        return (Code.cudaSuccess,)

    def cudaGraphExecDestroy(self, recorded: int) -> tuple[Any, ...]:
        if any(work.recording == recorded for queue in self._streams.values() for work in queue):
            raise Misuse("a recording is destroyed while it may be running")
        del self._execs[recorded]
        return (Code.cudaSuccess,)

    @property
    def recordings(self) -> int:
        return len(self._execs)

    @property
    def streams(self) -> int:
        return len(self._streams)

    @property
    def graphs(self) -> int:
        return len(self._graphs)

    def is_capturing(self, stream: int) -> bool:
        return stream in self._capturing

    def break_capture(self, stream: int) -> None:
        """Something was enqueued that cannot be recorded."""
        self._capturing[stream].broken = True

    def _not_capturing(self, name: str) -> None:
        if self._capturing:
            raise Misuse(f"{name} while a stream captures")


@contextmanager
def counted(cuda: SimulatedCuda, *names: str) -> Iterator[dict[str, int]]:
    """How often functions are called within the block."""
    before = {name: cuda.calls.get(name, 0) for name in names}
    found: dict[str, int] = {}
    yield found
    found.update({name: cuda.calls.get(name, 0) - before[name] for name in names})
