"""The graphs of a bundle, run in order: one prompt through all of them, then one token at a time.

The rules it follows are the section "Running" of the bundle's specification. It knows roles and names, no method
and no family: what a prune graph needs it finds in the manifest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.budget.schedule import Schedule
from edgeprune.bundle.manifest import Cut, Graph, MethodEntry, Place
from edgeprune.bundle.store import Bundle
from edgeprune.errors import BundleError, QuestionError
from edgeprune.runtime.assembly import Assembly, assemble, positions
from edgeprune.runtime.backend import NUMPY, Array, Backend, Session
from edgeprune.runtime.cache import Cache, SegmentCache, cache_names
from edgeprune.runtime.chunks import run_chunks
from edgeprune.runtime.layout import Rows, pruned, whole
from edgeprune.runtime.pixels import Pixels
from edgeprune.runtime.samplers import SAMPLERS


@dataclass(frozen=True)
class StageResult:
    """What one cut did.

    Attributes:
        cut: where, as in the manifest.
        tokens_in, tokens_out: visual rows before and after, of all pictures of a prompt.
        kept: [B, tokens_out] int64, where the rows come from: ``run * N + patch``, see ``runtime.layout``.
        merged: [B, tokens_out] bool, which of them are merged by this cut.
    """

    cut: Place | int
    tokens_in: int
    tokens_out: int
    kept: NDArray[np.int64]
    merged: NDArray[np.bool_]


@dataclass(frozen=True)
class Prefill:
    """A prompt after all graphs: the last row's logits [B, vocab] fp32, the caches, and what was kept."""

    logits: NDArray[np.float32]
    cache: Cache
    stages: tuple[StageResult, ...]


class Clock:
    """Seconds inside graphs: ``seconds`` per stage of the chain, ``graphs`` per graph."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.graphs: dict[str, float] = {}

    def add(self, stage: str, graph: str, seconds: float) -> None:
        """Book the run of a graph."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self.graphs[graph] = self.graphs.get(graph, 0.0) + seconds


@dataclass(frozen=True)
class Text:
    """The text of a prompt, as token ids.

    Attributes:
        parts: around the pictures, one more than there are.
        question: the user's question alone, which lies in some of them.
        clip_ids: the same for CLIP's text tower, for methods that read it.
    """

    parts: tuple[tuple[int, ...], ...]
    question: tuple[int, ...] = ()
    clip_ids: tuple[int, ...] = ()


_STAGE = {
    "vision": "vision",
    "encoder": "vision",
    "kernel": "prune",
    "prune": "prune",
    "prepare": "prune",
    "project": "project",
    "assemble": "prefill",
    "segment": "prefill",
}
_OF_METHODS = ("encoder", "kernel", "prune", "prepare")


class Chain:
    """The loaded graphs of a bundle.

    Args:
        bundle: where they are.
        backend: what runs them.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.manifest, self.backend, self._bundle = bundle.manifest, backend, bundle
        self._sessions: dict[str, Session] = {}
        self._embedding = _open_embedding(bundle)
        self._open(graph for graph in self.manifest.graphs if graph.role not in _OF_METHODS)

    def open_method(self, method: MethodEntry) -> None:
        """Load a method's graphs, if they are not loaded yet."""
        self._open(self.manifest.graph(name) for name in method.graphs)

    def close(self) -> None:
        """Free all graphs; the chain cannot run afterwards."""
        self._sessions.clear()

    def encode(self, pixels: Pixels) -> dict[str, NDArray[Any]]:
        """The outputs of the vision graph for prepared pictures, by name.

        Raises:
            BackendError: the graph failed.
        """
        graph = self.manifest.by_role("vision")[0]
        outputs = self.run_graph(graph, self._feed(pixels), Clock(), "vision")
        return {name: self.backend.numpy(value) for name, value in outputs.items()}

    def prefill(
        self,
        pixels: Pixels,
        text: Text,
        method: MethodEntry | None,
        schedule: Schedule | None,
        clock: Clock,
        seed: int = 0,
    ) -> Prefill:
        """Run a prompt.

        Args:
            pixels: its pictures, or those of several prompts with the same text.
            text: around the pictures.
            method, schedule: what to prune and how much; both None keep all.
            clock: takes the time of every graph.
            seed: for methods that draw at random.

        Raises:
            BackendError: a graph failed.
        """
        run = _Run(self, method, schedule, clock)
        run.arrays.update(self._feed(pixels))
        run.scalar("seed", seed)
        run.scalar("runs", pixels.runs)
        run.arrays["question"] = self._embed([text.question])
        if text.clip_ids:
            run.arrays["text_ids"] = self.backend.array(np.array([text.clip_ids], dtype=np.int64))
        if run.early == "encoder":
            run.choose("encoder")
        else:
            run.graph(self.manifest.by_role("vision")[0])
            run.choose("vision")
        run.graph(self.manifest.by_role("project")[0])
        run.prepare(late=False)
        run.choose("projected")
        of_run = self._tokens(pixels) if run.kept is None else run.kept.shape[1]
        return self._read(run, self._place(run, pixels), (pixels.runs, of_run), text, pixels)

    def prefill_rows(
        self,
        visual: NDArray[Any],
        text: Text,
        method: MethodEntry | None,
        schedule: Schedule | None,
        clock: Clock,
    ) -> Prefill:
        """Run a prompt whose visual rows are there already; as ``prefill`` after the projector.

        Args:
            visual: [B, V, D] projected rows of one picture; with a schedule, as many as its stage before the decoder
                leaves.
            text, method, schedule, clock: as for ``prefill``.

        Raises:
            BackendError: a graph failed.
        """
        run = _Run(self, method, schedule, clock)
        run.arrays["visual"] = self._real(visual)
        run.scalar("seed", 0)
        count = np.arange(visual.shape[1])
        rows = [Rows(count[:, None], None, count)]
        return self._read(run, [rows] * visual.shape[0], (1, visual.shape[1]), text, None)

    def _place(self, run: _Run, pixels: Pixels) -> list[list[Rows]]:
        """Per prompt and picture, which rows enter the decoder, and in which order."""
        vision, layout = self.manifest.vision, self.manifest.layout
        if run.kept is None:
            return [whole(layout, vision, pixels.pictures)] * pixels.prompts
        assert run.method is not None  # it has cut
        of_prompts = run.kept.reshape(pixels.prompts, -1, run.kept.shape[1])
        return [pruned(run.method.order, vision, pixels.pictures, kept, run.merged) for kept in of_prompts]

    def _tokens(self, pixels: Pixels) -> int:
        """Visual tokens of one run."""
        grids = (picture.grid for picture in pixels.pictures)
        return self.manifest.vision.tokens or sum(math.prod(grid) for grid in grids if grid is not None)

    def _read(
        self,
        run: _Run,
        placed: list[list[Rows]],
        sizes: tuple[int, int],
        text: Text,
        pixels: Pixels | None,
    ) -> Prefill:
        """The part of a prompt after the projector; ``sizes`` are runs of one prompt and rows of one run."""
        words = sum(map(len, text.parts))
        runs, rows = sizes
        laid = assemble(text.parts, placed, len(placed) * runs * rows, self.manifest.layout.taps > 1)
        run.arrays["text"] = self._embed([sum(text.parts, ())] * len(placed))
        run.arrays["order"] = self.backend.array(laid.order)
        if laid.weight is not None:
            run.arrays["weight"] = self._real(laid.weight)
        run.graph(self.manifest.by_role("assemble")[0])
        run.arrays["visual_rows"] = self.backend.array(laid.visual_rows)
        run.scalar("text_after", len(text.parts[-1]))
        ids, following = self._positions(laid, text, pixels)
        run.arrays["position_ids"] = self.backend.array(ids)
        run.enter(laid.origin, laid.merged(run.merged, rows))
        run.prepare(late=True)
        caches = []
        for segment in self.manifest.by_role("segment"):
            assert segment.layers is not None  # the manifest checked it
            run.cut(segment.layers[0])
            caches.append(self._empty_cache(segment, len(placed)))
            run.segment(segment, caches[-1], words + run.rows)
        keeps = self.manifest.decoder.axes > 1 or (run.method is not None and run.method.positions == "keep")
        logits = self.backend.numpy(run.arrays["logits"])[:, 0]
        return Prefill(logits, Cache(caches, following, 0, not keeps), tuple(run.stages))

    def _positions(self, laid: Assembly, text: Text, pixels: Pixels | None) -> tuple[NDArray[np.int64], int]:
        """Positions [B, S], or [3, B, S], of a prompt's rows before any cut, and that of what follows them."""
        ids, following = positions(self.manifest, laid, text.parts, pixels)
        context = self.manifest.decoder.context
        if self.manifest.decoder.axes > 1 and following > context:  # a long video's time runs ahead of its tokens
            raise QuestionError(
                f"the prompt reaches position {following}, above the model's context of {context}: take a shorter video"
            )
        return ids, following

    def decode(self, tokens: NDArray[np.int64], cache: Cache, clock: Clock) -> NDArray[np.float32]:
        """Feed one token per row [B]; returns the next logits [B, vocab] fp32 and grows the cache."""
        rows = tokens.shape[0]
        hidden = self._embed([[int(token)] for token in tokens])
        axes = (3,) if self.manifest.decoder.axes == 3 else ()
        outputs: dict[str, Array] = {}
        for index, segment in enumerate(self.manifest.by_role("segment")):
            own = cache.segments[index]
            position = np.full((*axes, rows, 1), cache.position(index), dtype=np.int64)
            feeds = {"hidden": hidden, "position_ids": self.backend.array(position), **own.arrays}
            outputs = self.run_graph(segment, feeds, clock, "decode")
            own.grow(outputs, 1)
            hidden = outputs.get("hidden_out")
        cache.generated += 1
        start = perf_counter()
        logits = self.backend.numpy(outputs["logits"])[:, 0]
        clock.add("decode", segment.name, perf_counter() - start)  # on a GPU all segments are waited for here
        return logits

    def run_graph(self, graph: Graph, arrays: dict[str, Array], clock: Clock, stage: str) -> dict[str, Array]:
        """Run one graph on the arrays of its inputs' names.

        Waits for it, so that its time is its own; but not while decoding, where one step's graphs overlap.
        """
        feeds = {tensor.name: arrays[tensor.name] for tensor in graph.inputs}
        start = perf_counter()
        outputs = self._sessions[graph.name].run(feeds)
        if stage != "decode":
            self.backend.wait()
        clock.add(stage, graph.name, perf_counter() - start)
        return outputs

    def _open(self, graphs: Iterable[Graph]) -> None:
        for graph in graphs:
            if graph.name not in self._sessions:
                self._sessions[graph.name] = self.backend.session(graph, self._bundle.path(graph.file))

    def _feed(self, pixels: Pixels) -> dict[str, Array]:
        """The vision graph's inputs: pixels in the bundle's element type, tables as they are."""
        return {
            name: self.backend.array(value) if value.dtype == np.int64 else self._real(value)
            for name, value in pixels.feeds.items()
        }

    def _embed(self, token_ids: Sequence[Sequence[int]]) -> Array:
        """Rows of the embedding table: [B, n] token ids to [B, n, D]."""
        ids = np.asarray(token_ids, dtype=np.int64).reshape(len(token_ids), -1)
        return self._real(self._embedding[ids])

    def _real(self, value: NDArray[Any]) -> Array:
        """An array in the bundle's element type."""
        return self.backend.array(np.asarray(value, dtype=NUMPY[self.manifest.dtype]))

    def _empty_cache(self, segment: Graph, rows: int) -> SegmentCache:
        decoder = self.manifest.decoder
        shape = (rows, decoder.kv_heads, 0, decoder.head_dim)
        names = cache_names(segment)
        return SegmentCache({name: self._real(np.zeros(shape, dtype=np.float32)) for name in names}, 0)


class _Run:
    """The named arrays of one prompt on their way through the chain.

    Attributes:
        kept: [C, K] int64, what the cut before the decoder kept of every run; None where there was none.
        merged: how many of the K rows are merged ones, the last ones.
        origin: [B, V] int64, where the visual rows in the decoder come from.
    """

    def __init__(self, chain: Chain, method: MethodEntry | None, schedule: Schedule | None, clock: Clock) -> None:
        self.chain, self.clock, self.method = chain, clock, method
        self.arrays: dict[str, Array] = {}
        self.stages: list[StageResult] = []
        self.kept: NDArray[np.int64] | None = None
        self.merged = 0
        self.origin = np.empty((0, 0), np.int64)
        self._tokens = schedule.tokens if schedule else 0
        self._cuts: dict[Place | int, Cut] = {cut.at: cut for cut in method.cuts} if method else {}
        self._counts = {stage.cut: stage for stage in schedule.stages} if schedule else {}

    @property
    def early(self) -> Place | int | None:
        """Where the method cuts before the decoder."""
        cut = self.method.early if self.method else None
        return cut.at if cut else None

    @property
    def rows(self) -> int:
        """Visual rows of one prompt, now."""
        return int(self.origin.shape[1])

    def scalar(self, name: str, value: int) -> None:
        """Provide an int64 scalar."""
        self.arrays[name] = self.chain.backend.array(np.array(value, dtype=np.int64))

    def graph(self, graph: Graph) -> dict[str, Array]:
        """Run a graph, and keep its outputs."""
        # A method's text tower is a model of its own: its time is no part of what choosing rows takes.
        reads_text = graph.role == "prepare" and any(tensor.name == "text_ids" for tensor in graph.inputs)
        stage = "text" if reads_text else _STAGE[graph.role]
        outputs = self.chain.run_graph(graph, self.arrays, self.clock, stage)
        self.take(outputs)
        return outputs

    def take(self, outputs: dict[str, Array]) -> None:
        """Keep the outputs of a graph for those after it; ``<x>_out`` replaces ``<x>``."""
        self.arrays.update({name.removesuffix("_out"): value for name, value in outputs.items()})

    def segment(self, graph: Graph, cache: SegmentCache, rows: int) -> None:
        """Run a segment on a prompt of so many rows; fills its cache."""

        def once(arrays: dict[str, Array]) -> dict[str, Array]:
            return self.chain.run_graph(graph, arrays, self.clock, "prefill")

        self.take(run_chunks(graph, self.arrays, cache, rows, self.chain.backend, once))

    def prepare(self, late: bool) -> None:
        """Run what the method wants to know, of the assembled prompt or before it is."""
        for graph in self.chain.manifest.prepares(self.method, late):
            self.graph(graph)

    def choose(self, at: Place) -> None:
        """Prune every run at a place before the decoder, if the method does."""
        if at in self._cuts:
            self._prune(at)
            self.kept, self.merged = self.chain.backend.numpy(self.arrays["kept"]), self._counts[at].merge

    def enter(self, origin: NDArray[np.int64], merged: NDArray[np.bool_]) -> None:
        """The visual rows [B, V] that enter the decoder: where they come from, and which are merged ones."""
        self.origin = origin
        if self.early is not None and self.early in self._counts:
            self.stages.append(StageResult(self.early, self._tokens, self.rows, origin, merged))

    def cut(self, at: int) -> None:
        """Prune before a layer of the decoder, if the method does."""
        if at not in self._cuts:
            return
        before, merge = self.rows, self._counts[at].merge
        self._prune(at)
        kept = self.chain.backend.numpy(self.arrays["kept"])
        self.origin = np.take_along_axis(self.origin, kept, axis=1)
        merged = np.broadcast_to(np.arange(self.rows) >= self.rows - merge, kept.shape)
        self.stages.append(StageResult(at, before, self.rows, self.origin, merged))

    def _prune(self, at: Place | int) -> None:
        stage, cut = self._counts[at], self._cuts[at]
        self.scalar("keep", stage.keep)
        self.scalar("merge", stage.merge)
        if cut.kernel is not None:
            self._choose(cut, stage.keep)
        self.graph(self.chain.manifest.graph(cut.graph))

    def _choose(self, cut: Cut, count: int) -> None:
        """Run a cut's kernel and choose rows by it on the host."""
        assert cut.kernel is not None  # the caller looked
        assert cut.sampler is not None  # the manifest checked it
        outputs = self.graph(self.chain.manifest.graph(cut.kernel))
        read = {name: self.chain.backend.numpy(value) for name, value in outputs.items()}
        start = perf_counter()
        chosen = SAMPLERS[cut.sampler](read, count)
        self.clock.add("prune", f"{cut.kernel} ({cut.sampler} on the host)", perf_counter() - start)
        self.arrays["chosen"] = self.chain.backend.array(chosen)


def _open_embedding(bundle: Bundle) -> NDArray[Any]:
    """The embedding table, mapped and not read."""
    path = bundle.path(bundle.manifest.embedding)
    decoder = bundle.manifest.decoder
    try:
        table: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, OverflowError) as error:
        raise BundleError(f"{path} is no numpy array file: {error}") from error
    if table.shape != (decoder.vocab, decoder.hidden) or table.dtype != NUMPY[bundle.manifest.dtype]:
        raise BundleError(
            f"{path} holds {table.dtype} {table.shape}; expected {NUMPY[bundle.manifest.dtype]} "
            f"{(decoder.vocab, decoder.hidden)}"
        )
    return table
