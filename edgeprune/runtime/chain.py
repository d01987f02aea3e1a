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
from edgeprune.bundle.manifest import Graph, MethodEntry
from edgeprune.bundle.store import Bundle
from edgeprune.errors import BundleError
from edgeprune.runtime.backend import NUMPY, Array, Backend, Session
from edgeprune.runtime.cache import Cache, SegmentCache, cache_names


@dataclass(frozen=True)
class StageResult:
    """What one cut did.

    Attributes:
        cut: "vision" or a decoder layer.
        tokens_in, tokens_out: visual rows before and after.
        merged: how many of the last rows out are merged ones.
        kept: [B, tokens_out] int64 patch indices of the original grid, -1 for the class row.
    """

    cut: str | int
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


_STAGE = {"vision": "vision", "prune": "prune", "project": "project", "assemble": "prefill", "segment": "prefill"}


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
        heavy = [graph for graph in self.manifest.graphs if graph.role != "prune"]
        self._open(heavy)

    def open_method(self, method: MethodEntry) -> None:
        """Load a method's graphs, if they are not loaded yet."""
        self._open(self.manifest.graph(cut.graph) for cut in method.cuts)

    def close(self) -> None:
        """Free all graphs; the chain cannot run afterwards."""
        self._sessions.clear()

    def prefill(
        self,
        pixel_values: NDArray[np.float32],
        before: Sequence[int],
        after: Sequence[int],
        method: MethodEntry | None,
        schedule: Schedule | None,
        clock: Clock,
    ) -> Prefill:
        """Run a prompt.

        Args:
            pixel_values: [B, 3, h, w].
            before, after: token ids around the image.
            method, schedule: what to prune and how much; both None keep all.
            clock: takes the time of every graph.

        Raises:
            BackendError: a graph failed.
        """
        run = _Run(self, method, schedule, clock)
        run.arrays["pixel_values"] = self._real(pixel_values)
        run.graph(self.manifest.by_role("vision")[0])
        origin = np.tile(np.arange(self.manifest.vision.tokens), (pixel_values.shape[0], 1))
        origin = run.cut("vision", origin)
        run.graph(self.manifest.by_role("project")[0])
        return self._read(run, origin, before, after)

    def prefill_rows(
        self,
        visual: NDArray[Any],
        before: Sequence[int],
        after: Sequence[int],
        method: MethodEntry | None,
        schedule: Schedule | None,
        clock: Clock,
    ) -> Prefill:
        """Run a prompt whose visual rows are there already; as ``prefill`` from the projector on.

        Args:
            visual: [B, V, D] projected rows; with a schedule, as many as its first stage leaves.
            before, after, method, schedule, clock: as for ``prefill``.

        Raises:
            BackendError: a graph failed.
        """
        run = _Run(self, method, schedule, clock)
        run.arrays["visual"] = self._real(visual)
        return self._read(run, np.tile(np.arange(visual.shape[1]), (visual.shape[0], 1)), before, after)

    def _read(self, run: _Run, origin: NDArray[np.int64], before: Sequence[int], after: Sequence[int]) -> Prefill:
        """The decoder's part of a prompt; ``origin`` [B, V] are the patches that the projected rows came from."""
        rows = origin.shape[0]
        run.arrays["before"] = self._embed([before] * rows)
        run.arrays["after"] = self._embed([after] * rows)
        run.graph(self.manifest.by_role("assemble")[0])
        text = len(before) + len(after)
        prompt = text + origin.shape[1]
        run.arrays["position_ids"] = self.backend.array(np.tile(np.arange(prompt), (rows, 1)))
        run.scalar("span_start", len(before))
        caches = []
        for segment in self.manifest.by_role("segment"):
            assert segment.layers is not None  # the manifest checked it
            origin = run.cut(segment.layers[0], origin)
            cache = self._empty_cache(segment, rows)
            run.arrays.update(cache.arrays)
            cache.grow(run.graph(segment), text + origin.shape[1])
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
        self._graphs = {cut.at: cut.graph for cut in method.cuts} if method else {}
        self._counts = {stage.cut: stage for stage in schedule.stages} if schedule else {}

    def scalar(self, name: str, value: int) -> None:
        """Provide an int64 scalar."""
        self.arrays[name] = self.chain.backend.array(np.array(value, dtype=np.int64))

    def graph(self, graph: Graph) -> dict[str, Array]:
        """Run a graph; an output ``<x>_out`` replaces ``<x>``."""
        outputs = self.chain.run_graph(graph, self.arrays, self.clock, _STAGE[graph.role])
        self.arrays.update({name.removesuffix("_out"): value for name, value in outputs.items()})
        return outputs

    def cut(self, at: str | int, visual: NDArray[np.int64]) -> NDArray[np.int64]:
        """Prune at a cut, if the method has one there.

        Args:
            at: "vision" or a decoder layer.
            visual: [B, V] original patch index of every visual row.

        Returns:
            The same for the rows that are left.
        """
        if at not in self._graphs:
            return visual
        stage = self._counts[at]
        self.scalar("span_length", visual.shape[1])
        self.scalar("keep", stage.keep)
        self.scalar("merge", stage.merge)
        self.graph(self.chain.manifest.graph(self._graphs[at]))
        kept = self.chain.backend.numpy(self.arrays["kept"])
        origin = kept if at == "vision" else np.take_along_axis(visual, kept, axis=1)
        self.stages.append(StageResult(at, visual.shape[1], stage.keep, stage.merge, origin))
        return origin


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
