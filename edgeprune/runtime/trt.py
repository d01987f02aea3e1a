"""TensorRT 10.3 to 11 and TensorRT-RTX on one GPU: the plans of a build, chained on one stream.

Arrays stay on the GPU from pixels to logits; the host waits only where it reads one. So the time that ``run`` of a
session takes is the time to enqueue it: what is to be timed alone must be followed by ``wait``. Which plan may be
loaded is decided in ``plan``, how it runs in ``engine``, and where arrays live in ``memory``. Any thread may use a
backend, one at a time.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgeprune.bundle.build import Build
from edgeprune.bundle.image import ImageProcessing
from edgeprune.bundle.manifest import Graph
from edgeprune.errors import BackendError
from edgeprune.nvidia.cuda import Cuda, open_gpu
from edgeprune.nvidia.library import Library, extra_for
from edgeprune.nvidia.logger import Messages, make_logger
from edgeprune.nvidia.memory import Memory
from edgeprune.runtime.backend import Array, Session
from edgeprune.runtime.engine import Engine, Scratch, Shared
from edgeprune.runtime.plan import Plans
from edgeprune.runtime.room import check_plans


class TrtBackend:
    """Runs the plans of one build.

    Args:
        build: what ``build.json`` says.
        folder: where it and the plans lie.
        library: the TensorRT that built them.
        trust: run plans that were not built on this machine, too; they are native code.
        cuda: the GPU, which the backend closes with itself, also if it does not come about; None is the first that the
            plans are for.
        image: how pictures become runs of the encoder, for messages.

    Raises:
        MissingExtra: cuda-python is not installed.
        BackendError: there is no GPU, or the plans are for another GPU, platform or TensorRT.
    """

    def __init__(
        self,
        build: Build,
        folder: Path,
        library: Library,
        trust: bool = False,
        cuda: Cuda | None = None,
        image: ImageProcessing | None = None,
    ) -> None:
        cuda = cuda or open_gpu(build.capabilities, extra=extra_for(library.flavour))
        try:
            self._plans = Plans(build, folder, library, cuda.device, trust, cuda.gpus)
            check_plans(build, cuda.memory()[0])
            memory, messages = Memory(cuda), Messages()
            self._shared = Shared(library, cuda, memory, Scratch(memory.device), messages, self._plans.again, image)
            self._runtime = _new_runtime(library, messages)
        except BaseException:  # also Ctrl-C: what was taken is given back, whatever it was
            with contextlib.suppress(BackendError):
                cuda.close()
            raise
        self._engines: list[Engine] = []

    @property
    def name(self) -> str:
        """For reports: "tensorrt 10.3.0 (orin-agx-64gb)"."""
        return f"{self._shared.library.name} ({self._plans.build.target})"

    @property
    def chunk(self) -> None:
        """All of them: plans are made for a whole prompt, and TensorRT has attention that writes no scores out."""

    def session(self, graph: Graph, path: Path) -> Session:
        """Load the plan of a graph; the graph's own file at ``path`` is not read.

        Raises:
            BackendError: there is no plan, it must not be loaded, or TensorRT does not load it.
        """
        if self._runtime is None:
            raise BackendError("the backend is closed; open the bundle again")
        self._shared.cuda.use()
        plan = self._plans.find(graph)
        self._shared.messages.clear()
        with self._plans.read(plan) as content:
            engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            reason = self._shared.messages.first_error or "TensorRT gives no reason"
            raise BackendError(f"the plan of graph {graph.name} does not load in {self._shared.library.name}: {reason}")
        loaded = Engine(self._shared, graph, plan, engine)
        self._engines.append(loaded)
        return loaded

    def array(self, value: NDArray[Any]) -> Array:
        """Copy a numpy array to the GPU."""
        self._shared.cuda.use()
        return self._shared.memory.array(value)

    def numpy(self, array: Array) -> NDArray[Any]:
        """Copy an array to the host; waits for all work before it.

        Raises:
            BackendError: that work failed.
        """
        return self._shared.memory.numpy(array)

    @property
    def free_bytes(self) -> int:
        """Bytes of the GPU that are free, or idle in the pool."""
        self._shared.cuda.use()
        return self._shared.cuda.memory()[0] + self._shared.memory.device.idle

    def wait(self) -> None:
        """Wait for all work.

        Raises:
            BackendError: it failed.
        """
        self._shared.memory.wait()

    def close(self) -> None:
        """Free engines, memory and stream; arrays that are left are worthless. May be called again."""
        if self._runtime is None:
            return
        self._runtime = None
        try:
            self._shared.cuda.use()
            self._shared.memory.wait()  # nothing that runs may lose its engine
        except BackendError:  # told where its result was read; a GPU context that crashed frees nothing any more
            return
        while self._engines:
            self._engines.pop().close()
        self._shared.memory.close()
        self._shared.cuda.close()


def _new_runtime(library: Library, messages: Messages) -> Any:
    """TensorRT's runtime, which logs into ``messages``.

    Raises:
        BackendError: TensorRT gives none, usually because of the driver.
    """
    module, logger = library.module, make_logger(library, messages)
    module.init_libnvinfer_plugins(logger, "")  # some ONNX operators are plugins in 10.x
    try:
        return module.Runtime(logger)
    except (TypeError, RuntimeError) as error:  # what the binding makes of a null pointer
        reason = messages.first_error or error
        raise BackendError(f"{library.name} does not start: {reason}; edgeprune doctor says more") from error
