"""ONNX Runtime as a backend: where its nodes run is looked at, not hoped for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgeprune.bundle.store import Bundle, open_bundle
from edgeprune.errors import BackendError
from edgeprune.runtime.ort import OrtBackend, check_assignment, fallen_back


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
    with pytest.raises(BackendError, match=r"graph project: CUDAExecutionProvider did not load, .* CPUExec"):
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


def test_a_graph_that_fails_is_named(bundle: Bundle) -> None:
    backend = OrtBackend(1)
    graph = bundle.manifest.graph("project")
    session = backend.session(graph, bundle.path(graph.file))
    with pytest.raises(BackendError, match="graph project failed in ONNX Runtime: "):
        session.run({"features": backend.array(np.zeros((1, 3, 5), np.float32))})
