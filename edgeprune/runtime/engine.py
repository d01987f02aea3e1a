"""One graph as a TensorRT engine: checks what it is fed, binds it, runs it.

An engine lies between the arrays of ``memory`` and a context of TensorRT. It asks the context for the shapes of its
outputs and never works them out; it knows neither bundles nor what the graph computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeprune.bundle.build import Bounds, Plan
from edgeprune.bundle.image import ImageProcessing
from edgeprune.bundle.manifest import Graph
from edgeprune.errors import BackendError
from edgeprune.nvidia.cuda import Cuda
from edgeprune.nvidia.library import Library
from edgeprune.nvidia.logger import Messages
from edgeprune.nvidia.memory import Buffer, DeviceArray, Memory, Pool
from edgeprune.runtime.backend import NUMPY
from edgeprune.runtime.kernels import Kernels
from edgeprune.runtime.replay import Replays
from edgeprune.runtime.room import flags_for

_TYPES = {"FLOAT": "float32", "HALF": "float16", "INT64": "int64", "INT32": "int32", "BOOL": "bool"}
"""TensorRT's element types in numpy."""


class Scratch:
    """The memory that all engines compute in: one piece, because they run one after another.

    Args:
        pool: where it comes from.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._buffer: Buffer | None = None

    def reserve(self, size: int) -> Buffer:
        """The piece, grown to ``size`` bytes if it is smaller.

        Raises:
            BackendError: there is no room for it.
        """
        if self._buffer is None or self._buffer.size < size:
            self._buffer = None  # back in the pool first, or both would be held at once
            self._buffer = self._pool.take(size)
        return self._buffer


@dataclass(frozen=True)
class Shared:
    """What the engines of a backend have in common.

    Attributes:
        library: the TensorRT.
        cuda: the GPU and its stream.
        memory: for arrays.
        scratch: for computing.
        messages: where TensorRT's log goes.
        again: the command that builds the plans again.
        image: how pictures become runs of the encoder; None where that is not known.
    """

    library: Library
    cuda: Cuda
    memory: Memory
    scratch: Scratch
    messages: Messages
    again: str
    image: ImageProcessing | None = None


@dataclass(frozen=True)
class _Input:
    """An input as the engine has it; on_host where TensorRT reads its values before it runs."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    on_host: bool
    bounds: Bounds | None


class Engine:
    """A deserialised plan with one context.

    Args:
        shared: what it has in common with others.
        graph: its entry in the manifest.
        plan: its entry in ``build.json``.
        engine: TensorRT's.

    Raises:
        BackendError: its inputs or outputs are not the graph's.
    """

    def __init__(self, shared: Shared, graph: Graph, plan: Plan, engine: Any) -> None:
        self._shared, self._graph, self._engine = shared, graph, engine
        self._inputs, self._outputs = self._tensors(plan)
        self._fixed = all(b.kind == "shape" and b.least[1:] == b.most[1:] for b in plan.inputs)  # but for the batch
        self._kernels: Kernels | None = None
        self._context = self._new_context(plan)
        self._allocators: dict[str, Any] = {}
        self._sizes: tuple[tuple[int, ...], ...] | None = None  # shapes that the context is set up for
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._need = 0  # bytes that they take to compute in
        # What the context has: it is told only of changes, because a recording serves while there are none.
        self._addresses: dict[str, int] = {}
        self._place: tuple[int, int] | None = None  # address and size of what it computes in
        # Values on the host may change under the same address, so such an engine is set up anew for every run. That
        # also keeps it from being recorded: a replay would read the host again, or not, which is not documented.
        self._reads_host = any(tensor.on_host for tensor in self._inputs)
        by_itself = shared.library.flavour == "tensorrt-rtx"
        self._replays = None if by_itself else Replays(shared.cuda, self._enqueue, shared.messages)

    def run(self, feeds: Mapping[str, DeviceArray]) -> dict[str, DeviceArray]:
        """Enqueue a run; returns its outputs, which later work on the stream may use at once.

        Raises:
            BackendError: an input does not fit the engine, TensorRT refuses, or there is no room.
        """
        if self._context is None:
            raise BackendError(f"graph {self._graph.name} is closed; open the bundle again")
        self._shared.cuda.use()
        self._shared.messages.clear()
        arrays = {tensor.name: feeds[tensor.name] for tensor in self._inputs}
        self._check(arrays)
        self._bind_inputs(arrays)
        sizes = tuple(array.shape for array in arrays.values())
        if sizes != self._sizes or self._reads_host:
            self._resize(arrays)
        self._give_scratch()
        outputs = self._bind_outputs()
        if not self._execute():
            raise self._failure("does not run")
        return outputs | {name: allocator.array() for name, allocator in self._allocators.items()}

    def close(self) -> None:
        """Destroy recordings, context and engine; it cannot run afterwards."""
        if self._replays is not None:
            self._replays.close()
        if self._kernels is not None:
            self._kernels.keep()
        self._replays = self._kernels = self._context = self._engine = self._place = None
        self._allocators.clear()
        self._addresses.clear()

    # --- loading ------------------------------------------------------------------------------------------------

    def _tensors(self, plan: Plan) -> tuple[list[_Input], dict[str, np.dtype[Any]]]:
        """Inputs and outputs of the engine, held against the manifest's."""
        engine, module = self._engine, self._shared.library.module
        expected = {tensor.name: NUMPY[tensor.dtype] for tensor in (*self._graph.inputs, *self._graph.outputs)}
        bounds = {entry.name: entry for entry in plan.inputs}
        inputs: list[_Input] = []
        outputs: dict[str, np.dtype[Any]] = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            kind = engine.get_tensor_dtype(name).name
            if name not in expected or _TYPES.get(kind) != expected[name].name:
                has = f"the bundle says {expected[name].name}" if name in expected else "the bundle has no such tensor"
                raise self._misfit(f"has {name} as {kind}, {has}")
            on_host = engine.get_tensor_location(name) == module.TensorLocation.HOST
            if engine.get_tensor_mode(name) == module.TensorIOMode.INPUT:
                on_host = on_host or engine.is_shape_inference_io(name)
                shape = _sizes(engine.get_tensor_shape(name))
                inputs.append(_Input(name, expected[name], shape, on_host, bounds.get(name)))
            elif on_host:
                raise self._misfit(f"gives {name} in host memory, where it is not looked for")
            else:
                outputs[name] = expected[name]
        missing = {tensor.name for tensor in self._graph.outputs} - set(outputs)
        if missing:
            raise self._misfit(f"gives no {min(missing)}")
        return inputs, outputs

    def _new_context(self, plan: Plan) -> Any:
        """A context that computes in memory it is given."""
        module, engine = self._shared.library.module, self._engine
        strategy = module.ExecutionContextAllocationStrategy.USER_MANAGED
        whole = self._shared.library.member("CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE")
        if whole is None:
            context = engine.create_execution_context(strategy)
        else:
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            if self._fixed:  # a segment's shapes change with every token, and it would be recorded every time
                config.cuda_graph_strategy = whole
            none = self._shared.library.member("DynamicShapesKernelSpecializationStrategy", "NONE")
            if none is not None and not self._fixed:  # by default kernels are compiled for every length of a cache
                config.dynamic_shapes_kernel_specialization_strategy = none
            cache = config.create_runtime_cache()
            self._kernels = Kernels(cache, plan.file.sha256, self._shared.cuda.device.name)
            config.set_runtime_cache(cache)
            context = engine.create_execution_context(config)
        if context is None:
            raise self._failure("gets no context")
        return context

    # --- running ------------------------------------------------------------------------------------------------

    def _check(self, arrays: Mapping[str, DeviceArray]) -> None:
        """Refuse inputs that the engine was not built for."""
        beyond: list[str] = []
        short: dict[str, int] = {}
        for tensor in self._inputs:
            array = arrays[tensor.name]
            fits = len(array.shape) == len(tensor.shape) and all(
                fixed in (-1, size) for fixed, size in zip(tensor.shape, array.shape, strict=True)
            )
            if array.dtype != tensor.dtype or not fits:
                raise BackendError(
                    f"graph {self._graph.name} takes {tensor.name} as {tensor.dtype} {tensor.shape}; "
                    f"got {array.dtype} {array.shape}"
                )
            if tensor.on_host:
                self._shared.memory.on_host(array)  # so that its values can be checked
            if tensor.bounds is not None:
                self._hold_against(tensor.bounds, array, beyond, short)
        if beyond:
            flags = flags_for(short, self._shared.image) or "with [shapes] of the target that cover it"
            comma = "" if flags.startswith("--") else ","
            raise BackendError(f"graph {self._graph.name} got {beyond[0]}: {self._shared.again}{comma} {flags}")

    def _hold_against(self, bounds: Bounds, array: DeviceArray, beyond: list[str], short: dict[str, int]) -> None:
        """Tell what of an input its plan was not built for, and note the sizes and values that are too large."""
        if bounds.kind == "shape":
            found, what = array.shape, "shape"
        elif array.host is not None:
            found, what = tuple(array.host.ravel().tolist()), "value"
        else:  # on the GPU alone: a size that no shape depends on
            return
        axes = next(tensor.shape for tensor in self._graph.inputs if tensor.name == bounds.name) or (bounds.name,)
        for axis, least, value, most in zip(axes, bounds.least, found, bounds.most, strict=True):
            if not least <= value <= most:
                shown = found if what == "shape" else value
                beyond.append(
                    f"{bounds.name} with {what} {shown}, where {value} is outside of the {least}..{most} that its plan "
                    "was built for"
                )
                if value > most:
                    short[str(axis)] = max(value, short.get(str(axis), 0))

    def _bind_inputs(self, arrays: Mapping[str, DeviceArray]) -> None:
        for tensor in self._inputs:
            array, memory = arrays[tensor.name], self._shared.memory
            if tensor.on_host:  # what lies there may be new where the address is not
                self._addresses.pop(tensor.name, None)
            self._set_address(tensor.name, memory.host_pointer(array) if tensor.on_host else memory.pointer(array))

    def _resize(self, arrays: Mapping[str, DeviceArray]) -> None:
        """Set the context up for other shapes or values, and learn the shapes of its outputs."""
        context, self._sizes = self._context, None
        self._changes()
        for tensor in self._inputs:
            shape = arrays[tensor.name].shape
            if -1 in tensor.shape and not context.set_input_shape(tensor.name, shape):
                raise self._failure(f"refuses {tensor.name} of shape {shape}")
        try:
            unknown = context.infer_shapes()
        except RuntimeError as error:
            raise self._failure("cannot infer its shapes", error) from error
        if unknown:
            raise self._failure(f"does not know the shape of {', '.join(unknown)}")
        self._shapes = {name: _sizes(context.get_tensor_shape(name)) for name in self._outputs}
        self._place = None  # what was given for other shapes is not counted on
        self._need = context.update_device_memory_size_for_shapes()
        self._sizes = tuple(array.shape for array in arrays.values())

    def _give_scratch(self) -> None:
        """Let the context compute in the shared scratch, wherever that is by now and however small others left it."""
        buffer = self._shared.scratch.reserve(self._need)
        place = (buffer.pointer, buffer.size)  # and not the buffer, which would not be freed when the scratch grows
        if place != self._place:
            self._changes()
            self._context.set_device_memory(*place)
            self._place = place

    def _bind_outputs(self) -> dict[str, DeviceArray]:
        """New arrays for the outputs; those whose shape only the run itself tells get an allocator instead."""
        arrays = {}
        for name, shape in self._shapes.items():
            if -1 in shape or name in self._allocators:
                self._bind_allocator(name)
            else:
                arrays[name] = self._shared.memory.empty(shape, self._outputs[name])
                self._set_address(name, self._shared.memory.pointer(arrays[name]))
        return arrays

    def _bind_allocator(self, name: str) -> None:
        if name not in self._allocators:
            made = make_allocator(self._shared, self._outputs[name])
            if not self._context.set_output_allocator(name, made):
                raise self._failure(f"takes no allocator for {name}")
            self._allocators[name] = made

    def _execute(self) -> bool:
        if self._replays is None or self._allocators:
            return self._enqueue()
        return self._replays.run()

    def _enqueue(self) -> bool:
        return bool(self._context.execute_async_v3(self._shared.cuda.stream))

    def _set_address(self, name: str, address: int) -> None:
        if self._addresses.get(name) == address:
            return
        self._changes()
        self._addresses.pop(name, None)
        if not self._context.set_tensor_address(name, address):
            raise self._failure(f"takes no address for {name}")
        self._addresses[name] = address

    def _changes(self) -> None:
        """What was recorded of the context is not to be replayed any more."""
        if self._replays is not None:
            self._replays.changed()

    def _failure(self, what: str, error: Exception | None = None) -> BackendError:
        reason = self._shared.messages.first_error or error or "TensorRT gives no reason"
        return BackendError(f"graph {self._graph.name} {what} in {self._shared.library.name}: {reason}")

    def _misfit(self, what: str) -> BackendError:
        return BackendError(f"the plan of graph {self._graph.name} {what}: {self._shared.again}")


def make_allocator(shared: Shared, dtype: np.dtype[Any]) -> Any:
    """An allocator for one output whose shape depends on data.

    TensorRT calls it during ``execute_async_v3``; ``array()`` is what it has by then.
    """
    base = shared.library.module.IOutputAllocator

    class Allocator(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            base.__init__(self)
            self.buffer: Buffer | None = None
            self.shape: tuple[int, ...] = ()
            self.error: BackendError | None = None

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            try:
                self.buffer = shared.memory.device.take(size)
            except BackendError as error:  # must not pass through TensorRT
                self.error = error
                return 0
            return self.buffer.pointer

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self.shape = _sizes(shape)

        def array(self) -> DeviceArray:
            """What the run wrote; the next run gets another buffer."""
            buffer, self.buffer = self.buffer, None
            if self.error is not None or buffer is None:
                error, self.error = self.error, None
                raise error or BackendError("TensorRT asked for no memory for an output")
            return DeviceArray(self.shape, dtype, buffer)

    return Allocator()


def _sizes(shape: Any) -> tuple[int, ...]:
    """TensorRT's Dims as a tuple."""
    return tuple(int(size) for size in shape)
