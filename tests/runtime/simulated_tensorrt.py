"""TensorRT on the simulated GPU of ``device``: an "engine" is the graph's ONNX file run by ONNX Runtime.

It proves that the backend makes TensorRT's calls in an order that TensorRT documents, with shapes, addresses and
scratch set when they must be. It proves nothing about TensorRT's numerics, speed, or what TensorRT accepts.
"""

from __future__ import annotations

import ctypes
import enum
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.runtime.device import ALIGNMENT, POISON, Code, Misuse, SimulatedCuda

Severity = enum.Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])
DataType = enum.Enum("DataType", ["FLOAT", "HALF", "INT32", "INT64", "BOOL", "BF16"])
TensorLocation = enum.Enum("TensorLocation", ["DEVICE", "HOST"])
TensorIOMode = enum.Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
Strategy = enum.Enum("Strategy", ["STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"])
Specialization = enum.Enum("Specialization", ["LAZY", "EAGER", "NONE"])
GraphStrategy = enum.Enum("GraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])
_TYPES = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int64)": "INT64"}
_NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64}


def write_plan(
    path: Path,
    onnx: Path,
    bounds: dict[str, tuple[tuple[int, ...], tuple[int, ...]]],
    values: tuple[str, ...] = (),
    unknown: tuple[str, ...] = (),
    scratch: int = 4096,
    types: dict[str, str] | None = None,
    recordable: bool = True,
    located: dict[str, str] | None = None,
) -> None:
    """Write what the simulated TensorRT deserialises.

    Args:
        path: of the plan.
        onnx: what it computes.
        bounds: least and most per input, as the profile has them.
        values: inputs that are read on the host.
        unknown: outputs whose shape only the run tells.
        scratch: bytes beside what the shapes ask for.
        types: element types that differ from the graph's.
        recordable: whether a run can be captured.
        located: "HOST" or "DEVICE" where that is not as ``values`` has it: TensorRT keeps two notions, and takes what
            either of them says from the host.
    """
    facts = {"onnx": str(onnx), "bounds": bounds, "values": values, "unknown": unknown, "scratch": scratch}
    more = {"types": types or {}, "recordable": recordable, "located": located or {}}
    path.write_text(json.dumps({"simulated": 1, **more, **facts}))


class _Base:
    """Of the classes that Python code derives from; pybind11 objects break where this is forgotten."""

    def __init__(self) -> None:
        self.initialised = True


def simulated_tensorrt(cuda: SimulatedCuda, version: str = "10.3.0", rtx: bool = False) -> Any:
    """The module ``tensorrt`` (or ``tensorrt_rtx``), as far as the backend uses it."""
    module: Any = ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    names = dict(
        __version__=version,
        ILogger=type("ILogger", (_Base,), {"Severity": Severity}),
        IOutputAllocator=type("IOutputAllocator", (_Base,), {}),
        DataType=DataType,
        TensorLocation=TensorLocation,
        TensorIOMode=TensorIOMode,
        ExecutionContextAllocationStrategy=Strategy,
        init_libnvinfer_plugins=lambda logger, namespace: _register(module, logger),
        Runtime=lambda logger: _Runtime(cuda, module, logger),
        registered=None,
    )
    vars(module).update(names)
    module.configs = []
    if rtx:
        module.CudaGraphStrategy = GraphStrategy
        module.DynamicShapesKernelSpecializationStrategy = Specialization
    return module


def _register(module: Any, logger: Any) -> None:
    """Keep the first logger for good, without holding it, as the plugins do."""
    assert logger.initialised
    if module.registered is None:
        module.registered = weakref.ref(logger)
    elif module.registered() is None:
        raise Misuse("the plugins log into a logger that is gone")


class _Runtime:
    def __init__(self, cuda: SimulatedCuda, module: Any, logger: Any) -> None:
        assert logger.initialised
        self.cuda, self.module, self.logger = cuda, module, logger

    def deserialize_cuda_engine(self, content: Any) -> _Engine | None:
        self.cuda.use()
        try:
            facts = json.loads(bytes(content))
        except ValueError:
            self.logger.log(Severity.ERROR, "Serialization assertion failed.\n  magicTag does not match")
            self.logger.log(Severity.ERROR, "a consequence of that")
            return None
        return _Engine(self, facts)


class RuntimeCache:
    """TensorRT-RTX's IRuntimeCache; what is compiled is a word."""

    def __init__(self) -> None:
        self.found = b""

    def deserialize(self, blob: bytes) -> bool:
        self.found = bytes(blob)
        return True

    def serialize(self) -> memoryview:
        return memoryview(b"compiled")


class _Config:
    """TensorRT-RTX's IRuntimeConfig."""

    def __init__(self) -> None:
        self.strategy: Any = None
        self.cuda_graph_strategy: Any = GraphStrategy.DISABLED
        self.dynamic_shapes_kernel_specialization_strategy: Any = Specialization.LAZY
        self.cache: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: object) -> bool:
        self.cache = cache
        return True


class _Engine:
    def __init__(self, runtime: _Runtime, facts: dict[str, Any]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self.cuda, self.module, self.logger, self.facts = runtime.cuda, runtime.module, runtime.logger, facts
        self.session = onnxruntime.InferenceSession(facts["onnx"], options, providers=["CPUExecutionProvider"])
        self.inputs = {tensor.name: tensor for tensor in self.session.get_inputs()}
        self.outputs = {tensor.name: tensor for tensor in self.session.get_outputs()}
        self.names = [*self.inputs, *self.outputs]
        self.num_io_tensors = len(self.names)
        self.on_host = {
            name
            for name in self.inputs
            if self.is_shape_inference_io(name) or self.get_tensor_location(name) == TensorLocation.HOST
        }

    def get_tensor_name(self, index: int) -> str:
        name: str = self.names[index]
        return name

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        kind = (self.inputs | self.outputs)[name].type
        return DataType[self.facts["types"].get(name, _TYPES[kind])]

    def get_tensor_location(self, name: str) -> Any:
        usual = "HOST" if name in self.facts["values"] else "DEVICE"
        return TensorLocation[self.facts["located"].get(name, usual)]

    def is_shape_inference_io(self, name: str) -> bool:
        return name in self.facts["values"]

    def get_tensor_shape(self, name: str) -> list[int]:
        return [axis if isinstance(axis, int) else -1 for axis in (self.inputs | self.outputs)[name].shape]

    def create_runtime_config(self) -> _Config:
        assert hasattr(self.module, "CudaGraphStrategy")
        self.module.configs.append(_Config())
        made: _Config = self.module.configs[-1]
        return made

    def create_execution_context(self, how: Any) -> _Context:
        strategy = how.strategy if isinstance(how, _Config) else how
        if strategy != Strategy.USER_MANAGED:
            raise Misuse("the context would allocate memory of its own")
        return _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine, self.cuda = engine, engine.cuda
        self.shapes = {name: tuple(engine.get_tensor_shape(name)) for name in engine.inputs}
        self.addresses: dict[str, int] = {}
        self.allocators: dict[str, Any] = {}
        self.results: dict[str, tuple[int, ...]] | None = None
        self.scratch: tuple[int, int] | None = None
        self.fresh = True  # the shapes were set after the last run
        self.changes = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if name not in self.engine.inputs:
            return self._refuse(f"no input {name}")
        self.changes += 1
        declared = self.engine.get_tensor_shape(name)
        if -1 not in declared:
            raise Misuse(f"{name} has a fixed shape")
        least, most = self.engine.facts["bounds"].get(name, (shape, shape))
        if any(not a <= b <= c for a, b, c in zip(least, shape, most, strict=True)):
            return self._refuse(f"{name} {shape} does not satisfy any optimization profile")
        self.shapes[name] = shape
        self.results, self.scratch, self.fresh = None, None, True
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        if name not in self.engine.names:
            return self._refuse(f"no tensor {name}")
        if address % (1 if name in self.engine.on_host else ALIGNMENT):
            raise Misuse(f"{name} at {address:#x} is not aligned")
        self.addresses[name] = address
        self.changes += 1
        if name in self.engine.on_host:
            self.results = None
        return True

    def set_output_allocator(self, name: str, allocator: Any) -> bool:
        assert allocator.initialised
        self.allocators[name] = allocator
        self.changes += 1
        return True

    def infer_shapes(self) -> list[str]:
        missing = [name for name, shape in self.shapes.items() if -1 in shape]
        missing += [name for name in self.engine.facts["values"] if name not in self.addresses]
        if not missing:
            feeds = {}
            for name, shape in self.shapes.items():
                kind = _NUMPY[self.engine.get_tensor_dtype(name).name]
                on_host = name in self.engine.on_host and name in self.addresses
                feeds[name] = self._host_value(name) if on_host else np.zeros(shape, kind)
            try:
                outputs = self.engine.session.run(None, feeds)
            except Exception as error:
                raise RuntimeError(f"infer_shapes error code: 4 {error}") from error
            self.results = {name: value.shape for name, value in zip(self.engine.outputs, outputs, strict=True)}
        return missing

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self.shapes:
            return self.shapes[name]
        if self.results is None:
            return tuple(self.engine.get_tensor_shape(name))
        return tuple(-1 for _ in self.results[name]) if name in self.engine.facts["unknown"] else self.results[name]

    def update_device_memory_size_for_shapes(self) -> int:
        if any(-1 in shape for shape in self.shapes.values()):
            raise Misuse("scratch is asked for before all shapes are set")
        elements = sum(int(np.prod(shape)) for shape in self.shapes.values())
        return int(self.engine.facts["scratch"]) + 4 * elements

    def set_device_memory(self, pointer: int, size: int) -> None:
        self.cuda.require("device", pointer, size)
        self.scratch = (pointer, size)
        self.changes += 1

    def execute_async_v3(self, stream: int) -> bool:
        if self.results is None:
            raise Misuse("a run before shapes are inferred: its outputs may have other sizes than their buffers")
        missing = [name for name in self.engine.names if name not in self.addresses and name not in self.allocators]
        if missing:
            return self._refuse(f"no address for {', '.join(missing)}")
        if self.scratch is None or self.scratch[1] < self.update_device_memory_size_for_shapes():
            raise Misuse(f"scratch {self.scratch} is less than {self.update_device_memory_size_for_shapes()} bytes")
        if self.cuda.is_capturing(stream) and not self._can_be_captured(stream):
            return self._refuse("operation not permitted when stream is capturing")
        self.cuda.use()
        self.fresh = False
        host = {name: self._host_value(name) for name in self.engine.on_host}
        for name, allocator in self.allocators.items():
            self._ask(name, allocator, stream)
        self._check_addresses(host)
        work = self._work(dict(self.addresses), dict(self.shapes), host, dict(self.results), self.scratch)
        (code,) = self.cuda.enqueue(stream, work, self._unchanged())
        return code == Code.cudaSuccess or self._refuse(code.name)

    def _unchanged(self) -> Callable[[], None]:
        """A check that raises once the context is another than now."""
        before = self.changes

        def check() -> None:
            if self.changes != before:
                raise Misuse("a recording is replayed whose context was changed")

        return check

    def _can_be_captured(self, stream: int) -> bool:
        if self.fresh:
            raise Misuse("the first run after a change of shapes is captured")
        if not self.engine.facts["recordable"]:
            self.cuda.break_capture(stream)
        return bool(self.engine.facts["recordable"])

    def _check_addresses(self, host: dict[str, NDArray[Any]]) -> None:
        for name in self.engine.names:
            if name not in host:
                self.cuda.require("device", self.addresses[name], self._bytes(name))
        if len({self.addresses[name] for name in self.engine.names}) < len(self.engine.names):
            raise Misuse("two tensors have one address")

    def _work(
        self,
        addresses: dict[str, int],
        shapes: dict[str, tuple[int, ...]],
        host: dict[str, NDArray[Any]],
        results: dict[str, tuple[int, ...]],
        scratch: tuple[int, int],
    ) -> Callable[[], None]:
        engine, cuda = self.engine, self.cuda

        def read(name: str) -> NDArray[Any]:
            kind = np.dtype(_NUMPY[engine.get_tensor_dtype(name).name])
            value = np.empty(shapes[name], kind)
            cuda.require("device", addresses[name], value.nbytes)
            ctypes.memmove(value.ctypes.data, addresses[name], value.nbytes)
            return value

        def work() -> None:
            cuda.require("device", *scratch)
            feeds = {name: host[name] if name in host else read(name) for name in engine.inputs}
            for name, value in zip(engine.outputs, engine.session.run(None, feeds), strict=True):
                if value.shape != results[name]:
                    raise Misuse(f"{name} came out as {value.shape}, inferred was {results[name]}")
                cuda.require("device", addresses[name], value.nbytes)
                ctypes.memmove(addresses[name], np.ascontiguousarray(value).ctypes.data, value.nbytes)
            ctypes.memset(scratch[0], POISON, scratch[1])  # whatever else lives there is gone now

        return work

    def _ask(self, name: str, allocator: Any, stream: int) -> None:
        """Let an output allocator give memory, after asking for too little as TensorRT may."""
        assert self.results is not None
        allocator.reallocate_output_async(name, 0, 1, ALIGNMENT, stream)
        self.addresses[name] = allocator.reallocate_output_async(name, 0, self._bytes(name), ALIGNMENT, stream)
        allocator.notify_shape(name, list(self.results[name]))

    def _bytes(self, name: str) -> int:
        assert self.results is not None
        shape = self.shapes[name] if name in self.shapes else self.results[name]
        return int(np.prod(shape)) * np.dtype(_NUMPY[self.engine.get_tensor_dtype(name).name]).itemsize

    def _host_value(self, name: str) -> NDArray[Any]:
        if self.cuda.is_device(self.addresses[name]):
            raise Misuse(f"{name} is read on the host and its address is on the device")
        value = np.empty(self.shapes[name], np.int64)
        ctypes.memmove(value.ctypes.data, self.addresses[name], value.nbytes)
        return value

    def _refuse(self, why: str) -> bool:
        self.engine.logger.log(Severity.ERROR, f"IExecutionContext: {why}")
        return False
