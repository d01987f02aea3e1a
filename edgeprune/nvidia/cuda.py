"""One NVIDIA GPU and one stream on it: memory, copies, and recorded graphs, through ``cuda-python``.

Every call that fails becomes a BackendError with the call's name and CUDA's own name of the error. Nothing here
knows arrays or TensorRT; who owns which memory is decided in ``memory``. One thread at a time, and any: a thread that
comes new calls ``use`` first.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.errors import BackendError, MissingExtra

_NO_GPU = (
    "cudaErrorNoDevice",
    "cudaErrorInsufficientDriver",  # also where there is no driver at all
    "cudaErrorInitializationError",
    "cudaErrorSystemDriverMismatch",
    "cudaErrorSystemNotReady",
    "cudaErrorStubLibrary",
)


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        index: CUDA's number for it.
        name: as CUDA calls it.
        capability: compute capability, "8.7".
        memory: bytes in all.
        integrated: whether CPU and GPU share that memory, as on a Jetson.
    """

    index: int
    name: str
    capability: str
    memory: int
    integrated: bool


class Cuda:
    """A GPU with one stream, on which everything runs in the order of the calls.

    Args:
        index: which GPU.
        runtime: the module ``cuda.bindings.runtime``; None imports it.
        extra: of edgeprune, named where cuda-python is missing.
        meminfo: where Linux says how much memory is available.

    Attributes:
        device: the GPU.
        gpus: how many there are.

    Raises:
        MissingExtra: cuda-python is not installed.
        BackendError: there is no GPU of that number.
    """

    def __init__(
        self,
        index: int = 0,
        runtime: Any = None,
        extra: str = "tensorrt",
        meminfo: Path = Path("/proc/meminfo"),
    ) -> None:
        self._runtime, self._meminfo = runtime or _import(extra), meminfo
        found = devices(self._runtime)
        if not 0 <= index < len(found):
            raise BackendError(f"there is no GPU {index}; this machine has {len(found)}, numbered from 0")
        self.device, self.gpus = found[index], len(found)
        self.use()
        # A stream of its own: on the default stream TensorRT synchronises the whole device around every run.
        self._stream = self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)
        self._open = True

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream)

    def use(self) -> None:
        """Make it the calling thread's GPU: memory is allocated, and TensorRT works, on whichever that is."""
        self._call("cudaSetDevice", self.device.index)

    def memory(self) -> tuple[int, int]:
        """Bytes of the GPU's memory: free and in all.

        Where CPU and GPU share it, CUDA's figure leaves out the page cache, which just took in the files of the bundle
        and is given back on demand; NVIDIA's "CUDA for Tegra" says to read Linux's own figure.
        """
        free, total = map(int, self._call("cudaMemGetInfo"))
        if self.device.integrated:
            free = min(max(free, _available(self._meminfo)), total)
        return free, total

    def allocate(self, size: int) -> int | None:
        """The address of ``size`` bytes on the GPU, None where it has no such room."""
        return self._allocate("cudaMalloc", size)

    def free(self, address: int) -> None:
        """Give back what ``allocate`` gave; waits for the work that may use it."""
        self._call("cudaFree", address)

    def allocate_pinned(self, size: int) -> int | None:
        """The address of ``size`` bytes of host memory that copies can use without waiting."""
        return self._allocate("cudaHostAlloc", size, self._runtime.cudaHostAllocDefault)

    def free_pinned(self, address: int) -> None:
        """Give back what ``allocate_pinned`` gave."""
        self._call("cudaFreeHost", address)

    def upload(self, target: int, pinned: int, size: int) -> None:
        """Enqueue a copy to the GPU; ``pinned`` must stay as it is until ``synchronize``."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, pinned, size, kind, self._stream)

    def download(self, pinned: int, source: int, size: int) -> None:
        """Enqueue a copy from the GPU; ``pinned`` holds it after ``synchronize``."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", pinned, source, size, kind, self._stream)

    def synchronize(self) -> None:
        """Wait until the stream has done everything; errors of that work arrive here."""
        self._call("cudaStreamSynchronize", self._stream)

    def begin_capture(self) -> None:
        """Record what follows on the stream instead of doing it."""
        # Thread-local: what other threads of the process do with CUDA meanwhile is their own business.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)

    def end_capture(self) -> Any:
        """What was recorded since ``begin_capture``, ready for ``launch``.

        Raises:
            BackendError: something that cannot be recorded was among it; the stream is usable again.
        """
        try:
            graph = self._call("cudaStreamEndCapture", self._stream)
            try:
                return self._call("cudaGraphInstantiate", graph, 0)
            finally:
                self._call("cudaGraphDestroy", graph)
        except BackendError:
            self._runtime.cudaGetLastError()  # or TensorRT's next call would report it as its own
            raise

    def launch(self, recorded: Any) -> None:
        """Enqueue a recording."""
        self._call("cudaGraphLaunch", recorded, self._stream)

    def forget(self, recorded: Any) -> None:
        """Destroy a recording."""
        self._call("cudaGraphExecDestroy", recorded)

    def close(self) -> None:
        """Destroy the stream; memory must have been freed before."""
        if self._open:
            self._open = False
            self._call("cudaStreamDestroy", self._stream)

    def _allocate(self, name: str, *arguments: Any) -> int | None:
        """Address of new memory; None where there is no room, which is no error yet."""
        code, *result = getattr(self._runtime, name)(*arguments)
        if code == self._runtime.cudaError_t.cudaErrorMemoryAllocation:
            self._runtime.cudaGetLastError()  # or TensorRT's next call would report it as its own
            return None
        return int(_checked(self._runtime, name, code, result))

    def _call(self, name: str, *arguments: Any) -> Any:
        return _call(self._runtime, name, *arguments)


def open_gpu(capabilities: Collection[str], runtime: Any = None, extra: str = "tensorrt") -> Cuda:
    """The first GPU that has one of these compute capabilities; where none has, the first of all.

    Raises:
        MissingExtra: cuda-python is not installed.
        BackendError: there is no NVIDIA GPU.
    """
    suitable = (gpu.index for gpu in devices(runtime, extra) if gpu.capability in capabilities)
    return Cuda(next(suitable, 0), runtime, extra)


def devices(runtime: Any = None, extra: str = "tensorrt") -> tuple[Device, ...]:
    """The GPUs of this machine, in CUDA's order; at least one.

    Raises:
        MissingExtra: cuda-python is not installed.
        BackendError: there is no NVIDIA GPU or no driver for it; the message has CUDA's reason.
    """
    runtime = runtime or _import(extra)
    count = _call(runtime, "cudaGetDeviceCount")
    if not count:
        raise BackendError("no NVIDIA GPU here: CUDA counts 0 devices; edgeprune doctor says more")
    return tuple(_device(runtime, index) for index in range(count))


def _available(meminfo: Path) -> int:
    """Bytes that Linux could give to a new program; 0 where it does not say."""
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB$", meminfo.read_text(encoding="ascii"), re.MULTILINE)
    except (OSError, ValueError):
        return 0
    return int(found[1]) * 1024 if found else 0


def _device(runtime: Any, index: int) -> Device:
    facts = _call(runtime, "cudaGetDeviceProperties", index)
    name = facts.name.decode(errors="replace") if isinstance(facts.name, bytes) else str(facts.name)
    capability = f"{facts.major}.{facts.minor}"
    return Device(index, name.rstrip("\0"), capability, int(facts.totalGlobalMem), bool(facts.integrated))


def _call(runtime: Any, name: str, *arguments: Any) -> Any:
    """Call a function of the runtime; its result without the error code: nothing, a value, or a tuple of values."""
    try:
        code, *result = getattr(runtime, name)(*arguments)
    except RuntimeError as error:  # cuda-python's own, where libcuda.so cannot be loaded
        raise BackendError(f"no NVIDIA GPU here: {name}: {error}; edgeprune doctor says more") from error
    return _checked(runtime, name, code, result)


def _checked(runtime: Any, name: str, code: Any, result: list[Any]) -> Any:
    if code != runtime.cudaError_t.cudaSuccess:
        word, text = (_text(runtime, ask, code) for ask in ("cudaGetErrorName", "cudaGetErrorString"))
        if word in _NO_GPU:
            raise BackendError(f"no NVIDIA GPU here: {name} says {word} ({text}); edgeprune doctor says more")
        raise BackendError(f"{name} failed: {word} ({text})")
    if len(result) > 1:
        return tuple(result)
    return result[0] if result else None


def _text(runtime: Any, ask: str, code: Any) -> str:
    _, text = getattr(runtime, ask)(code)
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


def _import(extra: str) -> Any:
    """``cuda.bindings.runtime``, which cuda-python called ``cuda.cudart`` before 12.6."""
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        except Exception as error:  # what a missing shared library raises differs between versions
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise BackendError(f"cuda-python is installed but does not load: {reason}") from error
    raise MissingExtra("cuda-python", extra, "running engines")
