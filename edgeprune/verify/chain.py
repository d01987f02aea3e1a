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

from edgeprune.bundle.manifest import Cut, Manifest, spell_place
from edgeprune.bundle.store import Bundle
from edgeprune.errors import BackendError
from edgeprune.runtime.assembly import Assembly, assemble, place
from edgeprune.runtime.backend import Backend
from edgeprune.runtime.chain import Chain, Clock, Prefill
from edgeprune.runtime.layout import pruned
from edgeprune.runtime.samplers import SAMPLERS
from edgeprune.verify.examination import Examination
from edgeprune.verify.reference import LayerCache, Reference, Values, call, laid_out
from edgeprune.verify.report import Check
from edgeprune.verify.sample import NEW_TOKENS, SEED, Budget, Sample, certainty

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Trace:
    """What the reference computes at one budget.

    Attributes:
        sample: the prompt.
        budget: which.
        kept: per stage [B, K], composed to where the rows come from in the pictures.
        cache: keys and values after the prompt, by the names of the segments' inputs.
        logits: [B, vocab] of the prompt, then of every decode step.
        tokens: [NEW_TOKENS, B], the greedy ones.
    """

    sample: Sample
    budget: Budget
    kept: tuple[NDArray[np.int64], ...]
    cache: dict[str, Floats]
    logits: tuple[Floats, ...]
    tokens: NDArray[np.int64]


def record(reference: Reference, manifest: Manifest, sample: Sample, budget: Budget) -> Trace:
    """Run the reference at one budget."""
    run = _Whole(reference) if budget.method is None else _Staged(reference, manifest, budget)
    logits = [run.prefill(sample)]
    cache = {name: value.numpy().copy() for name, value in run.named().items()}
    tokens = [logits[0].argmax(dim=1)]
    while len(tokens) < NEW_TOKENS:
        logits.append(run.decode(tokens[-1]))
        tokens.append(logits[-1].argmax(dim=1))
    numbers = tuple(x.numpy() for x in logits)
    return Trace(sample, budget, tuple(run.kept), cache, numbers, torch.stack(tokens).numpy())


def check_chain(
    bundle: Bundle,
    backend: Backend,
    traces: Sequence[Trace],
    progress: Callable[[str], None],
) -> Iterator[Check]:
    """Check the chain at the budget of every trace.

    Args:
        bundle: opened.
        backend: what runs the graphs.
        traces: the reference's results.
        progress: told the name of every check.
    """
    chain: Chain | None = None
    for trace in traces:
        name = f"chain {trace.budget.label}" + (f" of {trace.sample.label}" if trace.sample.label else "")
        progress(name)
        examination = Examination(name, "pruned" if trace.budget.method else "chain", bundle.manifest.dtype)
        try:
            chain = chain or Chain(bundle, backend)
            _examine(chain, trace, examination)
        except BackendError as error:
            examination.fail(str(error))
        yield examination.done()


def _examine(chain: Chain, trace: Trace, examination: Examination) -> None:
    method, sample = trace.budget.method, trace.sample
    if method is not None:
        chain.open_method(method)
    prefill = chain.prefill(sample.pixels, sample.text, method, trace.budget.schedule, Clock(), SEED)
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
            within = "" if examination.failed else ", which is no error within the limit"
            examination.note(f"nothing compared after the cut {spell_place(stage.cut)}: it keeps other rows{within}")
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
        self._next = torch.empty(0)
        self._axes = False

    def prefill(self, sample: Sample) -> torch.Tensor:
        """Run the prompt: [B, vocab]."""
        eager = self._reference.eager
        inputs = self._reference.inputs(sample)
        positions = eager.positions(inputs)
        self._axes = positions is not None
        if positions is not None:
            self._next = positions.amax(dim=(0, 2), keepdim=True).expand(3, -1, 1) + 1
        embedded = eager.embed(inputs["input_ids"], eager.see(inputs).rows)
        logits, self._cache = eager.prefill(embedded, positions)
        return logits

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Run one token per row: [B, vocab]."""
        logits, self._cache = self._reference.eager.decode(tokens, self._cache, self._next if self._axes else None)
        self._next = self._next + 1
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
        self._following = self._generated = 0
        self._origin = np.empty((0, 0), np.int64)

    def prefill(self, sample: Sample) -> torch.Tensor:
        """Run the prompt: [B, vocab]."""
        values, reference = self._values, self._reference
        inputs = reference.inputs(sample)
        probes = [tensor.name for tensor in self._manifest.by_role("vision")[0].outputs[1:]]
        seen, found = reference.vision(inputs, probes)
        values |= {name: torch.from_numpy(value) for name, value in sample.pixels.feeds.items()}
        values |= {
            "features": seen.features,
            "visual": seen.projected,
            "question": torch.from_numpy(sample.question),
            "text_ids": torch.tensor([sample.text.clip_ids]),
            "runs": torch.tensor(sample.pixels.runs),
            "text_after": torch.tensor(len(sample.text.parts[-1])),
            **found,
        }
        early = self._method.early
        laid, rows = sample.laid, [seen.rows]
        if early is None:
            values["hidden"] = reference.eager.embed(inputs["input_ids"], seen.rows)
        else:
            laid, rows = self._chosen(early, sample)
            values["hidden"] = reference.embed(sample.text.parts, rows)
        values |= laid_out(laid)
        self._enter(laid, sample, reference.eager.positions(inputs))
        self._prepare(late=True)
        for first, last in self._segments:
            self._cut(first)
            values["hidden"] = reference.layers(first, last, values["hidden"], values["position_ids"], self._cache)
            values |= {f"query_{last - 1}": reference.query, **self._cache.named(first, last, "present")}
        return reference.logits(values["hidden"])[:, 0]

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Run one token per row: [B, vocab]."""
        hidden = self._reference.embed_tokens(tokens)
        axes = self._values["position_ids"].shape[:-1]
        repacks = self._method.positions == "repack" and len(axes) == 1
        for first, last in self._segments:
            position = self._cache.length(first) if repacks else self._following + self._generated
            positions = torch.full((*axes, 1), position)
            hidden = self._reference.layers(first, last, hidden, positions, self._cache)
        self._generated += 1
        return self._reference.logits(hidden)[:, 0]

    def named(self) -> dict[str, torch.Tensor]:
        """The cache by the names of the segments' inputs."""
        return self._cache.named(0, self._manifest.decoder.layers, "past")

    def _chosen(self, early: Cut, sample: Sample) -> tuple[Assembly, list[torch.Tensor]]:
        """Prune every run before the decoder: how the prompt is laid out then, and each picture's rows [V, D]."""
        values, vision = self._values, self._manifest.vision
        if early.at == "projected":
            self._prepare(late=False)
        self._prune(early)
        if early.at != "projected":
            values["visual"] = self._reference.eager.project(values["features"])
        kept, merge = values["kept"].numpy(), self._stages[early.at].merge
        placed = pruned(self._method.order, vision, sample.pixels.pictures, kept, merge)
        every = values["visual"].flatten(0, 1)
        laid = assemble(sample.text.parts, [placed], len(every), self._manifest.layout.taps > 1)
        return laid, [every[torch.from_numpy(rows.source[:, 0])] for rows in placed]

    def _enter(self, laid: Assembly, sample: Sample, counted: torch.Tensor | None) -> None:
        """Positions of the rows that enter the decoder, and where the visual ones come from."""
        self._origin = laid.origin
        if self._method.early is not None:
            self.kept.append(laid.origin)
        length = laid.order.shape[1]
        self._following = length
        positions = torch.arange(length)[None]
        if counted is not None:  # of the unpruned prompt: every row keeps its own
            ids, is_visual = counted.numpy()[:, 0], np.zeros(sample.laid.order.shape[1], bool)
            is_visual[sample.laid.visual_rows[0]] = True
            positions = torch.from_numpy(place(laid, ids[:, ~is_visual], ids[:, is_visual]))
            self._following = int(ids.max()) + 1
        self._values["position_ids"] = positions

    def _prepare(self, late: bool) -> None:
        for graph in self._manifest.prepares(self._method, late):
            self._values |= call(self._reference.module(self._method.name, "prepare"), graph, self._values)

    def _cut(self, at: int) -> None:
        """Prune before a layer, if there is a cut."""
        if at in self._cuts:
            self._prune(self._cuts[at])
            self._origin = np.take_along_axis(self._origin, self._values["kept"].numpy(), axis=1)
            self.kept.append(self._origin)

    def _prune(self, cut: Cut) -> None:
        values, stage, name = self._values, self._stages[cut.at], self._method.name
        values |= {"keep": torch.tensor(stage.keep), "merge": torch.tensor(stage.merge)}
        if cut.kernel is not None and cut.sampler is not None:
            outputs = call(self._reference.module(name, "kernel"), self._manifest.graph(cut.kernel), values)
            read = {key: value.numpy() for key, value in outputs.items()}
            values["chosen"] = torch.from_numpy(SAMPLERS[cut.sampler](read, stage.keep))
        outputs = call(self._reference.module(name, cut.at), self._manifest.graph(cut.graph), values)
        values |= {key.removesuffix("_out"): value for key, value in outputs.items()}
