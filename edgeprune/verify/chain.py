"""The whole chain against the checkpoint, from pixels to a few generated tokens, unpruned and at each budget.

Unpruned the reference is Hugging Face's own forward pass; pruned it is Hugging Face's layers with the methods'
eager modules between them, positions and caches kept as the bundle's specification says. Both sides are fed the
reference's tokens, so that one step's difference does not become the next one's history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.bundle.manifest import Manifest
from edgeprune.bundle.store import Bundle
from edgeprune.errors import BackendError
from edgeprune.runtime.backend import Backend
from edgeprune.runtime.chain import Chain, Clock, Prefill
from edgeprune.verify.examination import Examination
from edgeprune.verify.reference import LayerCache, Reference
from edgeprune.verify.report import Check
from edgeprune.verify.sample import Budget, Sample

STEPS = 16
"""Tokens generated, decode steps one less."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Trace:
    """What the reference computes at one budget.

    Attributes:
        budget: which.
        kept: per stage [B, K], composed to indices of the original patches.
        cache: keys and values after the prompt, by the names of the segments' inputs.
        logits: [B, vocab] of the prompt, then of every decode step.
        tokens: [STEPS, B], the greedy ones.
    """

    budget: Budget
    kept: tuple[NDArray[np.int64], ...]
    cache: dict[str, Floats]
    logits: tuple[Floats, ...]
    tokens: NDArray[np.int64]


def record(reference: Reference, manifest: Manifest, sample: Sample, budget: Budget) -> Trace:
    """Run the reference at one budget."""
    pixel_values = torch.from_numpy(sample.pixel_values)
    run = _Whole(reference) if budget.method is None else _Staged(reference, manifest, budget)
    logits = [run.prefill(pixel_values, sample)]
    cache = {name: value.numpy().copy() for name, value in run.named().items()}
    tokens = [logits[0].argmax(dim=1)]
    while len(tokens) < STEPS:
        logits.append(run.decode(tokens[-1]))
        tokens.append(logits[-1].argmax(dim=1))
    return Trace(budget, tuple(run.kept), cache, tuple(x.numpy() for x in logits), torch.stack(tokens).numpy())


def check_chain(
    bundle: Bundle,
    backend: Backend,
    sample: Sample,
    traces: Sequence[Trace],
    progress: Callable[[str], None],
) -> Iterator[Check]:
    """Check the chain at the budget of every trace.

    Args:
        bundle: opened.
        backend: what runs the graphs.
        sample: what the traces were recorded on.
        traces: the reference's results.
        progress: told the name of every check.
    """
    chain: Chain | None = None
    for trace in traces:
        name = f"chain {trace.budget.label}"
        progress(name)
        examination = Examination(name, "pruned" if trace.budget.method else "chain", bundle.manifest.dtype)
        try:
            chain = chain or Chain(bundle, backend)
            _examine(chain, sample, trace, examination)
        except BackendError as error:
            examination.fail(str(error))
        yield examination.done()


def _examine(chain: Chain, sample: Sample, trace: Trace, examination: Examination) -> None:
    method = trace.budget.method
    if method is not None:
        chain.open_method(method)
    prefill = chain.prefill(sample.pixel_values, sample.before, sample.after, method, trace.budget.schedule, Clock())
    if _examine_kept(prefill, trace, examination):
        logits = [prefill.logits]
        for name, value in _cache(chain, prefill).items():
            examination.tensor(name, trace.cache[name], value)
        logits += [chain.decode(tokens, prefill.cache, Clock()) for tokens in trace.tokens[:-1]]
        examination.tensor("logits", np.stack(trace.logits), np.stack(logits))
        examination.tokens(trace.tokens, np.stack([x.argmax(axis=1) for x in logits]))


def _examine_kept(prefill: Prefill, trace: Trace, examination: Examination) -> bool:
    """Compare the choices of every stage; whether all are the same, so that the numbers after them can be compared."""
    for stage, expected in zip(prefill.stages, trace.kept, strict=True):
        if not examination.kept(f"kept before {stage.cut}", expected, stage.kept, stage.merged):
            examination.note(
                f"nothing compared from cut {stage.cut} on: it keeps other rows, which is no error within the limit"
            )
            return False
    return True


def _cache(chain: Chain, prefill: Prefill) -> dict[str, Floats]:
    """Every segment's cache after the prompt, in order."""
    return {
        name: chain.backend.numpy(array) for segment in prefill.cache.segments for name, array in segment.arrays.items()
    }


class _Whole:
    """Hugging Face's model as it stands, unpruned."""

    def __init__(self, reference: Reference) -> None:
        self.kept: list[NDArray[np.int64]] = []
        self._reference, self._cache = reference, None

    def prefill(self, pixel_values: torch.Tensor, sample: Sample) -> torch.Tensor:
        """Run the prompt: [B, vocab]."""
        eager = self._reference.eager
        visual = eager.project(eager.vision(pixel_values))
        logits, self._cache = eager.prefill(self._reference.embed(sample.before, visual, sample.after))
        return logits

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Run one token per row: [B, vocab]."""
        logits, self._cache = self._reference.eager.decode(tokens, self._cache)
        return logits

    def named(self) -> dict[str, torch.Tensor]:
        """The cache by the names of the segments' inputs."""
        assert self._cache is not None  # after prefill
        return {
            f"past_{kind}_{index}": value
            for index, layer in enumerate(self._cache.layers)
            for kind, value in (("key", layer.keys), ("value", layer.values))
        }


class _Staged:
    """Hugging Face's layers, with a method's eager modules between them."""

    def __init__(self, reference: Reference, manifest: Manifest, budget: Budget) -> None:
        assert budget.method is not None and budget.schedule is not None  # the other class is for those
        self.kept: list[NDArray[np.int64]] = []
        self._reference, self._method, self._facts = reference, budget.method, manifest.decoder
        self._stages = {stage.cut: stage for stage in budget.schedule.stages}
        self._segments = [graph.layers for graph in manifest.by_role("segment") if graph.layers is not None]
        graph = next(manifest.graph(cut.graph) for cut in budget.method.cuts if cut.at == "vision")
        self._probes = [tensor.name for tensor in graph.inputs if tensor.shape]  # all but the scalars
        self._cache = LayerCache()
        self._prompt = self._generated = 0

    def prefill(self, pixel_values: torch.Tensor, sample: Sample) -> torch.Tensor:
        """Run the prompt: [B, vocab]."""
        encoded = self._reference.vision(pixel_values)
        rows, kept = self._module("vision")(*(encoded[name] for name in self._probes), *self._counts("vision"))
        self.kept.append(kept.numpy())
        hidden = self._reference.embed(sample.before, self._reference.eager.project(rows), sample.after)
        self._prompt = hidden.shape[1]
        positions = torch.arange(self._prompt).expand(hidden.shape[0], -1)
        for first, last in self._segments:
            if first in self._stages:
                visual = self.kept[-1]
                span = torch.tensor(len(sample.before)), torch.tensor(visual.shape[1])
                hidden, positions, kept = self._module(first)(hidden, positions, *span, *self._counts(first))
                self.kept.append(np.take_along_axis(visual, kept.numpy(), axis=1))
            hidden = self._reference.layers(first, last, hidden, positions, self._cache)
        return self._reference.logits(hidden)[:, 0]

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Run one token per row: [B, vocab]."""
        hidden = self._reference.embed_tokens(tokens)
        for first, last in self._segments:
            repacked = self._cache.length(first)
            position = repacked if self._method.positions == "repack" else self._prompt + self._generated
            positions = torch.full((hidden.shape[0], 1), position)
            hidden = self._reference.layers(first, last, hidden, positions, self._cache)
        self._generated += 1
        return self._reference.logits(hidden)[:, 0]

    def named(self) -> dict[str, torch.Tensor]:
        """The cache by the names of the segments' inputs."""
        return self._cache.named(0, self._facts.layers, "past")

    def _module(self, at: str | int) -> torch.nn.Module:
        return self._reference.stage(self._method.name, at)

    def _counts(self, at: str | int) -> tuple[torch.Tensor, torch.Tensor]:
        stage = self._stages[at]
        return torch.tensor(stage.keep), torch.tensor(stage.merge)
