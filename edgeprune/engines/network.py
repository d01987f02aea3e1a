"""An ONNX graph as a TensorRT network: parsed by Polygraphy's loader, strongly typed, its layers' precisions counted.

It knows nothing of profiles and builds nothing. Polygraphy chooses between TensorRT and TensorRT-RTX once per process,
when it is first imported, so a process builds with one of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.bundle.build import Output
from edgeprune.bundle.manifest import Graph
from edgeprune.errors import BackendError, MissingExtra
from edgeprune.nvidia.library import Library, extra_for
from edgeprune.nvidia.logger import Messages, make_logger

DTYPES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT64": "int64", "INT32": "int32", "BOOL": "bool"}
"""TensorRT's names of element types in the bundle's."""

_ATTENTION = "ATTENTION_OUTPUT"
_WEIGHTED = ("MATRIX_MULTIPLY", "CONVOLUTION")
_OF_CODE = "constant_"  # as exported graphs name the tables of a module's code; the layer has the same name
_PASSED = ("SHUFFLE", "CAST", "IDENTITY", "UNSQUEEZE", "SQUEEZE")
"""Layers that stand between weights and what multiplies by them."""


@dataclass(frozen=True)
class Network:
    """A parsed graph; ``builder``, ``network`` and ``parser`` are TensorRT's own objects and live together.

    Attributes:
        messages: collects the errors that TensorRT logs.
    """

    builder: Any
    network: Any
    parser: Any
    messages: Messages

    @property
    def inputs(self) -> tuple[Any, ...]:
        """TensorRT's input tensors."""
        return tuple(self.network.get_input(index) for index in range(self.network.num_inputs))

    def outputs(self) -> tuple[Output, ...]:
        """Outputs as TensorRT understood them."""
        tensors = (self.network.get_output(index) for index in range(self.network.num_outputs))
        return tuple(Output(t.name, dtype_name(t), tuple(t.shape)) for t in tensors)

    def layers(self) -> Iterator[Any]:
        """All layers."""
        return (self.network.get_layer(index) for index in range(self.network.num_layers))

    def precisions(self) -> dict[str, int]:
        """Per element type the number of layers that make up a graph's cost: those with weights, and attention.

        Scores are matrix products, too, and in fp32 by the specification, but small and without weights.
        """
        made = {layer.get_output(0).name: layer for layer in self.layers()}
        costly = (layer for layer in self.layers() if layer.type.name == _ATTENTION or _has_weights(layer, made))
        return dict(sorted(Counter(dtype_name(layer.get_output(0)) for layer in costly).items()))


def loaders(library: Library) -> Any:
    """Polygraphy's TensorRT loaders, on the library asked for.

    Raises:
        MissingExtra: Polygraphy is not installed.
        BackendError: the process already builds with the other flavour.
    """
    try:
        from polygraphy import config, logger
    except ImportError as error:
        raise MissingExtra("polygraphy", extra_for(library.flavour), "building engines") from error
    config.USE_TENSORRT_RTX = library.flavour == "tensorrt-rtx"  # read when the next line first imports its module
    from polygraphy.backend import trt

    if trt.util.trt.__name__ not in ("", library.module.__name__):
        raise BackendError(f"this process already builds with {trt.util.trt.__name__}, not {library.flavour}")
    logger.G_LOGGER.module_severity = logger.G_LOGGER.CRITICAL + 1  # our own logger has the messages
    return trt


def parse(library: Library, graph: Graph, path: Path) -> Network:
    """Parse a graph, its weights from the file beside it.

    Raises:
        BackendError: TensorRT refuses it; the message is the parser's first.
    """
    trt = loaders(library)
    messages = Messages()
    trt.util.TRT_LOGGER = make_logger(library, messages)
    from polygraphy.exception import PolygraphyException

    try:
        builder, network, parser = trt.NetworkFromOnnxPath(str(path), strongly_typed=True)()
    except PolygraphyException as error:
        reason = messages.first_error or str(error)
        raise BackendError(f"{library.name} cannot parse graph {graph.name}: {reason}") from error
    parsed = Network(builder, network, parser, messages)
    _allow_decomposing(library, parsed)
    return parsed


def check_precision(graph: Graph, dtype: str, precisions: dict[str, int], library: Library) -> None:
    """Raise if a layer that makes up the cost of a graph is not in the bundle's element type.

    What rows are chosen by is in fp32 by the specification, the weights of a kernel graph with it.

    Raises:
        BackendError: how many layers are in what instead.
    """
    others = {name: count for name, count in precisions.items() if name != dtype}
    if others and graph.role != "kernel":
        found = ", ".join(f"{count} in {name}" for name, count in others.items())
        raise BackendError(
            f"graph {graph.name}: {library.name} has {found} of its {sum(precisions.values())} layers with weights; "
            f"expected {dtype}: export again with --dtype {dtype}"
        )


def dtype_name(tensor: Any) -> str:
    """A TensorRT tensor's element type in the bundle's words."""
    name: str = tensor.dtype.name
    return DTYPES.get(name, name.lower())


def _has_weights(layer: Any, made: dict[str, Any]) -> bool:
    """Whether a layer multiplies by a checkpoint's tensor, reshaped or cast on the way or not."""
    if layer.type.name not in _WEIGHTED:
        return False
    if layer.type.name == "CONVOLUTION":
        return True
    for index in range(layer.num_inputs):
        above = made.get(layer.get_input(index).name)
        while above is not None and above.type.name in _PASSED:
            above = made.get(above.get_input(0).name)
        if above is not None and above.type.name == "CONSTANT" and not above.name.startswith(_OF_CODE):
            return True
    return False


def _allow_decomposing(library: Library, parsed: Network) -> None:
    """Let fused attention in fp32 fall apart: no kernel of that type exists, and the build would fail.

    TensorRT-RTX 1.7: "not supported by a dedicated kernel" without it. The ONNX operator has no attribute for it. In
    fp16 the kernel must be there: without it the build fails, instead of an engine that is slow.
    """
    layer_type, layer_class = library.member("LayerType", "ATTENTION_INPUT"), library.member("IAttentionInputLayer")
    if layer_type is None or layer_class is None:
        return
    for layer in parsed.layers():
        if layer.type == layer_type and dtype_name(layer.get_input(0)) == "fp32":
            layer.__class__ = layer_class
            layer.attention.decomposable = True
