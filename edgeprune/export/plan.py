"""Which graphs a bundle gets, in order of execution, with the names and axes of all their tensors.

The plan is made before anything is traced or read, so that a mistake in it costs nothing. It knows the family's
parts, not how a module becomes ONNX; a method's own graphs are planned in ``method_plan``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from edgeprune.bundle.manifest import Dialect, Dtype, Tensor
from edgeprune.catalog import Probe
from edgeprune.export.assemble import assemble_part
from edgeprune.export.clip import Clip
from edgeprune.export.graph_plan import GraphPlan
from edgeprune.export.method_plan import MethodPlanner, pixel_tensors, position_ids, probe_tensor
from edgeprune.families.family import Family
from edgeprune.methods.method import Method


def plan_graphs(
    model: Family, methods: Sequence[Method], dtype: Dtype, dialect: Dialect, clip: Clip | None = None
) -> tuple[GraphPlan, ...]:
    """All graphs of a bundle; the decoder is cut at the union of the methods' cuts.

    Args:
        model: the checkpoint.
        methods: what prunes.
        dtype: element type of the graphs.
        dialect: their operators.
        clip: the CLIP checkpoint beside the model's own, for methods that need one.
    """
    fused, layers = dialect == "fused", model.decoder_facts.layers
    planner = _Planner(model, dtype, fused)
    own = [MethodPlanner(model, method, dtype, fused, clip) for method in methods]
    cuts = sorted({cut for planned in own for cut in planned.cuts})
    probes = dict.fromkeys(probe for planned in own for probe in planned.probes.values())
    queries = {cut for planned in own for cut in planned.cuts_with_query}
    graphs = [planner.vision(tuple(probes))]
    graphs += [graph for planned in own for graph in planned.before_projector()]
    graphs.append(planner.project())
    graphs += [graph for planned in own for graph in planned.after_projector()]
    graphs.append(planner.assemble())
    graphs += [graph for planned in own for graph in planned.after_assembly()]
    for first, last in pairwise((0, *cuts, layers)):
        graphs += [planned.cut(first) for planned in own if first in planned.cuts]
        graphs.append(planner.segment(first, last, last in queries))
    return tuple(graphs)


class _Planner:
    """Names and axes of every graph of one model."""

    def __init__(self, model: Family, dtype: Dtype, fused: bool) -> None:
        self.model, self.dtype, self.fused = model, dtype, fused
        self.decoder, self.facts = model.decoder_facts, model.vision_facts

    def real(self, name: str, *shape: int | str) -> Tensor:
        return Tensor(name, self.dtype, shape)

    def vision(self, probes: tuple[Probe, ...]) -> GraphPlan:
        pairs = tuple((probe.kind, probe.layer) for probe in probes)
        return GraphPlan(
            name="vision",
            role="vision",
            layers=None,
            part=lambda: self.model.vision(pairs, self.fused),
            inputs=pixel_tensors(self.model, self.dtype),
            outputs=(
                self.real("features", "C", self.facts.tokens or "N", self.facts.width),
                *(probe_tensor(self.model, probe, self.dtype) for probe in probes),
            ),
        )

    def project(self) -> GraphPlan:
        return GraphPlan(
            name="project",
            role="project",
            layers=None,
            part=self.model.project,
            inputs=(self.real("features", "C", "K", self.facts.width),),
            outputs=(self.real("visual", "C", "K", self.decoder.hidden),),
        )

    def assemble(self) -> GraphPlan:
        width, taps = self.decoder.hidden, self.model.layout.taps
        order = ("B", "S") if taps == 1 else ("B", "S", "J")
        return GraphPlan(
            name="assemble",
            role="assemble",
            layers=None,
            part=lambda: assemble_part(self.model),
            inputs=(
                self.real("text", "B", "t", width),
                self.real("visual", "C", "K", width),
                Tensor("order", "int64", order),
                *([] if taps == 1 else [self.real("weight", *order)]),
            ),
            outputs=(self.real("hidden", "B", "S", width),),
        )

    def segment(self, first: int, last: int, shows_query: bool) -> GraphPlan:
        d = self.decoder
        query = (self.real(f"query_{last - 1}", "B", d.heads, "S", d.head_dim),) if shows_query else ()
        names = [f"{kind}_{layer}" for layer in range(first, last) for kind in ("key", "value")]
        ends = last == d.layers
        head = Tensor("logits", "fp32", ("B", 1, d.vocab)) if ends else self.real("hidden_out", "B", "S", d.hidden)
        return GraphPlan(
            name=f"segment_{first}_{last}",
            role="segment",
            layers=(first, last),
            part=lambda: self.model.segment(first, last, self.fused, shows_query),
            inputs=(
                self.real("hidden", "B", "S", d.hidden),
                position_ids(self.model, "position_ids", "S"),
                *(self.real(f"past_{name}", "B", d.kv_heads, "P", d.head_dim) for name in names),
            ),
            outputs=(
                head,
                *(self.real(f"present_{name}", "B", d.kv_heads, "T", d.head_dim) for name in names),
                *query,
            ),
        )
