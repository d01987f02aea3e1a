"""One request to a model, and what every graph of it takes: of the prompt, and of each step after it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from edgeprune import catalog
from edgeprune.budget.schedule import Schedule, Stage
from edgeprune.bundle.chunks import chunks
from edgeprune.bundle.manifest import Manifest
from edgeprune.catalog import Probe
from edgeprune.catalog.card import parse_probe
from edgeprune.errors import UsageError
from edgeprune.estimate.cost import Cost, GraphCost
from edgeprune.estimate.decoder import assemble_cost, segment_cost
from edgeprune.estimate.encoder import project_cost, vision_cost
from edgeprune.estimate.precision import Precision, precision
from edgeprune.estimate.pruning import Graphs, graphs_of
from edgeprune.estimate.shape import Shape
from edgeprune.estimate.station import Station

TAPS = 4
"""Rows of the encoder that one of the decoder is blended from where a picture or a frame is shrunk."""


@dataclass(frozen=True)
class Request:
    """What is asked of a model.

    Attributes:
        shape: the model.
        precision: of its weights and elements.
        before, after: text tokens around the pictures; none lie between them.
        method, schedule: what prunes and how much; both None keep all.
        edges: decoder layers before which a segment starts, rising, without 0 and the depth; empty means the
            method's own cuts. A bundle of several methods has the cuts of all.
        probes: outputs of the encoder's scoring head; None means the method's own.
        queries: those of ``edges`` in front of which a segment shows its queries; None means where the method reads
            them.
        chunk: rows of the prompt that a segment runs on at once, about; None for all of them.

    Raises:
        UsageError: a count below 0, a method without a schedule, a schedule of another model or method, or edges that
            do not rise or lack a cut.
    """

    shape: Shape
    precision: Precision
    before: int
    after: int
    method: str | None
    schedule: Schedule | None
    edges: tuple[int, ...] = ()
    probes: tuple[Probe, ...] | None = None
    queries: tuple[int, ...] | None = None
    chunk: int | None = None

    def __post_init__(self) -> None:
        if min(self.before, self.after) < 0:
            raise UsageError(f"{self.before} and {self.after} text tokens around the picture; expected 0 or more")
        if (self.method is None) != (self.schedule is None):
            raise UsageError("a method and its schedule come together, or neither")
        edges, depth = self.edges, self.shape.decoder.layers
        if list(edges) != sorted({*edges}) or not all(0 < edge < depth for edge in edges):
            raise UsageError(f"segments start before {list(edges)}; expected rising layers in 1..{depth - 1}")
        if self.schedule is not None and self.schedule.tokens != self.shape.tokens:
            raise UsageError(
                f"{self.shape.name} has {self.shape.tokens} visual tokens and the schedule is for "
                f"{self.schedule.tokens} of them"
            )
        for place in self.stages:
            runs = 1 if isinstance(place, int) else self.shape.runs
            if self.stages[place].runs != runs:
                raise UsageError(f"{self.shape.name} has {runs} runs at {place!r} and the schedule another number")
            if self.graphs.at(place) is None:
                raise UsageError(f"{self.method} does not prune at {place!r}, where the schedule has a stage")
        if edges and (missing := [cut for cut in self.cuts if cut not in edges]):
            raise UsageError(f"{self.method} cuts before layer {missing[0]}, where no segment starts: {list(edges)}")

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        before: int,
        after: int,
        method: str | None,
        schedule: Schedule | None,
        tokens: int | None = None,
        runs: int | None = None,
    ) -> Request:
        """A request to a bundle, with the segments, probes and queries that its graphs have.

        Args:
            manifest, before, after, method, schedule: as above.
            tokens, runs: as of ``Shape.of``.

        Raises:
            UsageError: as above.
        """
        probes = tuple(parse_probe(tensor.name) for tensor in manifest.by_role("vision")[0].outputs[1:])
        ends = {segment.layers[1]: segment.outputs[-1] for segment in manifest.by_role("segment") if segment.layers}
        queries = tuple(last for last, tensor in ends.items() if tensor.name == f"query_{last - 1}")
        shape, held = Shape.of(manifest, tokens, runs), precision(manifest.dtype)
        return cls(shape, held, before, after, method, schedule, edges_of(manifest), probes, queries)

    @property
    def text(self) -> int:
        """Text tokens of the prompt."""
        return self.before + self.after

    @property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        """Layers of every segment, half open."""
        return tuple(pairwise((0, *(self.edges or self.cuts), self.shape.decoder.layers)))

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows that each segment sees of the prompt: the lengths of its cache afterwards."""
        visual = self.shape.tokens if self.schedule is None else self.schedule.first
        found = []
        for first, _ in self.bounds:
            visual = self.stages[first].rows if first in self.stages else visual
            found.append(self.text + visual)
        return tuple(found)

    @property
    def stages(self) -> dict[str | int, Stage]:
        """The schedule's, by place."""
        return {stage.cut: stage for stage in self.schedule.stages} if self.schedule else {}

    @property
    def cuts(self) -> tuple[int, ...]:
        """The decoder layers before which the method prunes."""
        return tuple(cut for cut in self.stages if isinstance(cut, int))

    @property
    def graphs(self) -> Graphs:
        """What counts the method's own graphs."""
        return graphs_of(self.method) if self.method else Graphs()

    @property
    def heads(self) -> tuple[Probe, ...]:
        """Outputs of the encoder's scoring head: those of the bundle, or of the method."""
        if self.probes is not None:
            return self.probes
        own = catalog.card(self.method).probes_at(self.shape.vision.layers - 1) if self.method else {}
        apart = self.shape.vision.class_row == "apart"  # else there is no class row, or it is among the features
        return tuple(dict.fromkeys(probe for probe in own.values() if apart or probe.kind != "cls_feature"))

    def shows_query(self, last: int) -> bool:
        """Whether the segment up to a layer has its queries among its outputs."""
        if self.queries is not None:
            return last in self.queries
        return self.graphs.reads_query and last in self.cuts


def edges_of(manifest: Manifest) -> tuple[int, ...]:
    """Decoder layers before which a bundle's segments start, without 0."""
    return tuple(segment.layers[0] for segment in manifest.by_role("segment")[1:] if segment.layers)


def prompt_costs(request: Request) -> tuple[GraphCost, ...]:
    """Every graph of one prompt, in order of execution, a method's own graphs included.

    The encoder's runs go through it and the stages in front of the decoder side by side, each with its share of the
    budget.
    """
    return tuple(_Prompt(request).costs())


def step_costs(request: Request, step: int = 0) -> tuple[GraphCost, ...]:
    """Every graph of a decode step for one row; step 0 is the first, which finds the prompt alone in the cache."""
    shape, held = request.shape, request.precision
    return tuple(
        GraphCost(
            _segment_name(layers),
            "decode",
            segment_cost(shape.decoder, held, layers, 1, rows + step, request.shows_query(layers[1])),
        )
        for layers, rows in zip(request.bounds, request.rows, strict=True)
    )


def _segment_name(layers: tuple[int, int]) -> str:
    return f"segment_{layers[0]}_{layers[1]}"


class _Prompt:
    """A prompt on its way through the graphs; ``visual`` are the rows of all runs that are left."""

    def __init__(self, request: Request) -> None:
        self.request, self.shape, self.held = request, request.shape, request.precision
        self.graphs, self.stages = request.graphs, request.stages
        self.visual = request.shape.given
        self.found: list[GraphCost] = []

    def costs(self) -> list[GraphCost]:
        r = self.request
        if "encoder" in self.stages:
            self.prune("encoder", f"vision_{r.method}", "vision")
        else:
            self.add("vision", "vision", vision_cost(self.shape, self.held, r.heads))
        self.early("vision")
        self.add("project", "project", project_cost(self.shape, self.held, self.visual))
        self.prepare(late=False)
        self.early("projected")
        given, shape = self.visual, self.shape
        self.visual = shape.tokens if r.schedule is None else r.schedule.first
        rows = r.text + self.visual
        whole = r.schedule is None or isinstance(r.schedule.stages[0].cut, int)
        taps = (TAPS if whole and shape.shrinks else 1) if shape.blends else 0
        cost = assemble_cost(shape.decoder, self.held, r.text, given, rows, shape.newline, taps)
        self.add("assemble", "prefill", cost)
        self.prepare(late=True)
        for layers in r.bounds:
            if layers[0] in self.stages:
                self.prune(layers[0], f"prune_{r.method}_{layers[0]}", "prune")
            rows, shows = r.text + self.visual, r.shows_query(layers[1])
            pieces = chunks(rows, r.chunk)
            each = (segment_cost(shape.decoder, self.held, layers, len(own), own.start, shows) for own in pieces)
            self.add(_segment_name(layers), "prefill", sum(each, Cost()))
        return self.found

    def prepare(self, late: bool) -> None:
        """What runs once: on the question alone, or on the assembled prompt."""
        graphs = self.graphs
        if graphs.prepare is not None and late != graphs.reads_text:
            cost = graphs.prepare(self.station(self.visual, 0))
            self.add(f"prepare_{self.request.method}", "prune" if late else "text", cost)

    def early(self, place: str) -> None:
        """A stage in front of the decoder, with the kernel that chooses for it."""
        if place not in self.stages:
            return
        kernel, name = self.graphs.kernel, self.request.method
        if kernel is not None:
            stage = self.stages[place]
            self.add(f"kernel_{name}", "prune", kernel(self.station(stage.keep, stage.merge, stage.runs)))
        self.prune(place, f"prune_{name}_{place}", "prune")

    def prune(self, place: str | int, name: str, stage: str) -> None:
        """A graph after which there are fewer rows."""
        count = self.graphs.at(place)
        assert count is not None  # the request checked it
        own = self.stages[place]
        self.add(name, stage, count(self.station(own.keep, own.merge, own.runs)))
        self.visual = own.rows

    def station(self, keep: int, merge: int, runs: int = 1) -> Station:
        r = self.request
        return Station(self.shape, self.held, r.before, r.after, self.visual // runs, keep, merge, runs)

    def add(self, graph: str, stage: str, cost: Cost) -> None:
        self.found.append(GraphCost(graph, stage, cost))
