"""The graphs of one pruning method, planned from the names of its modules' arguments.

A module says what it reads by the names of its ``forward``'s arguments; this file knows which tensor each name is at
each place of the chain. It knows no method.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

from torch import nn

from edgeprune import catalog
from edgeprune.bundle.manifest import Cut, Dtype, MethodEntry, Role, Tensor
from edgeprune.catalog import Probe
from edgeprune.errors import EdgePruneError
from edgeprune.export.clip import Clip
from edgeprune.export.graph_plan import GraphPlan
from edgeprune.families.family import Family
from edgeprune.families.part import Part
from edgeprune.methods.method import Method

SCALARS = ("keep", "merge", "seed", "runs", "text_after")

Tensors = dict[str, Tensor]
Positions = Literal["repack", "keep"]


def pixel_tensors(model: Family, dtype: Dtype) -> tuple[Tensor, ...]:
    """The inputs of a vision graph."""
    return tuple(Tensor(name, dtype if kind == "real" else "int64", axes) for name, kind, axes in model.pixel_inputs)


def position_ids(model: Family, name: str, rows: str) -> Tensor:
    """Positions of a prompt's rows, on one axis or on three."""
    axes = model.decoder_facts.axes
    return Tensor(name, "int64", ("B", rows) if axes == 1 else (axes, "B", rows))


def probe_tensor(model: Family, probe: Probe, dtype: Dtype) -> Tensor:
    """An output of the scoring head, named after the layer it is read in."""
    facts, name = model.vision_facts, f"{probe.kind}_{probe.layer}"
    if probe.kind == "cls_feature":
        return Tensor(name, dtype, ("C", 1, facts.width))
    if probe.kind == "cls_attention":
        return Tensor(name, "fp32", ("C", facts.cells or "N"))
    keys = facts.cells + (facts.class_row != "none")
    return Tensor(name, "fp32", ("C", keys if facts.cells else "N", facts.head_dim))


class MethodPlanner:
    """Plans a method's graphs for one model.

    Args:
        model: the checkpoint.
        method: what prunes.
        dtype: element type of the graphs.
        fused: dialect.
        clip: the CLIP checkpoint beside the model's own, for methods that need one.
    """

    def __init__(self, model: Family, method: Method, dtype: Dtype, fused: bool, clip: Clip | None = None) -> None:
        self.model, self.method, self.dtype, self.fused, self.clip = model, method, dtype, fused, clip
        self.facts, self.decoder = model.vision_facts, model.decoder_facts
        self.cuts = method.cuts(self.decoder.layers, model.image().kind)

    @property
    def probes(self) -> dict[str, Probe]:
        """What the method's stages read of the encoder, by argument name."""
        found = self.method.probes(self.model.feature_layer)
        apart = self.facts.class_row == "apart"  # else there is no class row, or it is among the features
        return {name: probe for name, probe in found.items() if apart or probe.kind != "cls_feature"}

    @property
    def _positions(self) -> Positions:
        """Positions of several axes are gathered, whatever the method does with numbers in a row."""
        return "keep" if self.decoder.axes > 1 else self.method.positions

    @property
    def _rows(self) -> int | str:
        """Rows of the features of a run."""
        return self.facts.tokens or "N"

    @property
    def cuts_with_query(self) -> tuple[int, ...]:
        """The cuts that score with the queries of the layer before them."""
        reads = bool(self.cuts) and "query" in _arguments(self._cut_part(self.cuts[0]).module)
        return self.cuts if reads else ()

    @property
    def entry(self) -> MethodEntry:
        """What the manifest says about the method."""
        method = self.method
        cuts: list[Cut] = []
        if method.encoder is not None:
            cuts.append(Cut("encoder", self._name("encoder")))
        if method.vision is not None:
            cuts.append(self._early("vision"))
        if method.projected is not None:
            cuts.append(self._early("projected"))
        cuts += [Cut(layer, self._name(layer)) for layer in self.cuts]
        prepare = (self._name("prepare"),) if method.prepare is not None else ()
        order = catalog.card(method.name).order
        return MethodEntry(method.name, self._positions, order, prepare, tuple(cuts))

    def before_projector(self) -> list[GraphPlan]:
        """The method's own form of the encoder, or its stage on the encoder's rows."""
        method, width, graphs = self.method, self.facts.width, []
        if method.encoder is not None:
            make = method.encoder
            there = {tensor.name: tensor for tensor in pixel_tensors(self.model, self.dtype)}
            graphs.append(
                self._plan(
                    "encoder",
                    "encoder",
                    lambda: self.model.encoder(make, self.fused),
                    there,
                    (self._real("features", "C", "K", width), Tensor("kept", "int64", ("C", "K"))),
                )
            )
        if method.vision is not None:
            there = {"features": self._real("features", "C", self._rows, width), **self._probes(), **self._tables()}
            graphs += self._stage("vision", there, self._real("features_out", "C", "K", width))
        return graphs

    def after_projector(self) -> list[GraphPlan]:
        """The stage on projected rows, and what must run before it."""
        method, width, graphs = self.method, self.decoder.hidden, []
        there = {
            "visual": self._real("visual", "C", self._rows, width),
            "question": self._real("question", 1, "q", width),
        }
        if method.needs_clip:
            there["text_ids"] = Tensor("text_ids", "int64", (1, self._clip.config.text.length))
        if self._prepares(late=False):
            graphs.append(self._plan("prepare", "prepare", self._prepare, there, (self._prepared(),)))
            there[self._prepared().name] = self._prepared()
        if method.projected is not None:
            there |= {"features": self._real("features", "C", self._rows, self.facts.width), **self._probes()}
            there |= self._tables()
            graphs += self._stage("projected", there, self._real("visual_out", "C", "K", width))
        return graphs

    def after_assembly(self) -> list[GraphPlan]:
        """What runs once on the whole prompt."""
        if not self._prepares(late=True):
            return []
        return [self._plan("prepare", "prepare", self._prepare, self._prompt(), (self._prepared(),))]

    def cut(self, layer: int) -> GraphPlan:
        """The cut before a decoder layer."""
        d = self.decoder
        there = {
            **self._prompt(),
            "query": self._real(f"query_{layer - 1}", "B", d.heads, "S", d.head_dim),
            "key": self._real(f"present_key_{layer - 1}", "B", d.kv_heads, "S", d.head_dim),
            "value": self._real(f"present_value_{layer - 1}", "B", d.kv_heads, "S", d.head_dim),
        }
        if self.method.prepare is not None:
            there[self._prepared().name] = self._prepared()
        outputs = (
            self._real("hidden_out", "B", "R", d.hidden),
            position_ids(self.model, "position_ids_out", "R"),
            Tensor("visual_rows_out", "int64", ("B", "K")),
            Tensor("kept", "int64", ("B", "K")),
        )
        return self._plan(layer, "prune", lambda: self._cut_part(layer), there, outputs)

    def _stage(self, place: Literal["vision", "projected"], there: Tensors, rows: Tensor) -> list[GraphPlan]:
        """A stage before the decoder, and in front of it the kernel that the host chooses by."""
        graphs, facts = [], self.facts
        make = self.method.vision if place == "vision" else self.method.projected
        if self._early(place).kernel is not None:
            cells = facts.cells or "N"
            outputs = [Tensor("kernel", "fp32", ("C", cells, cells))]
            if self.method.sampler == "repulsion":
                outputs.append(Tensor("start", "fp32", ("C", cells)))
            graphs.append(self._plan("kernel", "kernel", self._kernel, there, tuple(outputs)))
            there = {**there, "chosen": Tensor("chosen", "int64", ("C", "K"))}
        assert make is not None  # callers look
        outputs = [rows, Tensor("kept", "int64", ("C", "K"))]
        graphs.append(self._plan(place, "prune", lambda: self._free(make(facts)), there, tuple(outputs)))
        return graphs

    def _early(self, place: Literal["vision", "projected"]) -> Cut:
        """A cut before the decoder; the kernel stands in front of the method's first."""
        first = "vision" if self.method.vision is not None else "projected"
        if self.method.sampler is None or place != first:
            return Cut(place, self._name(place))
        return Cut(place, self._name(place), self._name("kernel"), self.method.sampler)

    def _plan(
        self, kind: str | int, role: Role, part: Callable[[], Part], there: Tensors, outputs: tuple[Tensor, ...]
    ) -> GraphPlan:
        there = {**there, **{name: Tensor(name, "int64", ()) for name in SCALARS}}
        arguments = _arguments(part().module)
        if strangers := [name for name in arguments if name not in there]:
            raise EdgePruneError(
                f"method {self.method.name} reads {strangers[0]!r} at {kind!r}, where there is {', '.join(there)}"
            )
        inputs = tuple(there[name] for name in arguments)
        return GraphPlan(self._name(kind), role, None, part, inputs, outputs, structure=self.method.name)

    def _name(self, kind: str | int) -> str:
        stem = "vision" if kind == "encoder" else kind if kind in ("kernel", "prepare") else "prune"
        name = f"{stem}_{self.method.name}"
        return f"{name}_{kind}" if stem == "prune" else name

    def _real(self, name: str, *shape: int | str) -> Tensor:
        return Tensor(name, self.dtype, shape)

    def _probes(self) -> Tensors:
        return {name: probe_tensor(self.model, probe, self.dtype) for name, probe in self.probes.items()}

    def _tables(self) -> Tensors:
        """What the vision graph is told beside the pixels: where visual tokens stand, in pictures of native size."""
        return {tensor.name: tensor for tensor in pixel_tensors(self.model, self.dtype) if tensor.dtype == "int64"}

    def _prompt(self) -> Tensors:
        """The assembled prompt."""
        return {
            "hidden": self._real("hidden", "B", "S", self.decoder.hidden),
            "position_ids": position_ids(self.model, "position_ids", "S"),
            "visual_rows": Tensor("visual_rows", "int64", ("B", "V")),
        }

    def _prepares(self, late: bool) -> bool:
        """Whether the method has something that runs once, on the assembled prompt or before it is."""
        return self.method.prepare is not None and late == ("hidden" in _arguments(self._prepare().module))

    def _prepared(self) -> Tensor:
        """The output of the method's prepare graph, which its module declares."""
        module: Any = self._prepare().module
        name, dtype, shape = module.OUTPUT
        return Tensor(name, dtype, shape)

    @property
    def _clip(self) -> Clip:
        if self.clip is None:
            raise EdgePruneError(f"method {self.method.name} was planned without the CLIP checkpoint that it needs")
        return self.clip

    def _prepare(self) -> Part:
        make = self.method.prepare
        assert make is not None  # callers look
        return self._clip.part(make(self._clip.config, self.fused)) if self.method.needs_clip else self._free(make())

    def _kernel(self) -> Part:
        make = self.method.kernel
        assert make is not None  # a method with a sampler has one
        clip = self._clip if self.method.needs_clip else None
        return self._free(make(self.facts)) if clip is None else clip.part(make(self.facts, clip.config))

    def _free(self, module: nn.Module) -> Part:
        """A module without weights."""
        return Part(module, self.model.weights, str)

    def _cut_part(self, layer: int) -> Part:
        assert self.method.decoder_cut is not None  # a method with cuts has one
        make = self.method.decoder_cut

        def place(config: Any, fused: bool) -> nn.Module:
            return make(config, fused, self._positions)

        return self.model.cut(place, layer, self.fused)


def _arguments(module: nn.Module) -> tuple[str, ...]:
    return tuple(inspect.signature(module.forward).parameters)
