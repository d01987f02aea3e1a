"""What a TensorRT version would reject in a graph and its profile, or take and silently compute otherwise.

Reads the graph; no TensorRT is needed, so what is built on a device can be refused where it is exported. It proves
nothing: a clean graph may still fail to build. Where external weights lie is checked elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeprune.bundle.build import Bounds
from edgeprune.lint import attention_rules, graph_rules, parser_rules, profile_rules, topk_rules
from edgeprune.lint.finding import Finding, Rule, Subject
from edgeprune.lint.shapes import points
from edgeprune.lint.view import View
from edgeprune.recipes.target import Flavour

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["RULES", "Finding", "lint"]

RULES: tuple[Rule, ...] = (
    graph_rules.opset_range,
    graph_rules.operator_domain,
    graph_rules.operator_unknown,
    graph_rules.operator_dtype,
    graph_rules.dtype_refused,
    graph_rules.attribute_ignored,
    graph_rules.axes_constant,
    topk_rules.topk_limit,
    topk_rules.topk_axis,
    topk_rules.topk_sorted,
    topk_rules.topk_source,
    attention_rules.attention_causal,
    attention_rules.attention_nonpad,
    attention_rules.attention_past,
    attention_rules.attention_softcap,
    attention_rules.attention_rank,
    attention_rules.tensor_scatter_cache,
    parser_rules.scatter_reduction,
    parser_rules.scatter_opset,
    parser_rules.onehot_depth,
    parser_rules.resize_antialias,
    parser_rules.cumsum_axis,
    parser_rules.loop_scan,
    parser_rules.pow_exponent,
    parser_rules.squeeze_axes,
    parser_rules.squeeze_implicit,
    parser_rules.pad_axes,
    parser_rules.einsum_form,
    parser_rules.groupnorm_opset,
    profile_rules.profile_name,
    profile_rules.profile_missing,
    profile_rules.profile_dtype,
    profile_rules.profile_rank,
    profile_rules.profile_axis,
    profile_rules.profile_scalar,
    profile_rules.profile_values,
    profile_rules.profile_symbol,
)
"""Each finds what bears its own name, with dashes."""


def lint(
    model: ModelProto, profile: Sequence[Bounds], flavour: Flavour, version: tuple[int, ...]
) -> tuple[Finding, ...]:
    """Reasons not to build a graph with a profile on a TensorRT.

    Args:
        model: loaded without external data, or with; not changed.
        profile: bounds per input, one profile.
        flavour: "tensorrt" or "tensorrt-rtx".
        version: of that library, (10, 3) or longer.

    Returns:
        In the order of ``RULES``; empty where nothing speaks against it.
    """
    subject = Subject(View(model), tuple(profile), points(model, profile), flavour, version)
    return tuple(finding for rule in RULES for finding in rule(subject))
