"""ONNX Runtime as a backend: where its nodes run is looked at, not hoped for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest

from edgeprune.bundle.manifest import File, Graph, Tensor
from edgeprune.bundle.store import Bundle, open_bundle
from edgeprune.errors import BackendError
from edgeprune.runtime.ort import (
    OrtBackend,
    check_assignment,
    fallen_back,
    gpu_advice,
    load_problem,
    preload,
    tensorrt_options,
)


@pytest.fixture(scope="module")
def bundle(bundle_tiny: Path) -> Bundle:
    return open_bundle(bundle_tiny)


def recorded(bundle: Bundle, name: str) -> onnxruntime.InferenceSession:
    """A session of the CPU provider that remembers which provider got which node."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    path = bundle.path(bundle.manifest.graph(name).file)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def test_a_provider_that_onnx_runtime_left_out_is_an_error(bundle: Bundle) -> None:
    graph = bundle.manifest.graph("project")
    with pytest.raises(BackendError, match=r"graph project: CUDAExecutionProvider did not load: .* CPUExec"):
        check_assignment(recorded(bundle, "project"), graph, "cuda")


def test_nodes_on_the_cpu_are_told_by_name(bundle: Bundle) -> None:
    parts = [
        (part.ep_name, part.get_nodes())
        for part in recorded(bundle, "segment_0_1").get_provider_graph_assignment_info()
    ]
    fallen = list(fallen_back(parts))
    assert any(node.op_type == "MatMul" and node.name == "layers.0.self_attn.q_proj/MatMul" for node in fallen)
    assert not any(node.op_type in ("Shape", "Gather", "Range") for node in fallen)
    assert list(fallen_back([("CUDAExecutionProvider", nodes) for _, nodes in parts])) == []


class WithCuda:
    """A real session that says it has the CUDA provider, as one does whose nodes were put on the CPU all the same."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.get_provider_graph_assignment_info = session.get_provider_graph_assignment_info

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]


def test_a_provider_that_put_nodes_on_the_cpu_is_an_error(bundle: Bundle) -> None:
    graph = bundle.manifest.graph("project")
    session = WithCuda(recorded(bundle, "project"))
    with pytest.raises(
        BackendError, match=r"graph project: CUDAExecutionProvider put \d+ nodes on the CPU: \w+ '"
    ) as e:
        check_assignment(session, graph, "cuda")
    assert "MatMul" in str(e.value)


def test_bound_outputs_are_the_callers_and_inputs_stay_as_they_were(bundle: Bundle) -> None:
    backend = OrtBackend(1)
    graph = bundle.manifest.graph("project")
    session = backend.session(graph, bundle.path(graph.file))
    width = bundle.manifest.vision.width
    first, second = (np.full((1, 3, width), value, np.float32) for value in (0.5, -0.25))
    one, two = (session.run({"features": backend.array(value)})["visual"] for value in (first, second))
    assert not np.array_equal(backend.numpy(one), backend.numpy(two))
    again = session.run({"features": backend.array(first)})["visual"]
    np.testing.assert_array_equal(backend.numpy(one), backend.numpy(again))
    assert (first == 0.5).all()


def resident() -> int:
    """Bytes of this process that are in memory."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


@pytest.mark.parametrize("shrinks", [False, True])
def test_a_long_run_gives_its_scratch_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shrinks: bool) -> None:
    """Scores of all pairs of rows, 268 MB in two copies; the arena's first piece alone stays."""
    rows = 8192
    if not shrinks:
        monkeypatch.setattr("edgeprune.runtime.ort.LARGE", 1 << 40)
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        node("Transpose", ["hidden"], ["turned"], perm=[0, 2, 1]),
        node("MatMul", ["hidden", "turned"], ["scores"]),
        node("Softmax", ["scores"], ["weights"]),
        node("Sub", ["scores", "weights"], ["both"]),
        node("ReduceMax", ["both"], ["out"], axes=[2], keepdims=0),
    ]
    real = onnx.TensorProto.FLOAT
    inputs, outputs = [info("hidden", real, [1, "S", 256])], [info("out", real, [1, "S"])]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", inputs, outputs),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.save(model, tmp_path / "g.onnx")
    backend = OrtBackend(1)
    graph = Graph(
        "g",
        "prune",
        File("g.onnx", 0, "0" * 64),
        None,
        None,
        (Tensor("hidden", "fp32", (1, "S", 256)),),
        (Tensor("out", "fp32", (1, "S")),),
    )
    session = backend.session(graph, tmp_path / "g.onnx")
    session.run({"hidden": backend.array(np.ones((1, 64, 256), np.float32))})  # the first piece, which stays
    hidden = backend.array(np.ones((1, rows, 256), np.float32))
    before = resident()
    result = session.run({"hidden": hidden})
    assert np.allclose(backend.numpy(result["out"]), 256 - 1 / rows)
    copies = (resident() - before) / (4 * rows * rows)
    assert (copies < 0.5) == shrinks


def test_a_graph_that_fails_is_named(bundle: Bundle) -> None:
    backend = OrtBackend(1)
    graph = bundle.manifest.graph("project")
    session = backend.session(graph, bundle.path(graph.file))
    with pytest.raises(BackendError, match="graph project failed in ONNX Runtime: "):
        session.run({"features": backend.array(np.zeros((1, 3, 5), np.float32))})


# --- what ONNX Runtime leaves on the CPU beside a GPU -----------------------------------------------------------------

ON_CPU_FOR_CUDA = {
    "Reshape": (1,), "Expand": (1,), "Unsqueeze": (1,), "Squeeze": (1,), "Slice": (1, 2, 3, 4), "Range": (0, 1, 2),
    "ConstantOfShape": (0,), "TopK": (1,), "Tile": (1,), "Split": (1,), "ReduceSum": (1,), "ReduceMean": (1,),
    "ReduceMax": (1,), "ReduceMin": (1,), "OneHot": (1,), "Pad": (1, 2, 3), "CumSum": (1,),
}  # fmt: skip
"""Inputs that the kernels of the CUDA provider read on the CPU."""


def left_on_the_cpu(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The nodes that ONNX Runtime's rule takes from a GPU provider which has kernels for all of them.

    onnxruntime/core/framework/fallback_cpu_capability.cc: from every tensor that a kernel leaves on the CPU, a node
    goes there if each of its inputs is on the CPU, a graph's input or a constant of at most 100 elements, none is fp16,
    and none of those on the CPU is one that the GPU's kernel reads there anyway.
    """
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info)}
    free = {value.name for value in graph.input}
    free |= {constant.name for constant in graph.initializer if prod(constant.dims) <= 100}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    on_cpu = {name for node in graph.node if node.op_type in ("Shape", "Size") for name in node.output}
    candidates = deque(node for name in on_cpu for node in readers.get(name, []))
    taken: set[str] = set()
    while candidates:  # until nothing more follows, which is what the topological order there comes to
        node = candidates.popleft()
        read_there = ON_CPU_FOR_CUDA.get(node.op_type, ())
        if node.output[0] in taken or not all(
            types.get(name) != onnx.TensorProto.FLOAT16
            and (name in free or not name or (name in on_cpu and index not in read_there))
            for index, name in enumerate(node.input)
        ):
            continue
        taken.add(node.output[0])
        on_cpu |= set(node.output)
        candidates += (reader for name in node.output for reader in readers.get(name, []))
        yield node


@pytest.mark.parametrize("name", ["bundle_tiny", "bundle_gqa_fused"])
def test_what_onnx_runtime_leaves_on_the_cpu_by_its_own_rule_is_no_error(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bundle = open_bundle(request.getfixturevalue(name))
    found: set[str] = set()
    for graph in bundle.manifest.graphs:
        options = onnxruntime.SessionOptions()  # providers get the graph as it is after these optimizations
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(tmp_path / f"{graph.name}.onnx")
        onnxruntime.InferenceSession(str(bundle.path(graph.file)), options, providers=["CPUExecutionProvider"])
        model = onnx.shape_inference.infer_shapes(onnx.load(options.optimized_model_filepath, load_external_data=False))
        left = list(left_on_the_cpu(model))
        found |= {node.op_type for node in left}
        assert list(fallen_back([("CPUExecutionProvider", left)])) == [], graph.name
    assert "Concat" in found  # else the rule found nothing to judge


# --- options for TensorRT ---------------------------------------------------------------------------------------------


def test_every_segment_has_one_profile_for_prompts_and_for_tokens(bundle: Bundle, tmp_path: Path) -> None:
    graph = bundle.manifest.graph("segment_0_1")
    options = tensorrt_options(graph, tmp_path)
    width, heads = bundle.manifest.decoder.hidden, bundle.manifest.decoder.kv_heads
    depth = bundle.manifest.decoder.head_dim
    for end, rows, cached in (("min", 1, 0), ("opt", 256, 256), ("max", 3904, 4096)):
        past = f"1x{heads}x{cached}x{depth}"
        assert options[f"trt_profile_{end}_shapes"] == (
            f"hidden:1x{rows}x{width},position_ids:1x{rows},past_key_0:{past},past_value_0:{past}"
        )
    assert options["trt_fp16_enable"] is False
    half = replace(graph, inputs=tuple(replace(t, dtype="fp16") for t in graph.inputs))
    assert tensorrt_options(half, tmp_path)["trt_fp16_enable"] is True


def test_every_graph_whose_inputs_have_axes_has_a_profile_of_all_of_them(bundle: Bundle) -> None:
    graphs = [graph for graph in bundle.manifest.graphs if all(tensor.shape for tensor in graph.inputs)]
    assert {graph.role for graph in graphs} == {"vision", "project", "assemble", "segment"}
    for graph in graphs:
        options = tensorrt_options(graph, None)
        for end in ("min", "opt", "max"):
            named = [part.split(":")[0] for part in str(options[f"trt_profile_{end}_shapes"]).split(",")]
            assert named == [tensor.name for tensor in graph.inputs]
        assert not any("cache" in name for name in options)
    (pixels,) = bundle.manifest.graph("vision").inputs
    bare = replace(bundle.manifest.graph("vision"), inputs=(replace(pixels, shape=(1, *pixels.shape[1:])),))
    assert not any("profile" in name for name in tensorrt_options(bare, None))


def test_engines_of_other_weights_are_never_taken(bundle: Bundle, tmp_path: Path) -> None:
    graph = bundle.manifest.graph("segment_0_1")
    assert graph.data is not None
    other = replace(graph, data=replace(graph.data, sha256="0" * 64))
    places = [tensorrt_options(one, tmp_path)["trt_engine_cache_path"] for one in (graph, other, graph)]
    assert places[0] == places[2] != places[1]
    assert Path(str(places[0])).is_relative_to(tmp_path)


def test_an_axis_without_a_range_is_named(bundle: Bundle) -> None:
    graph = bundle.manifest.graph("project")
    odd = replace(graph, inputs=(replace(graph.inputs[0], shape=("B", "Q", 8)),))
    with pytest.raises(BackendError, match=r"graph project: no range is known for axis 'Q' of 'features'; known: B, K"):
        tensorrt_options(odd, None)


# --- what a machine needs for a GPU -----------------------------------------------------------------------------------


def test_the_advice_is_one_that_can_be_followed() -> None:
    assert gpu_advice((3, 12), "x86_64").endswith("pip install 'edgeprune[gpu]'")
    assert "CUDA 13" in gpu_advice((3, 12), "aarch64") and "--backend tensorrt" in gpu_advice((3, 12), "aarch64")
    for architecture in ("x86_64", "aarch64"):
        old = gpu_advice((3, 10), architecture)
        assert "edgeprune[gpu]" not in old and "Python 3.10" in old and "--backend tensorrt" in old


def test_libraries_from_pip_are_loaded_and_stdout_stays_clean(capsys: pytest.CaptureFixture[str]) -> None:
    called = []

    def preload_dlls() -> None:
        called.append(True)
        print("Failed to load libcublas.so.13")

    preload(SimpleNamespace(preload_dlls=preload_dlls))
    assert called == [True] and capsys.readouterr().out == ""
    preload(SimpleNamespace())  # before 1.21
    preload(onnxruntime)  # the package for CPUs has nothing to load


def test_why_a_provider_does_not_load_is_what_the_loader_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    assert load_problem("CUDAExecutionProvider") is None
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi/libonnxruntime_providers_cuda.so").write_text("no library")
    problem = load_problem("CUDAExecutionProvider")
    assert problem is not None and "libonnxruntime_providers_cuda.so" in problem
    assert load_problem("TensorrtExecutionProvider") is None
