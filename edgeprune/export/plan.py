"""Which graphs a bundle gets, in order of execution, with the names and axes of all their tensors.

The plan is made before anything is traced or read, so that a mistake in it costs nothing. It knows the family's
parts and the methods' modules, not how a module becomes ONNX.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from edgeprune.bundle.manifest import Cut, Dialect, Dtype, MethodEntry, Role, Tensor
from edgeprune.families.family import Family
from edgeprune.families.part import Part
from edgeprune.methods.method import Method

SCALARS = ("span_start", "span_length", "keep", "merge")


@dataclass(frozen=True)
class GraphPlan:
    """One graph to be written.

    Attributes:
        name: of the graph and its file.
        role: station of the chain.
        layers: of a segment.
        part: makes the module with access to its weights.
        inputs, outputs: in the order of the module's arguments and results; a list argument is flattened.
    """

    name: str
    role: Role
    layers: tuple[int, int] | None
    part: Callable[[], Part]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Assemble(nn.Module):
    """Text rows, visual rows, text rows: the decoder's input."""

    def forward(self, before: torch.Tensor, visual: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Join [B, a, D], [B, K, D] and [B, t, D] into [B, S, D]."""
        return torch.cat((before, visual, after), dim=1)


def plan_graphs(
    model: Family, methods: dict[str, tuple[Method, tuple[int, ...]]], dtype: Dtype, dialect: Dialect
) -> tuple[GraphPlan, ...]:
    """All graphs of a bundle.

    Args:
        model: the checkpoint.
        methods: per name the method and the decoder layers it cuts before.
        dtype: element type of the graphs.
        dialect: their operators.
    """
    planner = _Planner(model, dtype, dialect == "fused")
    cuts = sorted({layer for _, layers in methods.values() for layer in layers})
    probes = tuple(dict.fromkeys(probe for method, _ in methods.values() for probe in method.vision_probes))
    graphs = [planner.vision(probes)]
    graphs += [planner.prune_vision(method) for method, _ in methods.values()]
    graphs += [planner.project(), planner.assemble()]
    for first, last in pairwise((0, *cuts, model.decoder_facts.layers)):
        graphs += [planner.prune_cut(method, first) for method, layers in methods.values() if first in layers]
        graphs.append(planner.segment(first, last))
    return tuple(graphs)


def plan_methods(methods: dict[str, tuple[Method, tuple[int, ...]]]) -> tuple[MethodEntry, ...]:
    """The manifest's entries for the methods."""
    return tuple(
        MethodEntry(
            name=method.name,
            positions=method.positions,
            cuts=(
                Cut("vision", f"prune_{method.name}_vision"),
                *(Cut(layer, f"prune_{method.name}_{layer}") for layer in layers),
            ),
        )
        for method, layers in methods.values()
    )


class _Planner:
    """Names and axes of every graph of one model."""

    def __init__(self, model: Family, dtype: Dtype, fused: bool) -> None:
        self.model, self.dtype, self.fused = model, dtype, fused
        self.decoder, self.facts = model.decoder_facts, model.vision_facts

    def real(self, name: str, *shape: int | str) -> Tensor:
        return Tensor(name, self.dtype, shape)

    def vision(self, probes: tuple[str, ...]) -> GraphPlan:
        size = self.model.image_size
        return GraphPlan(
            name="vision",
            role="vision",
            layers=None,
            part=lambda: self.model.vision(probes, self.fused),
            inputs=(self.real("pixel_values", "B", 3, size, size),),
            outputs=(
                self.real("features", "B", self.facts.tokens, self.facts.width),
                *(self.probe(name) for name in probes),
            ),
        )

    def probe(self, name: str) -> Tensor:
        """An output of the scoring head, named after the layer it was read in."""
        patches, label = self.facts.tokens, f"{name}_{self.model.feature_layer}"
        head_dim = self.model.vision_head_dim
        shapes: dict[str, Tensor] = {
            "cls_feature": Tensor(label, self.dtype, ("B", 1, self.facts.width)),
            "cls_attention": Tensor(label, "fp32", ("B", patches)),
            "key": Tensor(label, "fp32", ("B", patches + 1, head_dim)),
        }
        return shapes[name]

    def prune_vision(self, method: Method) -> GraphPlan:
        features = self.real("features", "B", self.facts.tokens, self.facts.width)
        probes = tuple(self.probe(name) for name in method.vision_probes)
        return GraphPlan(
            name=f"prune_{method.name}_vision",
            role="prune",
            layers=None,
            part=lambda: Part(method.vision_stage(), self.model.weights, str),
            inputs=(features, *probes, Tensor("keep", "int64", ()), Tensor("merge", "int64", ())),
            outputs=(self.real("features_out", "B", "K", self.facts.width), Tensor("kept", "int64", ("B", "K"))),
        )

    def project(self) -> GraphPlan:
        return GraphPlan(
            name="project",
            role="project",
            layers=None,
            part=self.model.project,
            inputs=(self.real("features", "B", "K", self.facts.width),),
            outputs=(self.real("visual", "B", "K", self.decoder.hidden),),
        )

    def assemble(self) -> GraphPlan:
        width = self.decoder.hidden
        return GraphPlan(
            name="assemble",
            role="assemble",
            layers=None,
            part=lambda: Part(Assemble(), self.model.weights, str),
            inputs=tuple(
                self.real(name, "B", rows, width) for name, rows in (("before", "a"), ("visual", "K"), ("after", "t"))
            ),
            outputs=(self.real("hidden", "B", "S", width),),
        )

    def segment(self, first: int, last: int) -> GraphPlan:
        d = self.decoder
        names = [f"{kind}_{layer}" for layer in range(first, last) for kind in ("key", "value")]
        ends = last == d.layers
        head = Tensor("logits", "fp32", ("B", 1, d.vocab)) if ends else self.real("hidden_out", "B", "S", d.hidden)
        return GraphPlan(
            name=f"segment_{first}_{last}",
            role="segment",
            layers=(first, last),
            part=lambda: self.model.segment(first, last, self.fused),
            inputs=(
                self.real("hidden", "B", "S", d.hidden),
                Tensor("position_ids", "int64", ("B", "S")),
                *(self.real(f"past_{name}", "B", d.kv_heads, "P", d.head_dim) for name in names),
            ),
            outputs=(
                head,
                *(self.real(f"present_{name}", "B", d.kv_heads, "T", d.head_dim) for name in names),
            ),
        )

    def prune_cut(self, method: Method, layer: int) -> GraphPlan:
        width = self.decoder.hidden
        return GraphPlan(
            name=f"prune_{method.name}_{layer}",
            role="prune",
            layers=None,
            part=lambda: self.model.cut(method.decoder_cut, layer, self.fused),
            inputs=(
                self.real("hidden", "B", "S", width),
                Tensor("position_ids", "int64", ("B", "S")),
                *(Tensor(name, "int64", ()) for name in SCALARS),
            ),
            outputs=(
                self.real("hidden_out", "B", "R", width),
                Tensor("position_ids_out", "int64", ("B", "R")),
                Tensor("kept", "int64", ("B", "K")),
            ),
        )
