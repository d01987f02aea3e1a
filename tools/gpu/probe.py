"""Where TensorRT-RTX refuses a GPU: does it build for "the current GPU", or run what it built for others?

A single matrix product, through TensorRT's own calls and nothing of edgeprune's builder: what it says is NVIDIA's word.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeprune.nvidia.library import Library, open_library
from edgeprune.nvidia.logger import Messages, make_logger

_SILENT = "TensorRT gives no reason"


def probe() -> str:
    """What happens to a plan for the current GPU and to a portable one, in a sentence each.

    Raises:
        MissingExtra: TensorRT-RTX is not installed.
        BackendError: it does not load.
    """
    library = open_library("tensorrt-rtx")
    return "; ".join(f"{how}: {_outcome(library, how == 'current GPU')}" for how in ("current GPU", "portable"))


def _outcome(library: Library, current: bool) -> str:
    trt, messages = library.module, Messages()
    logger = make_logger(library, messages)
    builder = trt.Builder(logger)
    network = _product(trt, builder)
    config = builder.create_builder_config()
    if current:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return f"does not build: {messages.first_error or _SILENT}"
    messages.clear()
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        return f"builds, does not load: {messages.first_error or _SILENT}"
    context = engine.create_execution_context()
    return "builds and loads" if context is not None else f"loads, gets no context: {messages.first_error or _SILENT}"


def _product(trt: Any, builder: Any) -> Any:
    """[8, 64] by [64, 64] in fp16."""
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    rows = network.add_input("x", trt.float16, (8, 64))
    weight = network.add_constant((64, 64), np.ones((64, 64), np.float16)).get_output(0)
    plain = trt.MatrixOperation.NONE
    product = network.add_matrix_multiply(rows, plain, weight, plain).get_output(0)
    network.mark_output(product)
    return network
