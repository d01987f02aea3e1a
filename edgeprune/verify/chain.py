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

from edgeprune.bundle.manifest import Manifest, Place, spell_place
from edgeprune.bundle.store import Bundle
from edgeprune.errors import BackendError
from edgeprune.runtime.backend import Backend
from edgeprune.runtime.chain import Chain, Clock, Prefill
from edgeprune.runtime.samplers import SAMPLERS
from edgeprune.verify.examination import Examination
from edgeprune.verify.reference import LayerCache, Reference, Values, call
from edgeprune.verify.report import Check
from edgeprune.verify.sample import SEED, Budget, Sample, certainty

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
    prefill = chain.prefill(sample.pixel_values, sample.text, method, trace.budget.schedule, Clock(), SEED)
    sure = 1.0 if method is None else certainty(chain.manifest, method, trace.budget.schedule)
    if _examine_kept(prefill, trace, sure, examination):
        logits = [prefill.logits]
        for name, value in _cache(chain, prefill).items():
            examination.tensor(name, trace.cache[name], value)
        logits += [chain.decode(tokens, prefill.cache, Clock()) for tokens in trace.tokens[:-1]]
        examination.tensor("logits", np.stack(trace.logits), np.stack(logits))
        examination.tokens(trace.tokens, np.stack([x.argmax(axis=1) for x in logits]))


def _examine_kept(prefill: Prefill, trace: Trace, sure: float, examination: Examination) -> bool:
    """Compare the choices of every stage; whether all are the same, so that the numbers after them can be compared."""
    for stage, expected in zip(prefill.stages, trace.kept, strict=True):
        if not examination.kept(f"kept {spell_place(stage.cut)}", expected, stage.kept, stage.merged, sure):
            examination.note(
                f"nothing compared after the cut {spell_place(stage.cut)}: it keeps other rows, "
                "which is no error within the limit"
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
        logits, self._cache = eager.prefill(self._reference.embed(sample.text.before, visual, sample.text.after))
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
        self._reference, self._manifest, self._method = reference, manifest, budget.method
        self._stages = {stage.cut: stage for stage in budget.schedule.stages}
        self._cuts = {cut.at: cut for cut in budget.method.cuts}
        self._segments = [graph.layers for graph in manifest.by_role("segment") if graph.layers is not None]
        self._values: Values = {"seed": torch.tensor(SEED)}
        self._cache = LayerCache()
        self._prompt = self._generated = 0

    def prefill(self, pixel_values: torch.Tensor, sample: Sample) -> torch.Tensor:
        """Run the prompt: [B, vocab]."""
        values, reference = self._values, self._reference
        values["pixel_values"] = pixel_values
        probes = [tensor.name for tensor in self._manifest.by_role("vision")[0].outputs[1:]]
        values |= reference.vision(pixel_values, probes)
        visual = np.tile(np.arange(self._manifest.vision.tokens), (pixel_values.shape[0], 1))
        visual = self._cut("vision", self._cut("encoder", visual))
        values["visual"] = reference.eager.project(values["features"])
        values |= {
            "after": torch.from_numpy(sample.embedded_after),
            "question": torch.from_numpy(sample.embedded_question),
            "text_ids": torch.tensor([sample.text.clip_ids]),
        }
        for name in self._method.prepare:
            values |= call(reference.module(self._method.name, "prepare"), self._manifest.graph(name), values)
        visual = self._cut("projected", visual)
        values["hidden"] = reference.embed(sample.text.before, values["visual"], sample.text.after)
        values["span_start"] = torch.tensor(len(sample.text.before))
        self._prompt = values["hidden"].shape[1]
        values["position_ids"] = torch.arange(self._prompt).expand(values["hidden"].shape[0], -1)
        for first, last in self._segments:
            visual = self._cut(first, visual)
            values["hidden"] = reference.layers(first, last, values["hidden"], values["position_ids"], self._cache)
            values |= {f"query_{last - 1}": reference.query, **self._cache.named(first, last, "present")}
        return reference.logits(values["hidden"])[:, 0]

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
        return self._cache.named(0, self._manifest.decoder.layers, "past")

    def _cut(self, at: Place | int, visual: NDArray[np.int64]) -> NDArray[np.int64]:
        """Prune at a cut, if there is one; ``visual`` [B, V] are the patches of the visual rows."""
        if at not in self._cuts:
            return visual
        values, stage, cut, name = self._values, self._stages[at], self._cuts[at], self._method.name
        counts = {"span_length": visual.shape[1], "keep": stage.keep, "merge": stage.merge}
        values |= {key: torch.tensor(value) for key, value in counts.items()}
        if cut.kernel is not None and cut.sampler is not None:
            outputs = call(self._reference.module(name, "kernel"), self._manifest.graph(cut.kernel), values)
            read = {key: value.numpy() for key, value in outputs.items()}
            values["chosen"] = torch.from_numpy(SAMPLERS[cut.sampler](read, stage.keep))
        outputs = call(self._reference.module(name, at), self._manifest.graph(cut.graph), values)
        values |= {key.removesuffix("_out"): value for key, value in outputs.items()}
        kept: NDArray[np.int64] = values["kept"].numpy()
        origin = kept if at in ("encoder", "vision") else np.take_along_axis(visual, kept, axis=1)
        self.kept.append(origin)
        return origin
