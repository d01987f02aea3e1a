"""The TensorRT backend on a simulated GPU: the whole chain, its memory, its recordings, and all that it refuses.

What the simulation can and cannot prove is written in ``device`` and ``simulated_tensorrt``.
"""

from __future__ import annotations

import dataclasses
import gc
import inspect
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeprune.bundle.build import SCHEMA, Bounds, Build, Output, Plan
from edgeprune.bundle.manifest import Graph
from edgeprune.bundle.store import Bundle, describe, open_bundle
from edgeprune.errors import BackendError, MissingExtra
from edgeprune.nvidia.cuda import Cuda, devices, open_gpu
from edgeprune.nvidia.library import Library, open_library
from edgeprune.nvidia.logger import Messages, make_logger
from edgeprune.nvidia.memory import LEAST, Memory, Pool, size_class
from edgeprune.runtime import trusted
from edgeprune.runtime.engine import make_allocator
from edgeprune.runtime.ort import OrtBackend
from edgeprune.runtime.plan import this_platform
from edgeprune.runtime.room import cache_bytes
from edgeprune.runtime.trt import TrtBackend
from edgeprune.runtime.vlm import VLM
from tests.runtime.case import Case, picture
from tests.runtime.device import Code, Misuse, SimulatedCuda, counted
from tests.runtime.simulated_tensorrt import GraphStrategy, Severity, Specialization, simulated_tensorrt, write_plan

KEY = "orin-agx-64gb@jetpack-6.2"
VALUES = ("text_after", "runs", "seed", "keep", "merge")


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def bundle(bundle_tiny: Path) -> Bundle:
    return open_bundle(bundle_tiny)


class Machine:
    """A simulated GPU, and plans that were built on it."""

    def __init__(self, bundle: Bundle, folder: Path, flavour: Any = "tensorrt", **options: Any) -> None:
        self.bundle, self.folder = bundle, folder / "bundle" / "engines" / KEY
        self.folder.mkdir(parents=True, exist_ok=True)
        self.device = SimulatedCuda()
        rtx = flavour == "tensorrt-rtx"
        self.module = simulated_tensorrt(self.device, "1.7.1" if rtx else "10.3.0", rtx)
        version = (1, 7, 1) if rtx else (10, 3, 0)
        self.library = Library(self.module, flavour, version)
        self.build = Build(
            schema=SCHEMA,
            target="orin-agx-64gb",
            stack="jetpack-6.2",
            flavour=flavour,
            version=".".join(map(str, version)),
            capabilities=("8.7",),
            platform=this_platform(),
            device="Simulated Orin",
            dtype=bundle.manifest.dtype,
            dialect=bundle.manifest.dialect,
            plans=tuple(self.plan(graph, **options) for graph in bundle.manifest.graphs),
        )

    def plan(self, graph: Graph, most: int = 2048, shapeless: tuple[str, ...] = (), **options: Any) -> Plan:
        """The plan of a graph; no shape depends on the values of those in ``shapeless``."""
        path = self.folder / f"{graph.name}.plan"
        onnx = self.bundle.path(graph.file)
        inputs = tuple(bounds(tensor.name, tensor.dtype, tensor.shape, most) for tensor in graph.inputs)
        ranges = {entry.name: (entry.least, entry.most) for entry in inputs if entry.kind == "shape"}
        values = tuple(entry.name for entry in inputs if entry.kind == "values" and entry.name not in shapeless)
        write_plan(path, onnx, ranges, values, **options)
        path.chmod(0o644)
        file = describe(self.folder, path)
        trusted.remember(file.sha256)
        key = {"graph": graph.file.sha256, "data": graph.data.sha256 if graph.data else ""}
        outputs = tuple(
            Output(tensor.name, tensor.dtype, tuple(axis if isinstance(axis, int) else -1 for axis in tensor.shape))
            for tensor in graph.outputs
        )
        return Plan(graph.name, file, key, inputs, outputs, {"fp32": 1}, 0.1)

    def cuda(self) -> Cuda:
        return Cuda(runtime=self.device, meminfo=Path(os.devnull))

    def backend(self, trust: bool = False) -> TrtBackend:
        return TrtBackend(self.build, self.folder, self.library, trust=trust, cuda=self.cuda())

    def session(self, name: str, backend: TrtBackend | None = None) -> Any:
        graph = self.bundle.manifest.graph(name)
        return (backend or self.backend()).session(graph, self.bundle.path(graph.file))

    def change(self, **changes: Any) -> None:
        self.build = dataclasses.replace(self.build, **changes)

    def change_plan(self, name: str, **changes: Any) -> None:
        plans = (dataclasses.replace(p, **changes) if p.graph == name else p for p in self.build.plans)
        self.change(plans=tuple(plans))

    def rebuild(self, name: str, **options: Any) -> None:
        plan = self.plan(self.bundle.manifest.graph(name), **options)
        self.change(plans=tuple(plan if old.graph == name else old for old in self.build.plans))


def bounds(name: str, dtype: str, shape: tuple[int | str, ...], most: int) -> Bounds:
    if name in VALUES:
        return Bounds(name, dtype, "values", (0,), (16,), (most,))
    least = tuple(axis if isinstance(axis, int) else int(axis in ("B", "C")) for axis in shape)
    limit = tuple(axis if isinstance(axis, int) else {"B": 4, "C": 4}.get(axis, most) for axis in shape)
    return Bounds(name, dtype, "shape", least, limit, limit)


@pytest.fixture
def machine(bundle: Bundle, tmp_path: Path) -> Machine:
    return Machine(bundle, tmp_path)


def assert_nothing_is_left(device: SimulatedCuda) -> None:
    assert device.live == {"device": 0, "pinned": 0}
    assert (device.streams, device.graphs, device.recordings) == (0, 0, 0)
    assert device.last_error == Code.cudaSuccess


# --- the whole chain --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(bundle: Bundle) -> Iterator[Case]:
    yield Case(VLM(bundle, OrtBackend(1)), Path())


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("keep", ["all", 32, 13])
def test_the_chain_is_onnx_runtimes(
    bundle: Bundle, reference: Case, tmp_path: Path, flavour: str, keep: int | str
) -> None:
    machine = Machine(bundle, tmp_path, flavour)
    backend = machine.backend()
    case = Case(VLM(bundle, backend), Path())
    for images in ([picture(1)], [picture(2), picture(3)]):
        found, expected = case.prefill(images, keep), reference.prefill(images, keep)
        np.testing.assert_array_equal(found.logits, expected.logits)
        assert [stage.kept.tolist() for stage in found.stages] == [stage.kept.tolist() for stage in expected.stages]
        for token in (5, 60, 33, 7, 2, 11):
            tokens = [token] * len(images)
            np.testing.assert_array_equal(case.decode(tokens, found), reference.decode(tokens, expected))
    for mine, theirs in zip(found.cache.segments, expected.cache.segments, strict=True):
        for name, array in mine.arrays.items():
            np.testing.assert_array_equal(backend.numpy(array), theirs.arrays[name].numpy())
    backend.close()
    assert_nothing_is_left(machine.device)


def test_answers_are_onnx_runtimes_and_say_who_gave_them(bundle: Bundle, reference: Case, machine: Machine) -> None:
    vlm = VLM(bundle, machine.backend())
    found = vlm.generate("What is it?", [picture(4)], keep=20, max_new_tokens=12)
    expected = reference.vlm.generate("What is it?", [picture(4)], keep=20, max_new_tokens=12)
    assert (found.token_ids, found.stages, found.text) == (expected.token_ids, expected.stages, expected.text)
    assert found.backend == "tensorrt 10.3.0 (orin-agx-64gb)"


def test_the_host_waits_for_logits_only(bundle: Bundle, machine: Machine) -> None:
    """In a decode step; the device could run ahead of the host through all segments."""
    case = Case(VLM(bundle, machine.backend()), Path())
    prefill = case.prefill([picture(1)], "all")
    with counted(machine.device, "cudaStreamSynchronize", "cudaMemcpyAsync") as calls:
        case.decode([5], prefill)
    segments = len(bundle.manifest.by_role("segment"))
    assert calls == {"cudaStreamSynchronize": 1, "cudaMemcpyAsync": 1 + segments + 1}


# --- memory -----------------------------------------------------------------------------------------------------


def test_decode_allocates_only_where_a_cache_grows_out_of_its_class(bundle: Bundle, machine: Machine) -> None:
    case = Case(VLM(bundle, machine.backend()), Path())
    prefill = case.prefill([picture(1)], "all")
    decoder, cache = bundle.manifest.decoder, prefill.cache
    row = decoder.kv_heads * decoder.head_dim * 4

    def classes() -> list[int]:
        return [size_class((segment.length + 1) * row) for segment in cache.segments]  # of the present

    for token in range(3):
        case.decode([token], prefill)
    steady, grown, previous = 0, 0, [classes(), classes()]
    for token in range(60):
        now = classes()
        with counted(machine.device, "cudaMalloc", "cudaHostAlloc", "cudaFree") as calls:
            case.decode([token], prefill)
        if now == previous[0] == previous[1]:
            steady += 1
            assert calls["cudaMalloc"] == 0 and calls["cudaFree"] == 0
        else:
            grown += calls["cudaMalloc"]
        assert calls["cudaHostAlloc"] == 0
        previous = [previous[1], now]
    assert steady > 45 and grown > 0


def test_the_second_equal_request_allocates_nothing(bundle: Bundle, machine: Machine) -> None:
    case = Case(VLM(bundle, machine.backend()), Path())

    def request() -> None:
        prefill = case.prefill([picture(1)], 20)
        for token in (4, 5, 6):
            case.decode([token], prefill)

    request()
    with counted(machine.device, "cudaMalloc", "cudaHostAlloc", "cudaFree") as calls:
        request()
    assert calls == {"cudaMalloc": 0, "cudaHostAlloc": 0, "cudaFree": 0}


def test_a_long_answer_does_not_pile_up_what_its_caches_grew_out_of(bundle: Bundle, machine: Machine) -> None:
    case = Case(VLM(bundle, machine.backend()), Path())
    prefill = case.prefill([picture(1)], "all")
    for token in range(200):
        case.decode([token % 60], prefill)
    decoder = bundle.manifest.decoder
    caches = sum(
        2 * (last - first) * segment.length * decoder.kv_heads * decoder.head_dim * 4
        for segment, (first, last) in zip(
            prefill.cache.segments,
            (graph.layers or (0, 0) for graph in bundle.manifest.by_role("segment")),
            strict=True,
        )
    )
    assert machine.device.live["device"] < 5 * caches


def test_sizes_are_rounded_up_by_a_quarter_at_most() -> None:
    assert [size_class(size) for size in (0, 1, 512, 513, 640, 641, 1024, 1025)] == [
        512, 512, 512, 640, 640, 768, 1024, 1280,
    ]  # fmt: skip
    for size in range(LEAST, 1 << 16, 37):
        assert size <= size_class(size) <= size * 1.25 and size_class(size_class(size)) == size_class(size)


def test_an_array_gives_its_memory_back_when_it_goes(machine: Machine) -> None:
    memory = Memory(machine.cuda())
    array = memory.array(np.ones((64, 64), np.float32))
    address = memory.pointer(array)
    del array
    assert memory.pointer(memory.empty((64, 64), np.dtype(np.float32))) == address
    memory.close()
    assert machine.device.live == {"device": 0, "pinned": 0}


VALUES_OF_ALL_KINDS = {
    "scalar": np.int64(7),
    "small": np.arange(6).reshape(2, 3),
    "empty": np.zeros((1, 2, 0, 4), np.float16),
    "real scalar": np.float32(2),
    "large": np.arange(4000, dtype=np.int64),
    "strided": np.ones((3, 5))[:, ::2],
}


@pytest.mark.parametrize("value", VALUES_OF_ALL_KINDS.values(), ids=VALUES_OF_ALL_KINDS)
def test_arrays_come_back_as_they_went(machine: Machine, value: Any) -> None:
    backend = machine.backend()
    array = backend.array(value)
    assert array.shape == np.shape(value)
    for _ in range(2):  # pointer() uploads small ones
        found = backend.numpy(array)
        np.testing.assert_array_equal(found, value)
        assert (found.shape, found.dtype) == (np.shape(value), np.asarray(value).dtype)
        backend._shared.memory.pointer(array)
    backend.close()
    assert_nothing_is_left(machine.device)


def test_all_engines_move_to_the_scratch_that_one_of_them_made_larger(bundle: Bundle, machine: Machine) -> None:
    """The simulated engine leaves noise in its scratch: an array that got the old one would show it."""
    machine.rebuild("project", scratch=1_000_000)
    backend = machine.backend()
    vision, project = machine.session("vision", backend), machine.session("project", backend)
    array = backend.array(pixels(bundle, 1))
    features = vision.run({"pixel_values": array})["features"]
    old = backend._shared.scratch.reserve(0).size
    assert project.run({"features": features}) and backend._shared.scratch.reserve(0).size > 1_000_000
    zeros = [backend.array(np.zeros(old // 4, np.float32)) for _ in range(3)]
    again = vision.run({"pixel_values": array})["features"]
    np.testing.assert_array_equal(backend.numpy(again), backend.numpy(features))
    for value in zeros:
        assert not backend.numpy(value).any()


def test_scratch_that_did_not_grow_on_a_full_gpu_is_asked_for_again(bundle: Bundle, machine: Machine) -> None:
    """The simulated engine refuses scratch that is less than its shapes need."""
    machine.rebuild("vision", scratch=1_000_000)
    machine.rebuild("project", scratch=50_000_000)
    backend = machine.backend()
    vision, project = machine.session("vision", backend), machine.session("project", backend)
    array = backend.array(pixels(bundle, 1))
    features = vision.run({"pixel_values": array})["features"]
    expected = backend.numpy(features)
    machine.device.total = machine.device.live["device"] + 1_000_000
    with pytest.raises(BackendError, match=r"no room for \S+ MB on the GPU"):
        project.run({"features": features})
    np.testing.assert_array_equal(backend.numpy(vision.run({"pixel_values": array})["features"]), expected)
    # Nor does one that fits no longer run in too little.
    with pytest.raises(BackendError, match="no room for"):
        project.run({"features": features})
    machine.device.total = machine.device.live["device"] + 1000
    with pytest.raises(BackendError, match="no room for"):
        vision.run({"pixel_values": array})
    machine.device.total = 1 << 30
    (projected,) = project.run({"features": features}).values()
    assert backend.numpy(projected).any()
    np.testing.assert_array_equal(backend.numpy(vision.run({"pixel_values": array})["features"]), expected)


def test_a_full_gpu_is_said_with_its_figures(machine: Machine) -> None:
    machine.device.total = 1_000_000
    memory = Memory(machine.cuda())
    first = memory.empty((100_000,), np.dtype(np.float32))
    del first
    kept = memory.empty((150_000,), np.dtype(np.float32))  # fits once what lies idle is freed
    with pytest.raises(BackendError, match=r"no room for 0\.9 MB on the GPU: 0 of its 1 MB are free; prune more"):
        memory.empty((200_000,), np.dtype(np.float32))
    assert machine.device.last_error == Code.cudaSuccess
    del kept


def test_a_closed_pool_gives_nothing(machine: Machine) -> None:
    pool = Pool(machine.cuda().allocate, machine.cuda().free, str)
    buffer = pool.take(1)
    pool.close()
    pool.close()
    del buffer  # no second free
    with pytest.raises(BackendError, match="the backend is closed"):
        pool.take(1)


# --- recordings -------------------------------------------------------------------------------------------------


def pixels(bundle: Bundle, seed: int) -> NDArray[np.float32]:
    shape = next(tensor.shape for tensor in bundle.manifest.by_role("vision")[0].inputs)
    sizes = tuple(axis if isinstance(axis, int) else 1 for axis in shape)
    return np.random.default_rng(seed).standard_normal(sizes).astype(np.float32)


def runner(machine: Machine, backend: TrtBackend) -> Callable[[int], NDArray[np.float32]]:
    """Runs the vision graph on pixels of a seed, always in the same memory."""
    session = machine.session("vision", backend)
    place = backend.array(pixels(machine.bundle, 0))

    def run(seed: int) -> NDArray[np.float32]:
        backend._shared.memory._upload(pixels(machine.bundle, seed), place.buffer)
        return backend.numpy(session.run({"pixel_values": place})["features"])

    return run


def test_equal_runs_are_replayed_with_equal_results(bundle: Bundle, machine: Machine) -> None:
    graph = bundle.manifest.graph("vision")
    ort = OrtBackend(1)
    expected = ort.session(graph, bundle.path(graph.file))
    backend = machine.backend()
    run = runner(machine, backend)
    launches = []
    for seed in range(5):
        with counted(machine.device, "cudaStreamBeginCapture", "cudaGraphLaunch") as calls:
            found = run(seed)
        launches.append(tuple(calls.values()))
        values = expected.run({"pixel_values": ort.array(pixels(bundle, seed))})["features"]
        np.testing.assert_array_equal(found, ort.numpy(values))
    # The first run takes new memory in the order it is asked for, later ones from the lowest address on.
    assert launches[0] == (0, 0) and launches[3:] == [(0, 1), (0, 1)]
    assert launches[1:3] in ([(1, 1), (0, 1)], [(0, 0), (1, 1)])
    assert (machine.device.recordings, machine.device.graphs) == (1, 0)
    backend.close()
    assert_nothing_is_left(machine.device)


def test_a_recording_does_not_survive_other_shapes(bundle: Bundle, machine: Machine) -> None:
    """The simulated context raises where the first run after a change of shapes is captured, and where a recording is
    replayed after a change, or destroyed while it may be running.
    """
    backend = machine.backend()
    session = machine.session("vision", backend)
    one, two = (backend.array(np.repeat(pixels(bundle, 1), rows, axis=0)) for rows in (1, 2))
    with counted(machine.device, "cudaStreamBeginCapture") as calls:
        for array in (one, two, one, two, one, two):
            backend.numpy(session.run({"pixel_values": array})["features"])
    assert calls["cudaStreamBeginCapture"] == 0
    recordings = []
    with counted(machine.device, "cudaStreamBeginCapture", "cudaGraphLaunch") as calls:
        for array in (one, one, one, two, two, one, two):
            session.run({"pixel_values": array})
            recordings.append(machine.device.recordings)
    assert calls == {"cudaStreamBeginCapture": 2, "cudaGraphLaunch": 3}
    assert recordings == [0, 1, 1, 0, 1, 0, 0]


def test_a_recording_does_not_survive_another_scratch(bundle: Bundle, machine: Machine) -> None:
    backend = machine.backend()
    run = runner(machine, backend)
    expected = [run(1) for _ in range(4)]
    assert machine.device.recordings == 1
    scratch, pool = backend._shared.scratch, backend._shared.memory.device
    old, size = scratch.reserve(0).pointer, scratch.reserve(0).size
    scratch.reserve(10 * size)
    held = pool.take(size)  # so that no output of the next run gets it, and all addresses stay
    assert held.pointer == old
    with counted(machine.device, "cudaStreamBeginCapture", "cudaGraphLaunch", "cudaGraphExecDestroy") as calls:
        np.testing.assert_array_equal(run(1), expected[0])
    assert calls == {"cudaStreamBeginCapture": 0, "cudaGraphLaunch": 0, "cudaGraphExecDestroy": 1}


def test_what_cannot_be_recorded_runs_all_the_same(bundle: Bundle, tmp_path: Path) -> None:
    machine = Machine(bundle, tmp_path, recordable=False)
    backend = machine.backend()
    run = runner(machine, backend)
    with counted(machine.device, "cudaStreamBeginCapture", "cudaGraphLaunch") as calls:
        found = [run(1) for _ in range(4)]
    assert calls == {"cudaStreamBeginCapture": 1, "cudaGraphLaunch": 0}
    for values in found:
        np.testing.assert_array_equal(values, found[0])
    backend.close()
    assert_nothing_is_left(machine.device)


def test_a_recording_that_failed_is_no_reason_for_what_fails_later(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(bundle, tmp_path, recordable=False)
    backend = machine.backend()
    session = machine.session("vision", backend)
    array = backend.array(pixels(bundle, 1))
    session.run({"pixel_values": array})
    ends = machine.device.cudaStreamEndCapture

    def ends_and_loses_the_device(stream: int) -> tuple[Any, ...]:
        monkeypatch.setattr(machine.device, "enqueue", lambda *_: (Code.cudaErrorLaunchFailure,))
        found: tuple[Any, ...] = ends(stream)
        return found

    monkeypatch.setattr(machine.device, "cudaStreamEndCapture", ends_and_loses_the_device)
    with pytest.raises(BackendError, match=r"does not run in tensorrt 10\.3\.0: IExec\w+: cudaErrorLaunchFailure"):
        for _ in range(3):  # the second or third is the first that equals the one before
            session.run({"pixel_values": array})
    assert machine.device.calls["cudaStreamBeginCapture"] == 1


def test_one_recording_is_kept_for_the_latest_addresses(bundle: Bundle, machine: Machine) -> None:
    backend = machine.backend()
    session = machine.session("vision", backend)
    arrays = [backend.array(pixels(bundle, seed)) for seed in range(4)]
    with counted(machine.device, "cudaGraphLaunch") as calls:
        for array in arrays:
            for _ in range(4):
                session.run({"pixel_values": array})
            assert machine.device.recordings == 1
    assert calls["cudaGraphLaunch"] >= 2 * len(arrays)


def test_rtx_records_by_itself(bundle: Bundle, tmp_path: Path) -> None:
    machine = Machine(bundle, tmp_path, "tensorrt-rtx")
    run = runner(machine, machine.backend())
    for _ in range(4):
        run(1)
    (config,) = machine.module.configs
    assert config.cuda_graph_strategy == GraphStrategy.WHOLE_GRAPH_CAPTURE and config.cache is not None
    assert config.dynamic_shapes_kernel_specialization_strategy == Specialization.LAZY
    assert "cudaStreamBeginCapture" not in machine.device.calls


def test_what_rtx_compiled_is_there_for_the_next_process(bundle: Bundle, tmp_path: Path) -> None:
    machine = Machine(bundle, tmp_path, "tensorrt-rtx")
    for found in (b"", b"compiled"):
        backend = machine.backend()
        machine.session("project", backend)
        assert machine.module.configs[-1].cache.found == found
        backend.close()
    plan = machine.build.plan("project")
    assert plan is not None
    (kept,) = (tmp_path / "cache" / "edgeprune" / "kernels").iterdir()
    assert kept.name == f"{plan.file.sha256}-Simulated-Orin"


def test_compiled_kernels_that_cannot_be_kept_cost_no_answer(bundle: Bundle, tmp_path: Path) -> None:
    machine = Machine(bundle, tmp_path, "tensorrt-rtx")
    (tmp_path / "cache").write_text("a file where a folder should be")
    backend = machine.backend()
    run = runner(machine, backend)
    run(1)
    backend.close()


@pytest.mark.parametrize("spoil", ["replaced", "others may write"])
def test_compiled_kernels_that_others_could_have_written_are_not_read(
    bundle: Bundle, tmp_path: Path, spoil: str
) -> None:
    machine = Machine(bundle, tmp_path, "tensorrt-rtx")
    backend = machine.backend()
    machine.session("project", backend)
    backend.close()
    (kept,) = (tmp_path / "cache" / "edgeprune" / "kernels").iterdir()
    if spoil == "others may write":
        kept.chmod(0o666)
    elif os.getuid() == 0:
        os.chown(kept, 12345, -1)
    else:
        pytest.skip("only root can give a file away")
    machine.session("project")
    assert machine.module.configs[-1].cache.found == b""


@pytest.mark.parametrize("answer", [None, b"", RuntimeError("no driver")])
def test_nothing_compiled_is_nothing_kept(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    def serialize(self: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("tests.runtime.simulated_tensorrt.RuntimeCache.serialize", serialize)
    machine = Machine(bundle, tmp_path, "tensorrt-rtx")
    backend = machine.backend()
    machine.session("project", backend)
    backend.close()
    assert list((tmp_path / "cache" / "edgeprune").iterdir()) == []


@pytest.mark.parametrize("name", ["segment_0_1", "prune_visiondrop_vision"])
def test_rtx_records_and_compiles_nothing_for_shapes_that_change_with_every_token(
    bundle: Bundle, tmp_path: Path, name: str
) -> None:
    machine = Machine(bundle, tmp_path, "tensorrt-rtx")
    machine.session(name)
    (config,) = machine.module.configs
    assert config.cuda_graph_strategy == GraphStrategy.DISABLED
    assert config.dynamic_shapes_kernel_specialization_strategy == Specialization.NONE


def test_graphs_that_read_sizes_on_the_host_are_not_recorded(bundle: Bundle, machine: Machine) -> None:
    backend = machine.backend()
    vision = machine.session("vision", backend).run({"pixel_values": backend.array(pixels(bundle, 1))})
    name = "prune_visiondrop_vision"
    prune = machine.session(name, backend)
    feeds = {tensor.name: vision.get(tensor.name) for tensor in bundle.manifest.graph(name).inputs}
    for keep in (16, 8):
        feeds |= {"keep": backend.array(np.array(keep)), "merge": backend.array(np.array(4))}
        for _ in range(4):
            assert backend.numpy(prune.run(feeds)["kept"]).shape == (1, keep)
    assert "cudaStreamBeginCapture" not in machine.device.calls


def test_sizes_are_read_on_the_host_by_either_of_tensorrts_notions(bundle: Bundle, machine: Machine) -> None:
    """``keep`` decides shapes and is said to be on the device; ``merge`` decides none and is said to be on the host."""
    name = "prune_visiondrop_vision"
    ort = OrtBackend(1)
    machine.rebuild(name, shapeless=("merge",), located={"keep": "DEVICE", "merge": "HOST"})
    backend = machine.backend()
    prune = machine.session(name, backend)
    assert [prune._engine.is_shape_inference_io(word) for word in ("keep", "merge")] == [True, False]
    vision = machine.session("vision", backend).run({"pixel_values": backend.array(pixels(bundle, 1))})
    reference = ort.session(bundle.manifest.graph(name), bundle.path(bundle.manifest.graph(name).file))
    features = {t.name: vision[t.name] for t in bundle.manifest.graph(name).inputs if t.name in vision}
    for keep, merge in ((16, 4), (16, 3), (8, 2)):
        sizes = {"keep": np.array(keep), "merge": np.array(merge)}
        found = prune.run(features | {word: backend.array(value) for word, value in sizes.items()})
        known = {word: ort.array(backend.numpy(array)) for word, array in features.items()}
        expected = reference.run(known | {word: ort.array(value) for word, value in sizes.items()})
        for word, array in found.items():
            np.testing.assert_array_equal(backend.numpy(array), ort.numpy(expected[word]))


# --- outputs that only the run tells ----------------------------------------------------------------------------


def test_an_output_of_unknown_shape_is_allocated_by_the_run(bundle: Bundle, machine: Machine) -> None:
    plain = machine.backend()
    value = pixels(bundle, 1)
    expected = plain.numpy(machine.session("vision", plain).run({"pixel_values": plain.array(value)})["features"])
    plain.close()
    machine.rebuild("vision", unknown=("features",))
    backend = machine.backend()
    session = machine.session("vision", backend)
    first, second = (session.run({"pixel_values": backend.array(value)}) for _ in range(2))
    assert list(first) and set(first) == {tensor.name for tensor in bundle.manifest.graph("vision").outputs}
    assert first["features"].buffer is not second["features"].buffer
    for found in (first, second):
        np.testing.assert_array_equal(backend.numpy(found["features"]), expected)
    backend.close()
    assert_nothing_is_left(machine.device)


def test_no_room_for_it_is_an_error_and_passes_through_tensorrt_as_a_null_pointer(
    bundle: Bundle, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.rebuild("vision", unknown=("features",))
    backend = machine.backend()
    session = machine.session("vision", backend)
    array = backend.array(pixels(bundle, 1))

    def refuse(self: Any, name: str, allocator: Any, stream: int) -> None:
        machine.device.fail["cudaMalloc"] = Code.cudaErrorMemoryAllocation
        assert allocator.reallocate_output(name, 0, 1 << 40, 256) == 0

    monkeypatch.setattr("tests.runtime.simulated_tensorrt._Context._ask", refuse)
    monkeypatch.setattr("tests.runtime.simulated_tensorrt._Context._check_addresses", lambda *_: None)
    monkeypatch.setattr("tests.runtime.simulated_tensorrt._Context._work", lambda *_: lambda: None)
    with pytest.raises(BackendError, match="no room for 1,099,511"):
        session.run({"pixel_values": array})


# --- what is refused before a plan is loaded ----------------------------------------------------------------------


def refused(machine: Machine, name: str = "vision", trust: bool = False) -> str:
    """The message with which a backend or a session is refused, one line, and nothing left behind."""
    backend = None
    with pytest.raises(BackendError) as caught:
        backend = machine.backend(trust)
        machine.session(name, backend)
    message = str(caught.value)
    assert "\n" not in message
    if backend is not None:
        backend.close()
    assert_nothing_is_left(machine.device)
    return message


def again(machine: Machine) -> str:
    return f"edgeprune build {machine.folder.parent.parent} --target {KEY}"


def test_a_graph_without_a_plan(machine: Machine) -> None:
    machine.change(plans=machine.build.plans[1:])
    assert refused(machine) == f"the plans of {KEY} have none of graph vision: {again(machine)}"


@pytest.mark.parametrize(("entry", "word"), [("graph", "graph"), ("data", "weights")])
def test_a_plan_of_another_export(machine: Machine, entry: str, word: str) -> None:
    plan = machine.build.plan("vision")
    assert plan is not None
    machine.change_plan("vision", key={**plan.key, entry: "0" * 64})
    message = refused(machine)
    assert (
        f"was built from another export: its {word} had sha256 000000000000..., now {plan.key[entry][:12]}" in message
    )
    assert message.endswith(again(machine))


def test_a_plan_that_was_changed(machine: Machine) -> None:
    path = machine.folder / "vision.plan"
    path.write_text(path.read_text().replace('"simulated": 1', '"simulated": 2'))
    assert "vision.plan was changed or damaged: sha256 " in refused(machine)
    path.write_text(path.read_text()[:-1])
    assert "it was cut short or changed" in refused(machine)
    path.write_bytes(b"")
    assert "has 0 bytes" in refused(machine)
    path.unlink()
    assert "vision.plan cannot be read: No such file or directory" in refused(machine)


def test_a_plan_outside_of_its_folder(machine: Machine) -> None:
    elsewhere = machine.folder.parent / "elsewhere.plan"
    path = machine.folder / "vision.plan"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert f"vision.plan is not inside {machine.folder}" in refused(machine)
    plan = machine.build.plan("vision")
    assert plan is not None
    machine.change_plan("vision", file=dataclasses.replace(plan.file, path="../elsewhere.plan"))
    assert f"elsewhere.plan is not inside {machine.folder}" in refused(machine)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_plan_that_others_can_change_while_it_is_loaded(machine: Machine, mode: int) -> None:
    path = machine.folder / "vision.plan"
    path.chmod(mode)
    for trust in (False, True):
        message = refused(machine, trust=trust)
        assert message.startswith(f"{path} can be changed by other users while it is loaded")
        assert message.endswith(f"chmod go-w {path}")
    path.chmod(0o644)
    machine.session("vision")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_plan_of_another_user(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    path = machine.folder / "vision.plan"
    os.chown(path, 12345, -1)
    assert f"{path} belongs to user 12345, who could change it" in refused(machine, trust=True)
    os.chown(path, 0, -1)
    monkeypatch.setattr("edgeprune.runtime.plan.os.getuid", lambda: 12345)  # root's may be run by others
    machine.session("vision", machine.backend(trust=True))


def test_a_plan_that_was_not_built_here_runs_only_where_trusted(machine: Machine) -> None:
    trusted.ledger().unlink()
    message = refused(machine)
    assert "vision.plan was not built on this machine, and a plan is native code" in message
    assert again(machine) in message and f"give --trust-plans {machine.folder}" in message
    machine.session("vision", machine.backend(trust=True))


def test_trust_does_not_reach_a_changed_plan(machine: Machine) -> None:
    path = machine.folder / "vision.plan"
    path.write_text(path.read_text().replace('"simulated": 1', '"simulated": 2'))
    assert "was changed or damaged" in refused(machine, trust=True)


@pytest.mark.parametrize("version", ["10.3.1", "10.4.0", "10.3", "11.0.0"])
def test_another_version(machine: Machine, version: str) -> None:
    machine.change(version=version)
    message = refused(machine)
    assert f"were built with tensorrt {version} and tensorrt 10.3.0 is installed" in message
    assert message.endswith(again(machine))


def test_another_flavour(machine: Machine) -> None:
    machine.library = Library(machine.module, "tensorrt-rtx", (10, 3, 0))
    assert "built with tensorrt 10.3.0 and tensorrt-rtx 10.3.0 is installed" in refused(machine)


def test_another_platform(machine: Machine) -> None:
    machine.change(platform="plan9-mips")
    assert f"built for plan9-mips and this is {this_platform()}" in refused(machine)


def test_another_gpu(machine: Machine) -> None:
    machine.change(capabilities=("8.0", "9.0"))
    message = refused(machine)
    assert "are for compute capability 8.0 or 9.0 and Simulated Orin has 8.7" in message
    assert message.endswith("--target NAME")


def test_gpus_of_which_none_suits(machine: Machine) -> None:
    machine.device = SimulatedCuda((8, 6), others=((8, 6),))
    message = refused(machine)
    assert "has 8.6 (none of 2 GPUs suits; CUDA_VISIBLE_DEVICES says which are seen); give the target" in message


def test_the_first_gpu_that_the_plans_are_for_is_taken(
    bundle: Bundle, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = machine.device = SimulatedCuda((8, 6), others=((8, 7), (8, 7)))
    machine.module.Runtime = simulated_tensorrt(device).Runtime
    monkeypatch.setattr("edgeprune.nvidia.cuda._import", lambda extra: device)
    backend = TrtBackend(machine.build, machine.folder, machine.library)
    assert backend._shared.cuda.device.index == 1

    found: dict[str, Any] = {}

    def elsewhere(name: str, work: Callable[[], Any]) -> None:
        """Work in a thread of its own, which begins on GPU 0."""
        thread = threading.Thread(target=lambda: found.update({name: work()}))
        thread.start()
        thread.join()
        assert name in found and device.used == {1}

    elsewhere("session", lambda: machine.session("vision", backend))
    elsewhere("pixels", lambda: backend.array(pixels(bundle, 1)))
    elsewhere("outputs", lambda: found["session"].run({"pixel_values": found["pixels"]}))
    elsewhere("features", lambda: backend.numpy(found["outputs"]["features"]))
    elsewhere("room", lambda: backend.free_bytes)
    elsewhere("closed", backend.close)
    assert_nothing_is_left(device)


def test_the_gpu_for_a_capability() -> None:
    device = SimulatedCuda((8, 6), others=((9, 0), (8, 7)))
    wanted: tuple[tuple[str, ...], ...] = (("8.7",), ("8.7", "9.0"), ("7.5",), ())
    assert [open_gpu(one, device).device.index for one in wanted] == [2, 1, 0, 0]


def test_a_plan_that_tensorrt_does_not_take(machine: Machine) -> None:
    path = machine.folder / "vision.plan"
    path.write_text("{")
    file = describe(machine.folder, path)
    trusted.remember(file.sha256)
    machine.change_plan("vision", file=file)
    expected = "Serialization assertion failed. magicTag does not match"
    assert refused(machine) == f"the plan of graph vision does not load in tensorrt 10.3.0: {expected}"


def test_the_real_tensorrt_rtx_gives_its_reason(machine: Machine) -> None:
    """Its runtime, logger and allocator, on a plan that it refuses before it needs a GPU."""
    pytest.importorskip("tensorrt_rtx")
    path = machine.folder / "vision.plan"
    path.write_bytes(b"no plan" * 1000)
    file = describe(machine.folder, path)
    trusted.remember(file.sha256)
    machine.change_plan("vision", file=file)
    machine.library = open_library("tensorrt-rtx")
    machine.change(flavour="tensorrt-rtx", version=".".join(map(str, machine.library.version)))
    message = refused(machine)
    assert message.startswith(f"the plan of graph vision does not load in {machine.library.name}: IRuntime::")
    assert "kEXPECTED_MAGIC_TAG" in message
    backend = machine.backend()
    allocator = make_allocator(backend._shared, np.dtype(np.float32))
    allocator.notify_shape("x", machine.library.module.Dims((2, 3)))
    assert allocator.reallocate_output_async("x", 0, 24, 256, 0) % 256 == 0
    np.testing.assert_equal(allocator.array().shape, (2, 3))
    backend.close()
    assert_nothing_is_left(machine.device)


def test_plans_outside_of_a_bundle_are_built_again_from_some_bundle(machine: Machine) -> None:
    machine.folder = machine.folder.rename(machine.folder.parent.parent / "copied")
    machine.change_plan("vision", key={})
    assert refused(machine).endswith(f"edgeprune build BUNDLE --target {KEY}")


def test_a_plan_in_another_precision(machine: Machine) -> None:
    machine.rebuild("vision", types={"pixel_values": "HALF"})
    assert "has pixel_values as HALF, the bundle says float32" in refused(machine)
    machine.rebuild("vision", types={"features": "BF16"})
    assert "has features as BF16, the bundle says float32" in refused(machine)


# --- what is refused before a graph is run ------------------------------------------------------------------------


def test_shapes_out_of_the_plans_range(bundle: Bundle, machine: Machine) -> None:
    machine.rebuild("vision", most=64)
    backend = machine.backend()
    session = machine.session("vision", backend)
    with pytest.raises(BackendError) as caught:
        session.run({"pixel_values": backend.array(np.repeat(pixels(bundle, 1), 5, axis=0))})
    size = pixels(bundle, 1).shape[2]
    assert str(caught.value) == (
        f"graph vision got pixel_values with shape (5, 3, {size}, {size}), where 5 is outside of the 1..4 that its "
        f"plan was built for: {again(machine)} --runs 5 (for as many prompts at once: --batch 5)"
    )
    assert session.run({"pixel_values": backend.array(pixels(bundle, 1))})  # as if nothing had been


def test_values_out_of_the_plans_range(bundle: Bundle, machine: Machine) -> None:
    name = "prune_visiondrop_vision"
    machine.rebuild(name, most=100)
    backend = machine.backend()
    vision = machine.session("vision", backend).run({"pixel_values": backend.array(pixels(bundle, 1))})
    prune = machine.session(name, backend)
    feeds = {tensor.name: vision.get(tensor.name) for tensor in bundle.manifest.graph(name).inputs}
    feeds |= {"keep": backend.array(np.array(101)), "merge": backend.array(np.array(0))}
    with pytest.raises(BackendError, match=r"got keep with value 101, where 101 is outside of the 0\.\.100 that its"):
        prune.run(feeds)


@pytest.mark.parametrize("value", [np.zeros((1, 3, 8, 8), np.float32), np.zeros((3, 112), np.float32)])
def test_other_shapes_than_the_graphs(machine: Machine, value: NDArray[Any]) -> None:
    backend = machine.backend()
    with pytest.raises(BackendError, match=r"graph vision takes pixel_values as float32 \(-1, 3, "):
        machine.session("vision", backend).run({"pixel_values": backend.array(value)})


def test_another_element_type(bundle: Bundle, machine: Machine) -> None:
    backend = machine.backend()
    with pytest.raises(BackendError, match=r"takes pixel_values as float32 .*; got float64"):
        machine.session("vision", backend).run({"pixel_values": backend.array(pixels(bundle, 1).astype(np.float64))})


def test_tensorrts_reason_is_passed_on(bundle: Bundle, machine: Machine) -> None:
    """A profile that differs from what build.json says of it."""
    plan = machine.build.plan("vision")
    assert plan is not None
    machine.change_plan("vision", inputs=())
    backend = machine.backend()
    session = machine.session("vision", backend)
    with pytest.raises(BackendError) as caught:
        session.run({"pixel_values": backend.array(np.repeat(pixels(bundle, 1), 5, axis=0))})
    assert str(caught.value).startswith("graph vision refuses pixel_values of shape (5, 3, ")
    assert "in tensorrt 10.3.0: IExecutionContext: pixel_values (5, 3, " in str(caught.value)


# --- TensorRT's log -----------------------------------------------------------------------------------------------


def test_the_logger_outlives_the_backends_that_it_serves(machine: Machine) -> None:
    """The simulated plugins raise where the logger that they were given first is gone."""
    for _ in range(2):
        backend = machine.backend()
        backend.close()
        del backend
        gc.collect()
    assert machine.module.registered() is not None
    assert make_logger(machine.library, Messages()) is machine.module.registered()


def test_each_backend_gets_the_reasons_of_its_own_failures(bundle: Bundle, machine: Machine) -> None:
    machine.change_plan("vision", inputs=())  # so that TensorRT refuses, and not the engine
    first, second = machine.backend(), machine.backend()
    many = np.repeat(pixels(bundle, 1), 5, axis=0)
    sessions = [machine.session("vision", backend) for backend in (first, second)]
    for backend, session in zip((first, second), sessions, strict=True):
        with pytest.raises(BackendError, match=r"refuses pixel_values .*: IExecutionContext: pixel_values \(5, 3"):
            session.run({"pixel_values": backend.array(many)})
    assert first._shared.messages is not second._shared.messages


def test_another_module_has_another_logger(machine: Machine) -> None:
    mine, others = Messages(), Messages()
    logger = make_logger(machine.library, mine)
    other = make_logger(Library(simulated_tensorrt(machine.device), "tensorrt", (10, 3, 0)), others)
    logger.log(Severity.ERROR, "a  reason")
    logger.log(Severity.WARNING, "no reason")
    assert (mine.first_error, others.first_error) == ("a reason", None)
    assert other is not logger


# --- closing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [TypeError("factory function returned nullptr"), KeyboardInterrupt()])
def test_a_backend_that_does_not_come_about_gives_back_what_it_took(machine: Machine, error: BaseException) -> None:
    def refuse(logger: Any) -> None:
        logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
        raise error

    machine.module.Runtime = refuse
    with pytest.raises((BackendError, KeyboardInterrupt)) as caught:
        machine.backend()
    if isinstance(error, TypeError):
        expected = "tensorrt 10.3.0 does not start: CUDA initialization failure with error: 35; edgeprune doctor says"
        assert str(caught.value).startswith(expected)
    assert_nothing_is_left(machine.device)


def test_nothing_runs_once_it_is_closed(bundle: Bundle, machine: Machine) -> None:
    backend = machine.backend()
    session = machine.session("vision", backend)
    array = backend.array(pixels(bundle, 1))
    session.run({"pixel_values": array})  # still on the stream
    backend.close()
    backend.close()
    assert_nothing_is_left(machine.device)
    with pytest.raises(BackendError, match="graph vision is closed; open the bundle again"):
        session.run({"pixel_values": array})
    with pytest.raises(BackendError, match="the backend is closed"):
        backend.array(pixels(bundle, 1))
    with pytest.raises(BackendError, match="the backend is closed"):
        machine.session("vision", backend)
    with pytest.raises(BackendError):
        backend.numpy(array)
    del array
    gc.collect()


# --- CUDA's errors ----------------------------------------------------------------------------------------------


CALLS = {
    "cudaMemcpyAsync": Code.cudaErrorInvalidValue,
    "cudaStreamSynchronize": Code.cudaErrorLaunchFailure,
    "cudaHostAlloc": Code.cudaErrorInvalidValue,
    "cudaMalloc": Code.cudaErrorLaunchFailure,
}


@pytest.mark.parametrize("name", CALLS)
def test_every_code_has_its_call_and_cudas_name(bundle: Bundle, machine: Machine, name: str) -> None:
    backend = machine.backend()
    machine.device.fail[name] = CALLS[name]
    with pytest.raises(BackendError) as caught:
        backend.numpy(backend.array(pixels(bundle, 1)))
    assert str(caught.value) == f"{name} failed: {CALLS[name].name} (what {int(CALLS[name])} means)"


@pytest.mark.parametrize("name", ["cudaSetDevice", "cudaStreamCreateWithFlags", "cudaGetDeviceCount"])
def test_a_device_that_does_not_open(machine: Machine, name: str) -> None:
    machine.device.fail[name] = Code.cudaErrorInvalidValue
    with pytest.raises(BackendError, match=f"{name} failed: cudaErrorInvalidValue"):
        machine.cuda()


def test_a_crashed_kernel_is_told_where_the_host_waits(bundle: Bundle, machine: Machine) -> None:
    backend = machine.backend()
    session = machine.session("vision", backend)
    outputs = session.run({"pixel_values": backend.array(pixels(bundle, 1))})
    machine.device.break_stream(Code.cudaErrorLaunchFailure)
    with pytest.raises(BackendError, match="cudaStreamSynchronize failed: cudaErrorLaunchFailure"):
        backend.wait()
    with pytest.raises(BackendError, match="cudaErrorLaunchFailure"):
        backend.numpy(outputs["features"])
    backend.close()  # which must not hide the error above


@pytest.mark.parametrize("code", [Code.cudaErrorNoDevice, Code.cudaErrorInsufficientDriver])
def test_no_gpu(code: Code) -> None:
    device = SimulatedCuda()
    device.fail["cudaGetDeviceCount"] = code
    with pytest.raises(BackendError) as caught:
        Cuda(runtime=device)
    assert str(caught.value) == (
        f"no NVIDIA GPU here: cudaGetDeviceCount says {code.name} (what {int(code)} means); edgeprune doctor says more"
    )


def test_no_gpu_of_that_number(machine: Machine) -> None:
    with pytest.raises(BackendError, match="there is no GPU 1; this machine has 1, numbered from 0"):
        Cuda(1, machine.device)


def test_the_device_is_described(machine: Machine) -> None:
    (found,) = devices(machine.device)
    assert (found.name, found.capability, found.memory) == ("Simulated Orin", "8.7", 1 << 30)
    assert found.integrated
    cuda = machine.cuda()
    assert cuda.memory() == (1 << 30, 1 << 30)


MEMINFO = "MemTotal:  7000 kB\nMemFree:  10 kB\nMemAvailable:     {} kB\nSwapFree: 9999 kB\n"


@pytest.mark.parametrize(("available", "integrated", "expected"), [
    (6000, True, 6000 * 1024), (6000, False, 7168 * 1024 - 4096 * 1024), (20, True, 3072 * 1024),
    (9999, True, 7168 * 1024), ("many", True, 3072 * 1024), (None, True, 3072 * 1024),
])  # fmt: skip
def test_memory_that_the_page_cache_holds_is_free_where_it_is_shared(
    tmp_path: Path, available: int | str | None, integrated: bool, expected: int
) -> None:
    device = SimulatedCuda(memory=7168 * 1024)
    device.integrated = integrated
    if available is not None:
        (tmp_path / "meminfo").write_text(MEMINFO.format(available))
    cuda = Cuda(runtime=device, meminfo=tmp_path / "meminfo")
    assert cuda.allocate(4096 * 1024)
    assert cuda.memory() == (expected, 7168 * 1024)


def test_cuda_python_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("edgeprune.nvidia.cuda.importlib.import_module", missing)
    with pytest.raises(MissingExtra, match=r"needs cuda-python.*'edgeprune\[rtx\]'"):
        Cuda(extra="rtx")


def test_cuda_python_itself_on_this_machine() -> None:
    """The real package: one GPU at least, or a line that says there is none."""
    pytest.importorskip("cuda.bindings.runtime")
    try:
        assert devices()[0].memory > 0
    except BackendError as error:
        assert str(error).startswith("no NVIDIA GPU here: cudaGetDeviceCount says cudaError")


def test_cuda_python_has_every_name_that_is_used() -> None:
    real = pytest.importorskip("cuda.bindings.runtime")
    names = set(re.findall(r"\bcuda[A-Z]\w+", Path(inspect.getfile(Cuda)).read_text()))
    enums = (real.cudaError_t, real.cudaMemcpyKind, real.cudaStreamCaptureMode)
    assert len(names) > 30
    for name in names:
        assert hasattr(real, name) or any(hasattr(enum, name) for enum in enums), name


# --- the simulation itself is strict ------------------------------------------------------------------------------


def test_the_simulated_device_refuses_misuse(machine: Machine) -> None:
    device = machine.device
    cuda = machine.cuda()
    address = cuda.allocate(1024)
    pinned = cuda.allocate_pinned(1024)
    assert address is not None and pinned is not None
    for target, source, size in ((address, pinned, 1025), (pinned, pinned, 8), (address, address, 8), (7, pinned, 8)):
        cuda.upload(target, source, size)
        with pytest.raises(Misuse, match="not within live"):
            cuda.synchronize()
    cuda.free(address)
    with pytest.raises(Misuse, match="freed twice"):
        cuda.free(address)
    cuda.upload(address, pinned, 8)
    with pytest.raises(Misuse, match="not within live device"):
        cuda.synchronize()
    cuda.begin_capture()
    with pytest.raises(Misuse, match="while a stream captures"):
        cuda.allocate(8)
    device._capturing.clear()
    cuda.close()
    with pytest.raises(BackendError, match="cudaErrorInvalidResourceHandle"):
        cuda.synchronize()


def test_a_gpu_too_small_for_the_plans_says_so_before_any_is_loaded(machine: Machine) -> None:
    machine.device.total = sum(plan.file.bytes for plan in machine.build.plans) - 1
    with pytest.raises(BackendError, match=r"the plans of orin-agx-64gb@jetpack-6.2 take .* free; .*--dtype fp16"):
        machine.backend()
    assert machine.device.live["device"] == 0


def test_a_gpu_too_small_for_a_request_names_the_budget_that_fits(bundle: Bundle, machine: Machine) -> None:
    backend = machine.backend()
    with VLM(bundle, backend) as vlm:
        whole = cache_bytes(bundle.manifest, None, 40)
        machine.device.total = machine.device.live["device"] + whole * 9 // 10
        with pytest.raises(BackendError, match=r"the cache of --keep all .* free; --keep \d+ would fit"):
            vlm.generate("what?", [Image.new("RGB", (40, 40))], max_new_tokens=40)
