from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import pytest

from edgeprune.bundle.build import Bounds
from edgeprune.lint.lint import RULES, lint
from edgeprune.lint.view import View
from edgeprune.recipes.target import Flavour
from tests.lint.graphs import attention, attention_profile, fixed, graph, prune, shape, topk, values

ROWS = shape("x", (1, 4), (8, 4), (32, 4))
WIDE = shape("x", (1, 16), (1, 576), (1, 576))
NEG = "(float16[N,4] x) => (float16[N,4] y) { y = Neg (x) }"
COUNT = values("k", 1, 64, 576)
CACHE = (
    "(float16[1,2,M,64] cache, float16[1,2,1,64] new, int64[1] at) => (float16[1,2,M,64] y) "
    "{ y = TensorScatter <axis = 2> (cache, new, at) }"
)
WRITE = [fixed("cache", 1, 2, 32, 64), fixed("new", 1, 2, 1, 64), fixed("at", 1, dtype="int64")]
LOOP = """(float16[N,4] x, int64 n) => (float16[N,4] y, float16[T,N,4] all) {
    on = Constant <value = bool {1}> ()
    turns = Constant <value_int = 3> ()
    y, all = Loop (TRIP, on, x) <body = step (int64 i, bool go, float16[N,4] c) =>
        (bool more, float16[N,4] d, float16[N,4] out) { more = Identity (go) d = Neg (c) out = Abs (c) }>
}"""
INSIDE = """(float16[4] x, int64[1] k) => (float16[4] y) {
    on = Constant <value = bool {1}> ()
    turns = Constant <value_int = 3> ()
    y = Loop (turns, on, x) <body = step (int64 i, bool go, float16[4] c) => (bool more, float16[4] d) {
        more = Identity (go)
        best, j = TopK (c, k)
        least = ReduceMin (best)
        d = Add (c, least)
    }>
}"""
RESIZE = '(float16[1,3,H,8] x) => (float16[1,3,I,16] y) { y = Resize <mode = "linear"OPTION> (x, , scales) }'


@dataclass(frozen=True)
class Case:
    """A graph with one trap, and the nearest one without it."""

    rule: str
    trapped: onnx.ModelProto
    good: onnx.ModelProto
    profile: Sequence[Bounds]
    good_profile: Sequence[Bounds] | None = None
    flavour: Flavour = "tensorrt"
    version: tuple[int, ...] = (10, 16, 1)
    fixed_in: tuple[int, ...] | None = None
    """The version that takes the trapped graph too."""


def resize(option: str) -> onnx.ModelProto:
    return graph(RESIZE.replace("OPTION", option), scales=np.array([1, 1, 2, 2], np.float32))


def computed(node: str, inputs: str = "float16[N,4] x, int64[1] n", opset: int = 18) -> onnx.ModelProto:
    """``axes`` is made by an operator where ``node`` reads it, though it is always 1."""
    text = f"({inputs}) => (float16 y) {{ axes = Neg (minus) y = {node} }}"
    return graph(text, opset, minus=np.array([-1]), one=np.array([1]))


def one_rank(model: onnx.ModelProto) -> onnx.ModelProto:
    """The output of ``computed`` declared without a shape."""
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return model


def einsum(equation: str, second: str = "float16[4,4] w") -> onnx.ModelProto:
    text = f'(float16[N,4] x, {second}) => (float16 y) {{ y = Einsum <equation = "{equation}"> (x, w) }}'
    return one_rank(graph(text))


def norm(opset: int) -> onnx.ModelProto:
    text = "(float16[N,4] x) => (float16[N,4] y) { y = GroupNormalization <num_groups = 2> (x, s, s) }"
    return graph(text, opset, s=np.ones(4 if opset >= 21 else 2, np.float16))


def scatter(operator: str, reduction: str, opset: int = 18) -> onnx.ModelProto:
    option = f'<reduction = "{reduction}">' if reduction else ""
    indices, updates = ("idx", "x") if operator == "ScatterElements" else ("row", "new")
    return graph(
        f"(float16[N,4] x) => (float16[N,4] y) {{ y = {operator} {option} (x, {indices}, {updates}) }}",
        opset,
        idx=np.zeros((1, 4), np.int64),
        row=np.zeros((1, 1), np.int64),
        new=np.zeros((1, 4), np.float16),
    )


def onehot(depth: str) -> onnx.ModelProto:
    text = f"(int64[N] x, int64 d) => (float16[N,D] y) {{ y = OneHot (x, {depth}, pair) }}"
    return graph(text, pair=np.array([0, 1], np.float16), eight=np.array(8))


def counted(count: str, inputs: str) -> onnx.ModelProto:
    return graph(f"(float16[1,N] x{inputs}) => (float16[1,K] y) {{ {count} y, i = TopK (x, k) }}", one=np.array([1]))


def cumsum(axis: str) -> onnx.ModelProto:
    text = f"(float16[N,4] x, int64 n) => (float16[N,4] y) {{ same = Identity (one) y = CumSum (x, {axis}) }}"
    return graph(text, one=np.array(1))


def reshaped(inputs: str = "int64 k") -> onnx.ModelProto:
    """A scalar that is only data, and one that decides a shape."""
    return graph(
        f"(float16[N,4] x, {inputs}) => (float16[M,4] y) "
        "{ first = Reshape (k, one) y = Slice (x, zero, first, zero) }",
        zero=np.array([0]),
        one=np.array([1]),
    )


DATA_ONLY = graph(
    "(float16[N,4] x, int64 k) => (float16[N,4] y) { f = Cast <to = 10> (k) y = Mul (x, f) }",
)
TWO = graph("(float16[N,4] x, float16[N,4] w) => (float16[N,4] y) { y = Add (x, w) }")
NEGATED = graph(NEG)
UNIQUE = graph("(float16[N,4] x) => (float16[M] y) { y = Unique (x) }")

CASES = [
    Case("opset-range", graph(NEG, 22), graph(NEG, 20), [ROWS], version=(10, 3), fixed_in=(10, 6)),
    Case("opset-range", graph(NEG, 25), graph(NEG, 24), [ROWS], fixed_in=(11, 4)),
    Case("opset-range", graph(NEG, 8), graph(NEG, 9), [ROWS]),
    Case(
        "operator-domain",
        graph("(float16[N,4] x) => (float16[N,4] y) { y = com.microsoft.FastGelu (x) }", domain="com.microsoft"),
        graph("(float16[N,4] x) => (float16[N,4] y) { y = Gelu (x) }", 20),
        [ROWS],
    ),
    Case(
        "operator-unknown",
        graph("(float16[N,4] x, float16[4] w) => (float16[N,4] y) { y = RMSNormalization (x, w) }", 23),
        graph("(float16[N,4] x, float16[4] w) => (float16[N,4] y) { y = LayerNormalization (x, w) }", 23),
        [ROWS, fixed("w", 4)],
        version=(10, 14),
        fixed_in=(10, 15),
    ),
    Case(
        "operator-unknown",
        graph("(float16[N,4] x) => (int64[2,M] y) { y = NonZero (x) }"),
        NEGATED,
        [ROWS],
        flavour="tensorrt-rtx",
        version=(1, 7),
    ),
    Case("operator-unknown", UNIQUE, NEGATED, [ROWS], flavour="tensorrt-rtx", version=(1, 7)),
    Case("operator-unknown", UNIQUE, NEGATED, [ROWS], version=(11, 4)),
    Case(
        "operator-unknown",
        graph("(float16[N,4] x, bool[4] keep) => (float16[M,4] y) { y = Compress <axis = 1> (x, keep) }"),
        NEGATED,
        [ROWS, fixed("keep", 4, dtype="bool")],
        [ROWS],
    ),
    Case(
        "operator-dtype",
        graph("(int64[N,4] x) => (int64[N,4] y) { y = CumSum (x, one) }", one=np.array(1)),
        graph("(float16[N,4] x) => (float16[N,4] y) { y = CumSum (x, one) }", one=np.array(1)),
        [replace(ROWS, dtype="int64")],
        [ROWS],
        fixed_in=(11, 4),
    ),
    Case(
        "operator-dtype",
        graph("(bool[N,4] x) => (bool[N,4] y) { y = Where (x, x, x) z = Equal (x, x) }"),
        graph("(bool[N,4] x) => (bool[N,4] y) { y = Where (x, x, x) z = Xor (x, x) }"),
        [replace(ROWS, dtype="bool")],
    ),
    Case(
        "operator-dtype",
        graph("(float16[N,4] x) => (int8[N,4] y) { y = Cast <to = 3> (x) }"),
        graph("(float16[N,4] x) => (int32[N,4] y) { y = Cast <to = 6> (x) }"),
        [ROWS],
    ),
    Case(
        "dtype-refused",
        graph("(float16[N,4] x) => (float16[N,4] y) { z = Cast <to = 11> (x) w = Neg (z) y = Cast <to = 10> (w) }"),
        graph("(float16[N,4] x) => (float16[N,4] y) { z = Cast <to = 1> (x) w = Neg (z) y = Cast <to = 10> (w) }"),
        [ROWS],
    ),
    Case("dtype-refused", graph("(double[4] x) => (double[4] y) { y = Neg (x) }"), NEGATED, [], [ROWS]),
    Case(
        "dtype-refused",
        graph("(string[4] x) => (string[4] y) { y = Identity (x) }"),
        graph("(bool[4] x) => (bool[4] y) { y = Identity (x) }"),
        [],
    ),
    Case(
        "dtype-refused", graph(NEG, weight=np.zeros(2, np.float64)), graph(NEG, weight=np.zeros(2, np.float32)), [ROWS]
    ),
    Case(
        "attribute-ignored",
        attention('scale = 0.125, causal_kind = "lower_right"'),
        attention("scale = 0.125, TRT_decomposable = 1"),
        attention_profile(),
    ),
    Case(
        "axes-constant",
        one_rank(computed("ReduceSum (x, axes)")),
        one_rank(computed("ReduceSum (x, one)")),
        [ROWS],
    ),
    Case(
        "topk-limit",
        topk(),
        topk(),
        [shape("x", (1, 8), (1, 64), (1, 8192)), values("k", 1, 64, 3841)],
        [shape("x", (1, 8), (1, 64), (1, 8192)), values("k", 1, 64, 3840)],
    ),
    Case(
        "topk-limit",
        graph("(float16[1,8000] x) => (float16[1,4000] y) { y, i = TopK (x, k) }", k=np.array([4000])),
        graph("(float16[1,8000] x) => (float16[1,3840] y) { y, i = TopK (x, k) }", k=np.array([3840])),
        [],
    ),
    Case("topk-axis", topk(), topk(), [WIDE, values("k", 1, 64, 577)], [WIDE, COUNT]),
    Case("topk-axis", topk(), topk(), [WIDE, values("k", 17, 64, 576)], [WIDE, values("k", 0, 64, 576)]),
    Case("topk-sorted", topk(0), topk(1), [WIDE, COUNT]),
    Case(
        "topk-source",
        counted("n = Cast <to = 7> (ratio) k = Reshape (n, one)", ", float ratio"),
        counted("k = Reshape (n, one)", ", int64 n"),
        [WIDE],
        [WIDE, values("n", 1, 64, 576)],
    ),
    Case(
        "topk-source",
        counted("n = Cast <to = 7> (x) k = ReduceMax <keepdims = 0> (n, one)", ""),
        counted("two = Constant <value_ints = [2]> () n = Shape <start = 1> (x) k = Div (n, two)", ""),
        [WIDE],
    ),
    Case(
        "attention-causal",
        attention("is_causal = 1"),
        attention(),
        attention_profile(causal=True),
        attention_profile(),
    ),
    Case(
        "attention-nonpad",
        attention(tail=", , , length", opset=24),
        attention(opset=24),
        attention_profile(length=True),
        attention_profile(),
    ),
    Case(
        "attention-past",
        attention(tail=", pk, pv", outputs="y, present_k, present_v"),
        attention(),
        attention_profile(past=True),
        attention_profile(),
        flavour="tensorrt-rtx",
        version=(1, 7),
    ),
    Case("attention-past", attention(outputs="y, present_k"), attention(), attention_profile()),
    Case("attention-softcap", attention("softcap = 30.0"), attention("softcap = 0.0"), attention_profile()),
    Case(
        "attention-rank",
        attention(),
        graph(
            "(float16[1,2,S,64] q, float16[1,2,S,64] k, float16[1,2,S,64] v) => (float16[1,2,S,64] y) "
            "{ y = Attention (q, k, v) }",
            23,
        ),
        attention_profile(),
        [shape(name, (1, 2, 1, 64), (1, 2, 8, 64), (1, 2, 64, 64)) for name in ("q", "k", "v")],
        version=(10, 14),
        fixed_in=(10, 15),
    ),
    Case(
        "tensor-scatter-cache",
        graph(CACHE, 24),
        graph(CACHE.replace("M,", "32,"), 24),
        [shape("cache", (1, 2, 8, 64), (1, 2, 32, 64), (1, 2, 64, 64)), *WRITE[1:]],
        WRITE,
    ),
    Case("tensor-scatter-cache", graph(CACHE, 24), graph(CACHE.replace("M,", "32,"), 24), WRITE),
    Case(
        "tensor-scatter-cache",
        graph(CACHE.replace("M,", "32,").replace("axis = 2", "axis = 1"), 24),
        graph(CACHE.replace("M,", "32,").replace("axis = 2", "axis = -2"), 24),
        WRITE,
    ),
    Case("scatter-reduction", scatter("ScatterND", "add"), scatter("ScatterND", "none"), [ROWS]),
    Case(
        "scatter-reduction",
        scatter("ScatterElements", "add"),
        scatter("ScatterElements", ""),
        [fixed("x", 1, 4)],
        flavour="tensorrt-rtx",
        version=(1, 7),
    ),
    Case(
        "scatter-opset",
        scatter("ScatterND", ""),
        scatter("ScatterND", "", 17),
        [ROWS],
        version=(10, 8),
        fixed_in=(10, 9),
    ),
    Case(
        "onehot-depth",
        onehot("d"),
        onehot("eight"),
        [shape("x", (1,), (8,), (32,), "int64"), values("d", 1, 8, 16)],
    ),
    Case(
        "resize-antialias",
        resize(", antialias = 1"),
        resize(""),
        [shape("x", (1, 3, 2, 8), (1, 3, 8, 8), (1, 3, 9, 8))],
    ),
    Case("cumsum-axis", cumsum("same"), cumsum("one"), [ROWS], version=(10, 7), fixed_in=(10, 8)),
    Case("cumsum-axis", cumsum("n"), cumsum("same"), [ROWS, values("n", 0, 1, 1)]),
    Case(
        "loop-scan",
        graph(LOOP.replace("TRIP", "n")),
        graph(LOOP.replace("TRIP", "turns")),
        [ROWS, values("n", 1, 4, 8)],
        version=(10, 3),
        fixed_in=(11, 0),
    ),
    Case(
        "pow-exponent",
        graph("(float16[N,4] x) => (float16[N,4] y) { y = Pow (x, e) }", e=np.array(2)),
        graph("(float16[N,4] x) => (float16[N,4] y) { y = Pow (x, e) }", e=np.array(2, np.float16)),
        [ROWS],
        version=(10, 7),
        fixed_in=(10, 8),
    ),
    Case(
        "squeeze-axes",
        one_rank(computed("Unsqueeze (x, axes)")),
        one_rank(computed("Unsqueeze (x, one)")),
        [ROWS],
        version=(10, 6),
        fixed_in=(10, 7),
    ),
    Case(
        "squeeze-axes",
        one_rank(computed("Squeeze (x, n)", "float16[N,M] x, int64[1] n")),
        one_rank(computed("Squeeze (x, axes)", "float16[N,M] x, int64[1] n")),
        [fixed("x", 1, 1), values("n", 0, 1, 1)],
    ),
    Case(
        "squeeze-implicit",
        graph("(float16[N,1,4] x) => (float16[N,4] y) { y = Squeeze (x) }"),
        graph("(float16[7,1,4] x) => (float16[7,4] y) { y = Squeeze (x) }"),
        [fixed("x", 7, 1, 4)],
        fixed_in=(11, 5),
    ),
    Case(
        "squeeze-implicit",
        graph("(float16[N,4] x) => (float16[M] y) { z = Neg (x) y = Squeeze (z) }"),
        graph("(float16[N,4] x) => (int64 y) { z = Shape <start = 0, end = 1> (x) y = Squeeze (z) }"),
        [ROWS],
        version=(10, 3),
        fixed_in=(11, 5),
    ),
    Case(
        "pad-axes",
        graph(
            "(float16[N,4] x) => (float16[N,M] y) { y = Pad (x, two, , one) }", two=np.array([1, 1]), one=np.array([1])
        ),
        graph("(float16[N,4] x) => (float16[N,M] y) { y = Pad (x, four) }", four=np.array([0, 1, 0, 1])),
        [ROWS],
        version=(10, 3),
        fixed_in=(10, 4),
    ),
    *(
        Case(
            "einsum-form",
            einsum(trap),
            einsum("nd,de->ne"),
            [ROWS, fixed("w", 4, 4)],
            version=(10, 11),
            fixed_in=(10, 12),
        )
        for trap in ("...d,de->...e", "nd,dd->nd")
    ),
    Case(
        "einsum-form",
        einsum("nd,de->ne", "float16[1,4] w"),
        einsum("nd,de->ne"),
        [ROWS, fixed("w", 1, 4)],
        [ROWS, fixed("w", 4, 4)],
        version=(10, 11),
        fixed_in=(10, 12),
    ),
    Case("groupnorm-opset", norm(21), norm(18), [ROWS], version=(10, 8), fixed_in=(10, 9)),
    Case("profile-name", NEGATED, NEGATED, [ROWS, replace(ROWS, name="X")], [ROWS]),
    Case("profile-missing", NEGATED, NEGATED, [], [ROWS]),
    Case("profile-missing", reshaped(), reshaped(), [ROWS], [ROWS, values("k", 1, 2, 32)]),
    Case("profile-missing", reshaped(), DATA_ONLY, [ROWS]),
    Case("profile-dtype", NEGATED, NEGATED, [replace(ROWS, dtype="fp32")], [ROWS]),
    Case("profile-rank", NEGATED, NEGATED, [shape("x", (1,), (2,), (3,))], [ROWS]),
    Case(
        "profile-rank",
        reshaped(),
        reshaped(),
        [ROWS, Bounds("k", "int64", "values", (1, 1), (2, 2), (3, 3))],
        [ROWS, values("k", 1, 2, 32)],
    ),
    Case("profile-axis", NEGATED, NEGATED, [shape("x", (1, 4), (2, 4), (3, 5))], [ROWS]),
    Case(
        "profile-scalar",
        graph("(float16[N,4] x, float k) => (float16[N,4] y) { f = Cast <to = 10> (k) y = Mul (x, f) }"),
        DATA_ONLY,
        [ROWS, values("k", 1, 2, 3, "fp32")],
        [ROWS, values("k", 1, 2, 3)],
    ),
    Case(
        "profile-values",
        reshaped("int64[1] k"),
        reshaped("int64[1] k"),
        [ROWS, fixed("k", 1, dtype="int64")],
        [ROWS, values("k", 1, 2, 32)],
    ),
    Case("profile-symbol", TWO, TWO, [ROWS, shape("w", (1, 4), (8, 4), (31, 4))], [ROWS, replace(ROWS, name="w")]),
]


def rules(model: onnx.ModelProto, profile: Sequence[Bounds], flavour: Flavour, version: tuple[int, ...]) -> set[str]:
    return {finding.rule for finding in lint(model, profile, flavour, version)}


def profiled(case: Case, model: onnx.ModelProto, profile: Sequence[Bounds] | None) -> list[Bounds]:
    """The profile without inputs that a model of the pair lacks."""
    given = case.profile if profile is None else profile
    held = {value.name for value in model.graph.input}
    return [bounds for bounds in given if bounds.name in held or case.rule == "profile-name"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}-{CASES.index(case)}")
def test_a_trap_is_refused_by_its_rule_alone_and_the_nearest_good_graph_passes(case: Case) -> None:
    trapped = profiled(case, case.trapped, None)
    assert rules(case.trapped, trapped, case.flavour, case.version) == {case.rule}
    assert lint(case.good, profiled(case, case.good, case.good_profile), case.flavour, case.version) == ()
    if case.fixed_in is not None:
        assert case.fixed_in > case.version
        assert rules(case.trapped, trapped, case.flavour, case.fixed_in) == set()


def test_every_rule_has_a_case() -> None:
    assert {case.rule for case in CASES} == {rule.__name__.replace("_", "-") for rule in RULES}


def test_a_finding_names_the_node_the_value_and_what_to_do() -> None:
    (finding,) = lint(topk(), [WIDE, values("k", 1, 64, 577)], "tensorrt", (10, 3))
    assert finding.node == "TopK_2"
    assert finding.message == "K is 577 at most, where the axis has 576; expected no more: make the bounds agree"
    for case in CASES:
        for found in lint(case.trapped, profiled(case, case.trapped, None), case.flavour, case.version):
            assert "\n" not in found.message and len(found.message) < 220
            assert bool(found.node) != found.rule.startswith(("profile-", "opset-", "dtype-")) or found.node


FEW = shape("x", (1, 16), (1, 64), (1, 64))
DOUBLE = "(float16[N,4] x) => (float16[N,4] y) { z = Cast <to = 11> (x) w = Neg (z) y = Cast <to = 10> (w) }"
SILENT = {
    "attention-causal": (attention("is_causal = 1"), attention_profile(causal=True)),
    "attention-nonpad": (attention(tail=", , , length", opset=24), attention_profile(length=True)),
    "attribute-ignored": (attention('scale = 0.125, causal_kind = "lower_right"'), attention_profile()),
    "dtype-refused": (graph(DOUBLE), [ROWS]),
    "profile-symbol": (TWO, [ROWS, shape("w", (1, 4), (8, 4), (31, 4))]),
    "profile-name": (topk(), [FEW, values("k", 1, 8, 64), values("K", 1, 8, 64)]),
    "topk-limit": (topk(), [shape("x", (1, 8), (1, 64), (1, 8192)), values("k", 1, 64, 4000)]),
    "topk-axis": (topk(), [FEW, values("k", 1, 8, 100)]),
    "topk-sorted": (topk(0), [FEW, values("k", 1, 8, 64)]),
}


@pytest.mark.parametrize("rule", SILENT)
def test_tensorrt_builds_a_silent_trap_without_an_error_and_the_lint_refuses_it(rule: str) -> None:
    model, profile = SILENT[rule]
    assert builds(model, profile) == (True, [])
    assert rules(model, profile, "tensorrt-rtx", (1, 7, 1)) == {rule}


def test_tensorrt_says_no_where_a_trap_is_not_silent() -> None:
    built, errors = builds(topk(), [FEW, values("k", 1, 100, 100)])
    assert not built and errors


def test_the_inputs_that_shapes_depend_on_are_those_that_tensorrt_finds() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    for model in (topk(), reshaped(), DATA_ONLY, prune(), graph(LOOP.replace("TRIP", "n")), graph(INSIDE)):
        network, _ = parse(trt, model, [])
        inputs = [network.get_input(index) for index in range(network.num_inputs)]
        assert View(model).shape_inputs == {value.name for value in inputs if value.is_shape_tensor}


def builds(model: onnx.ModelProto, profile: Sequence[Bounds]) -> tuple[bool, list[str]]:
    """Whether TensorRT-RTX makes a plan, on the CPU, for compute capability 8.6; and the errors it logs."""
    trt = pytest.importorskip("tensorrt_rtx")
    errors: list[str] = []
    network, builder = parse(trt, model, errors)
    bounds = builder.create_optimization_profile()
    for one in profile:
        put = bounds.set_shape_input if one.kind == "values" else bounds.set_shape
        put(one.name, one.least, one.usual, one.most)
    config = builder.create_builder_config()
    config.add_optimization_profile(bounds)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    return builder.build_serialized_network(network, config) is not None, errors


def parse(trt: Any, model: onnx.ModelProto, errors: list[str]) -> tuple[Any, Any]:
    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                errors.append(message)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse(model.SerializeToString())
    return network, builder
