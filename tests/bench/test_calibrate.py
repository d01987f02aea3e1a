"""Measuring this machine with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from edgeprune.bench import calibrate as module
from edgeprune.bench.calibrate import calibrate, copies_for, graph_path, last_cache_bytes
from edgeprune.errors import BackendError, UsageError
from tools.calibration_graph import make_graph


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_the_graph_is_what_the_tool_writes(dtype: str) -> None:
    data = graph_path(dtype).read_bytes()
    assert data == make_graph(dtype)
    assert len(data) < 1000
    nodes = [node for node in onnx.load_from_string(data).graph.node if node.op_type == "ConstantOfShape"]
    filled = {node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t) for node in nodes}
    assert set(filled) == {"w1", "w2", "w3"}
    assert filled["w1"] != filled["w3"]  # else their products are equal, and ONNX Runtime computes one of them


def test_measures_rates_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHARE_S", 0.05)
    found = calibrate(1, progress=False)
    assert (found.backend, found.threads, found.dtype) == ("onnxruntime-cpu", 1, "fp32")
    assert 1e8 < found.flops < 1e14
    assert 1e8 < found.bandwidth < 1e13
    # A row at a time is bound by reading weights, two operations for four bytes; many rows are not.
    assert found.flops > 2 * found.bandwidth / 4
    assert "onnxruntime" in found.versions


@pytest.mark.parametrize("provider", ["tensorrt", "tpu"])
def test_other_providers_are_refused(provider: str) -> None:
    with pytest.raises(UsageError, match=f"cannot calibrate provider '{provider}'; expected cpu or cuda"):
        calibrate(1, False, provider)


def test_other_types_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot calibrate dtype 'int4'; expected fp32 or fp16"):
        calibrate(1, False, dtype="int4")


def test_a_provider_that_is_not_there_says_so() -> None:
    with pytest.raises(BackendError, match="has no CUDAExecutionProvider"):
        calibrate(1, False, "cuda")


def test_weights_exceed_the_caches() -> None:
    weights = 138_000_000
    assert copies_for(0, weights) == 1
    assert copies_for(32 << 20, weights) == 1
    assert copies_for(256 << 20, weights) == 4
    assert copies_for(4 << 30, weights) == 8  # more would not fit into a machine's memory


def test_caches_are_counted_once_each(tmp_path: Path) -> None:
    for cpu, shared in enumerate(("0-1", "0-1", "2-3", "2-3")):
        folder = tmp_path / f"cpu{cpu}" / "cache" / "index3"
        folder.mkdir(parents=True)
        (folder / "shared_cpu_list").write_text(f"{shared}\n")
        (folder / "size").write_text("32768K\n")
    (tmp_path / "cpu4" / "cache" / "index3").mkdir(parents=True)
    assert last_cache_bytes(tmp_path) == 2 * 32768 * 1024
    assert last_cache_bytes(tmp_path / "cpu4") == 0
