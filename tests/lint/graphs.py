"""Tiny ONNX graphs from text, and bounds for their inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeprune.bundle.build import Bounds


def graph(text: str, opset: int = 18, domain: str = "", **constants: NDArray[Any]) -> onnx.ModelProto:
    """``text`` is ``(inputs) => (outputs) { nodes }`` in ONNX's textual syntax; ``constants`` become initializers."""
    imports = f'"" : {opset}' + (f', "{domain}" : 1' if domain else "")
    model = onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{imports}]> tiny {text}")
    for name, array in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
    return model


def shape(
    name: str, least: tuple[int, ...], usual: tuple[int, ...], most: tuple[int, ...], dtype: str = "fp16"
) -> Bounds:
    return Bounds(name, dtype, "shape", least, usual, most)


def fixed(name: str, *sizes: int, dtype: str = "fp16") -> Bounds:
    return Bounds(name, dtype, "shape", sizes, sizes, sizes)


def values(name: str, least: int, usual: int, most: int, dtype: str = "int64") -> Bounds:
    return Bounds(name, dtype, "values", (least,), (usual,), (most,))


def topk(sorted_: int = 1) -> onnx.ModelProto:
    """The k largest of [1, N]."""
    return graph(
        f"(float16[1,N] x, int64 k) => (float16[1,K] y) "
        f"{{ one = Constant <value_ints = [1]> () kk = Reshape (k, one) y, i = TopK <sorted = {sorted_}> (x, kk) }}"
    )


def attention(
    attributes: str = "scale = 0.125", tail: str = "", opset: int = 23, outputs: str = "y"
) -> onnx.ModelProto:
    """Two heads of 64 over S queries and T keys with a mask; ``tail`` follows the mask among the node's inputs."""
    lengths = ", int64[1] length" if "length" in tail else ""
    past = ", float16[1,2,P,64] pk, float16[1,2,P,64] pv" if "pk" in tail else ""
    mask = "" if "is_causal" in attributes else "mask"
    masked = ", bool[S,T] mask" if mask else ""
    return graph(
        f"(float16[1,2,S,64] q, float16[1,2,T,64] k, float16[1,2,T,64] v{masked}{past}{lengths}) => "
        f"(float16[1,2,S,64] y) {{ {outputs} = Attention <{attributes}> (q, k, v, {mask}{tail}) }}".replace(", )", ")"),
        opset,
    )


def attention_profile(past: bool = False, causal: bool = False, length: bool = False) -> list[Bounds]:
    """For ``attention``: prefill of 1 to 64 rows after 0 to 64 cached ones."""
    rows, keys = (1, 16, 64), (1, 16, 128)

    def sized(name: str, sizes: tuple[int, int, int]) -> Bounds:
        least, usual, most = ((1, 2, size, 64) for size in sizes)
        return shape(name, least, usual, most)

    bounds = [sized("q", rows), sized("k", keys), sized("v", keys)]
    if not causal:
        least, usual, most = zip(rows, keys, strict=True)
        bounds.append(shape("mask", least, usual, most, "bool"))
    if past:
        bounds += [sized("pk", (0, 8, 64)), sized("pv", (0, 8, 64))]
    return bounds + ([fixed("length", 1, dtype="int64")] if length else [])


def prune() -> onnx.ModelProto:
    """Keeps the best rows of a span of x, as an exported prune graph does, without its weights."""
    text = """(float16[1,S,8] x, int64 start, int64 length, int64 keep) => (float16[1,R,8] y, int64[1,K] kept)
    {
        one = Constant <value_ints = [1]> ()
        zero = Constant <value_int = 0> ()
        step = Constant <value_int = 1> ()
        a = Reshape (start, one)
        end = Add (start, length)
        b = Reshape (end, one)
        whole = Shape <start = 1, end = 2> (x)
        head = Slice (x, zeros, a, one)
        body = Slice (x, a, b, one)
        tail = Slice (x, b, whole, one)
        k = Reshape (keep, one)
        full = Cast <to = 1> (body)
        score = ReduceSum <keepdims = 0> (full, last)
        best, kept = TopK (score, k)
        places = Range (zero, length, step)
        index = Unsqueeze (kept, last)
        wide = Concat <axis = 0> (one, k, width)
        spread = Expand (index, wide)
        chosen = GatherElements <axis = 1> (body, spread)
        y = Concat <axis = 1> (head, chosen, tail)
    }"""
    return graph(text, zeros=np.array([0]), last=np.array([-1]), width=np.array([8]))
