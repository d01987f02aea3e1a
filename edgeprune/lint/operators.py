"""Which ONNX operators each TensorRT has, in which element types, and at which opsets.

Two tables of onnx-tensorrt were read, both named ``docs/operators.md``: TensorRT 10.6 (commit 0137504e) and 10.15
(commit fa5aa9f6). They differ in what was added between, which carries the version that its changelog or the release
notes of TensorRT give; 10.3 lies before both, so what came in 10.4 and 10.5 is dated by the changelog alone. For 11 no
table was at hand: it is 10.15's and what the notes of 11.0 and 11.2 add. TensorRT-RTX 1.7 is 10.15's, corrected by
trying: its parser was asked for every operator, and the plugins that its wheel lacks were found by building.

The tables name the type of an operator's data, not of its indices, shapes or masks. Where the importer's source of
10.6 takes more types than its table says (Clip, NonZero), the source counts. What an operator may do is in the rules;
this file knows only whether it exists.
"""

from __future__ import annotations

from edgeprune.recipes.target import Flavour

_FLOAT = frozenset({"fp32", "fp16", "bf16"})
_HALF = frozenset({"fp32", "fp16"})
_NUMBER = _FLOAT | {"int32", "int64"}
_ANY = _NUMBER | {"bool"}
_CAST = _ANY | {"uint8"}
_STORED = _ANY | {"fp8", "fp4", "int4", "int8"}

_TABLE: tuple[tuple[frozenset[str], str], ...] = (
    (
        _FLOAT,
        """Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Conv ConvTranspose Cos Cosh Dropout
        Einsum Elu Erf Exp Floor Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization GRU
        HardSigmoid HardSwish Hardmax ImageScaler InstanceNormalization IsInf LayerNormalization LeakyRelu Log
        LogSoftmax LRN LSTM LpNormalization LpPool MatMul MaxPool MeanVarianceNormalization ParametricSoftplus PRelu
        QuantizeLinear RandomNormal RandomNormalLike RandomUniform RandomUniformLike Reciprocal Resize
        RMSNormalization RNN RotaryEmbedding Round ScaledTanh Scan Selu Sigmoid Sin Sinh Softmax Softplus Softsign
        Sqrt Swish Tan Tanh ThresholdedRelu Upsample""",
    ),
    (
        _NUMBER,
        """Abs Add ArgMax ArgMin Clip DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less LessOrEqual Max Min Mod
        Mul Neg Pad Pow Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
        ReduceSum ReduceSumSquare Relu Scatter ScatterElements ScatterND Shrink Sign SpaceToDepth Sub Sum TopK""",
    ),
    (
        _ANY,
        """Concat Expand EyeLike Flatten Gather GatherElements GatherND Identity If Loop NonZero OneHot Reshape
        ReverseSequence Shape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze Where""",
    ),
    (_HALF, "BlackmanWindow DeformConv GridSample HammingWindow HannWindow Mish NonMaxSuppression RoiAlign"),
    (_CAST, "Cast CastLike"),
    (_STORED, "Constant ConstantOfShape"),
    (frozenset({"bool"}), "And Not Or Xor"),
    (frozenset({"int8", "fp8", "fp4", "int4"}), "DequantizeLinear"),
    (frozenset({"fp32"}), "DFT STFT"),
    (_FLOAT | {"int8", "fp8"}, "Attention"),
    (_FLOAT | {"int32"}, "TensorScatter"),
    (_NUMBER | {"int8"}, "Gelu"),
    (_NUMBER | {"fp8"}, "Mean"),
    (_NUMBER, "CumSum"),
)

_SINCE: dict[str, tuple[int, ...]] = {
    "BlackmanWindow": (10, 4),
    "HammingWindow": (10, 4),
    "HannWindow": (10, 4),
    "STFT": (10, 5),
    "Attention": (10, 14),
    "RMSNormalization": (10, 15),
    "RotaryEmbedding": (10, 15),
    "TensorScatter": (10, 15),
    "Swish": (11, 0),
    "DFT": (11, 2),
}

_NOT_IN_RTX = frozenset({"DeformConv", "DFT", "NonMaxSuppression", "NonZero"})

_TYPES: dict[str, frozenset[str]] = {name: types for types, names in _TABLE for name in names.split()}

_OPSETS: tuple[tuple[tuple[int, ...], int], ...] = (((10, 0), 20), ((10, 6), 22), ((10, 14), 24), ((11, 0), 25))


def since(operator: str, flavour: Flavour) -> tuple[int, ...] | None:
    """The first version that has an operator: (0,) where all do, None where no version does."""
    if operator not in _TYPES or (flavour == "tensorrt-rtx" and operator in _NOT_IN_RTX):
        return None
    return (0,) if flavour == "tensorrt-rtx" else _SINCE.get(operator, (0,))


def dtypes(operator: str, flavour: Flavour, version: tuple[int, ...]) -> frozenset[str]:
    """Element types of an operator's data, in the words of ``shapes.DTYPES``; empty where it is unknown."""
    types = _TYPES.get(operator, frozenset())
    if flavour == "tensorrt" and operator == "CumSum" and version < (11,):
        return _FLOAT  # 10.15's table; TensorRT-RTX 1.7 builds int64
    if flavour == "tensorrt" and operator == "Pow" and version < (10, 8):
        return _FLOAT
    if flavour == "tensorrt-rtx" and operator == "Equal":
        return types | {"bool"}  # no table has it; TensorRT-RTX 1.7 builds it
    return types


def opsets(flavour: Flavour, version: tuple[int, ...]) -> tuple[int, int]:
    """The least and the greatest opset of the default domain."""
    if flavour == "tensorrt-rtx":
        return 9, 26
    return 9, max((most for first, most in _OPSETS if version >= first), default=19)
