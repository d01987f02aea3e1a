"""The graphs of a bundle, run in order: one prompt through all of them, then one token at a time.

The rules it follows are the section "Running" of the bundle's specification. It knows roles and names, no method
and no family: what a prune graph needs it finds in the manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.budget.schedule import Schedule
from edgeprune.bundle.manifest import Cut, Graph, MethodEntry, Place
from edgeprune.bundle.store import Bundle
from edgeprune.errors import BundleError
from edgeprune.runtime.backend import NUMPY, Array, Backend, Session
from edgeprune.runtime.cache import Cache, SegmentCache, cache_names
from edgeprune.runtime.samplers import SAMPLERS


@dataclass(frozen=True)
class StageResult:
    """What one cut did.

    Attributes:
        cut: where, as in the manifest.
        tokens_in, tokens_out: visual rows before and after.
        merged: how many of the last rows out are merged ones.
        kept: [B, tokens_out] int64 patch indices of the original grid, -1 for the class row.
    """

    cut: Place | int
    tokens_in: int
    tokens_out: int
    merged: int
    kept: NDArray[np.int64]


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
        before, after: around the image.
        question: the user's question alone, which lies in one of them.
        clip_ids: the same for CLIP's text tower, for methods that read it.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
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

    def encode(self, pixel_values: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The outputs of the vision graph for [B, 3, h, w], by name.

        Raises:
            BackendError: the graph failed.
        """
        graph = self.manifest.by_role("vision")[0]
        outputs = self.run_graph(graph, {"pixel_values": self._real(pixel_values)}, Clock(), "vision")
        return {name: self.backend.numpy(value) for name, value in outputs.items()}

    def prefill(
        self,
        pixel_values: NDArray[np.float32],
        text: Text,
        method: MethodEntry | None,
        schedule: Schedule | None,
        clock: Clock,
        seed: int = 0,
    ) -> Prefill:
        """Run a prompt.

        Args:
            pixel_values: [B, 3, h, w].
            text: around the image.
            method, schedule: what to prune and how much; both None keep all.
            clock: takes the time of every graph.
            seed: for methods that draw at random.

        Raises:
            BackendError: a graph failed.
        """
        run = _Run(self, method, schedule, clock)
        run.scalar("seed", seed)
        run.arrays["pixel_values"] = self._real(pixel_values)
        origin = np.tile(np.arange(self.manifest.vision.tokens), (pixel_values.shape[0], 1))
        if run.prunes("encoder"):
            origin = run.cut("encoder", origin)
        else:
            run.graph(self.manifest.by_role("vision")[0])
        origin = run.cut("vision", origin)
        run.graph(self.manifest.by_role("project")[0])
        return self._read(run, origin, text)

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
            visual: [B, V, D] projected rows; with a schedule, as many as its stages on the encoder's rows leave.
            text, method, schedule, clock: as for ``prefill``.

        Raises:
            BackendError: a graph failed.
        """
        run = _Run(self, method, schedule, clock)
        run.arrays["visual"] = self._real(visual)
        run.scalar("seed", 0)
        return self._read(run, np.tile(np.arange(visual.shape[1]), (visual.shape[0], 1)), text)

    def _read(self, run: _Run, origin: NDArray[np.int64], text: Text) -> Prefill:
        """The part of a prompt after the projector; ``origin`` [B, V] are the patches that its rows came from."""
        rows = origin.shape[0]
        for name, ids in (("before", text.before), ("after", text.after), ("question", text.question)):
            run.arrays[name] = self._embed([ids] * rows)
        if text.clip_ids:
            run.arrays["text_ids"] = self.backend.array(np.array([text.clip_ids], dtype=np.int64))
        run.prepare()
        origin = run.cut("projected", origin)
        run.graph(self.manifest.by_role("assemble")[0])
        words = len(text.before) + len(text.after)
        prompt = words + origin.shape[1]
        run.arrays["position_ids"] = self.backend.array(np.tile(np.arange(prompt), (rows, 1)))
        run.scalar("span_start", len(text.before))
        caches = []
        for segment in self.manifest.by_role("segment"):
            assert segment.layers is not None  # the manifest checked it
            origin = run.cut(segment.layers[0], origin)
            cache = self._empty_cache(segment, rows)
            run.arrays.update(cache.arrays)
            cache.grow(run.graph(segment), words + origin.shape[1])
            caches.append(cache)
        repack = run.method is None or run.method.positions == "repack"
        logits = self.backend.numpy(run.arrays["logits"])[:, 0]
        return Prefill(logits, Cache(caches, prompt, 0, repack), tuple(run.stages))

    def decode(self, tokens: NDArray[np.int64], cache: Cache, clock: Clock) -> NDArray[np.float32]:
        """Feed one token per row [B]; returns the next logits [B, vocab] fp32 and grows the cache."""
        rows = tokens.shape[0]
        hidden = self._embed([[int(token)] for token in tokens])
        outputs: dict[str, Array] = {}
        for index, segment in enumerate(self.manifest.by_role("segment")):
            own = cache.segments[index]
            position = np.full((rows, 1), cache.position(index), dtype=np.int64)
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
    """The named arrays of one prompt on their way through the chain."""

    def __init__(self, chain: Chain, method: MethodEntry | None, schedule: Schedule | None, clock: Clock) -> None:
        self.chain, self.clock, self.method = chain, clock, method
        self.arrays: dict[str, Array] = {}
        self.stages: list[StageResult] = []
        self._cuts: dict[Place | int, Cut] = {cut.at: cut for cut in method.cuts} if method else {}
        self._counts = {stage.cut: stage for stage in schedule.stages} if schedule else {}

    def scalar(self, name: str, value: int) -> None:
        """Provide an int64 scalar."""
        self.arrays[name] = self.chain.backend.array(np.array(value, dtype=np.int64))

    def graph(self, graph: Graph) -> dict[str, Array]:
        """Run a graph; an output ``<x>_out`` replaces ``<x>``."""
        # A method's text tower is a model of its own: its time is no part of what choosing rows takes.
        reads_text = graph.role == "prepare" and any(tensor.name == "text_ids" for tensor in graph.inputs)
        stage = "text" if reads_text else _STAGE[graph.role]
        outputs = self.chain.run_graph(graph, self.arrays, self.clock, stage)
        self.arrays.update({name.removesuffix("_out"): value for name, value in outputs.items()})
        return outputs

    def prunes(self, at: Place | int) -> bool:
        """Whether the method has a cut there."""
        return at in self._cuts

    def prepare(self) -> None:
        """Run what the method wants to know of the projected rows and the text."""
        for name in self.method.prepare if self.method else ():
            self.graph(self.chain.manifest.graph(name))

    def cut(self, at: Place | int, visual: NDArray[np.int64]) -> NDArray[np.int64]:
        """Prune at a cut, if the method has one there.

        Args:
            at: where, as in the manifest.
            visual: [B, V] original patch index of every visual row.

        Returns:
            The same for the rows that are left.
        """
        if at not in self._cuts:
            return visual
        stage, cut = self._counts[at], self._cuts[at]
        self.scalar("span_length", visual.shape[1])
        self.scalar("keep", stage.keep)
        self.scalar("merge", stage.merge)
        if cut.kernel is not None:
            self._choose(cut, stage.keep)
        self.graph(self.chain.manifest.graph(cut.graph))
        kept = self.chain.backend.numpy(self.arrays["kept"])
        # Only the encoder's rows have the class row among them, and they are numbered as patches already.
        origin = kept if at in ("encoder", "vision") else np.take_along_axis(visual, kept, axis=1)
        self.stages.append(StageResult(at, visual.shape[1], stage.keep, stage.merge, origin))
        return origin

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
