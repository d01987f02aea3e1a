from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edgeprune.bundle.build import Bounds
from edgeprune.lint.shapes import points
from tests.lint.graphs import fixed, graph, prune, shape, values


def profile() -> list[Bounds]:
    return [
        shape("x", (1, 8, 8), (1, 40, 8), (1, 300, 8)),
        values("start", 1, 4, 100),
        values("length", 2, 20, 128),
        values("keep", 1, 5, 128),
    ]


def feeds(bounds: list[Bounds], place: str) -> dict[str, Any]:
    types = {"fp16": np.float16, "int64": np.int64}
    found: dict[str, Any] = {}
    for one in bounds:
        given = getattr(one, place)
        array = np.zeros(given, types[one.dtype]) if one.kind == "shape" else np.array(given[0], types[one.dtype])
        found[one.name] = array
    return found


def test_every_value_has_the_shape_and_type_that_onnx_runtime_gives_it() -> None:
    model, bounds = prune(), profile()
    inner = [name for node in model.graph.node for name in node.output if name not in ("y", "kept")]
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    session = ort.InferenceSession(exposed.SerializeToString(), providers=["CPUExecutionProvider"])
    words = {"float16": "fp16", "float32": "fp32"}
    for point in points(model, bounds):
        found = dict(zip([*("y", "kept"), *inner], session.run(None, feeds(bounds, point.place)), strict=True))
        for name, array in found.items():
            assert point.shapes[name] == array.shape, (point.place, name)
            assert point.dtypes[name] == words.get(str(array.dtype), str(array.dtype)), name
            if name in point.values:
                np.testing.assert_array_equal(point.values[name], array)
        assert {"k", "a", "b", "wide", "whole"} <= set(point.values)
        assert point.nbytes("x") == feeds(bounds, point.place)["x"].nbytes


def test_contents_larger_than_a_shape_are_not_kept() -> None:
    least, _, most = points(prune(), profile())
    assert least.values["places"].tolist() == [0, 1] and "places" not in most.values
    assert most.shapes["places"] == (128,)


def test_what_depends_on_data_is_unknown_and_not_guessed() -> None:
    model = graph("(float16[N] x) => (int64[1,M] y) { y = NonZero (x) }")
    for point in points(model, [shape("x", (1,), (8,), (32,))]):
        assert point.shapes["y"] is None and point.dtypes["y"] == "int64" and point.nbytes("y") is None


def test_an_input_without_bounds_has_no_shape_and_a_fixed_one_needs_none() -> None:
    model = graph("(float16[N] x, float16[4] w) => (float16[N] y, float16[4] z) { y = Neg (x) z = Neg (w) }")
    for point in points(model, []):
        assert point.shapes["y"] is None and point.shapes["z"] == (4,)


def test_the_graphs_own_annotation_serves_where_nothing_else_does() -> None:
    model = graph(
        "(float16[N,4] x) => (float16[N,4] y) { z = Strange (x) y = Neg (z) }",
    )
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT16, ["N", 4]))
    _, usual, _ = points(model, [shape("x", (1, 4), (3, 4), (9, 4))])
    assert usual.shapes["z"] == usual.shapes["y"] == (3, 4)


def test_sizes_that_do_not_fit_at_one_point_leave_that_point_unknown() -> None:
    model = graph("(float16[N] x, float16[M] w) => (float16[L] y) { y = Add (x, w) }")
    least, usual, most = points(model, [shape("x", (1,), (3,), (9,)), shape("w", (1,), (3,), (8,))])
    assert (least.shapes["y"], usual.shapes["y"], most.shapes["y"]) == ((1,), (3,), None)


def test_a_weight_in_another_file_has_a_shape_and_no_content() -> None:
    model = graph("(float16[N,4] x) => (float16[N,2] y) { y = MatMul (x, w) }", w=np.zeros((4, 2), np.float16))
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="elsewhere.data")
    _, usual, _ = points(model, [shape("x", (1, 4), (3, 4), (9, 4))])
    assert usual.shapes["y"] == (3, 2) and usual.nbytes("w") == 16 and "w" not in usual.values


@pytest.mark.parametrize(("keep", "expected"), [(0, (1, 0)), (8, (1, 8))])
def test_a_count_of_nothing_is_a_size_like_any_other(keep: int, expected: tuple[int, ...]) -> None:
    model = graph(
        "(float[1,9] x, int64 keep) => (float[1,K] y) "
        "{ one = Constant <value_ints = [1]> () k = Reshape (keep, one) y, i = TopK (x, k) }"
    )
    least, _, _ = points(model, [fixed("x", 1, 9, dtype="fp32"), values("keep", keep, 8, 8)])
    assert least.shapes["y"] == expected
