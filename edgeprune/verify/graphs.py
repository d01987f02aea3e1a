"""Each graph of a bundle alone, on the reference's own inputs, so that no graph is blamed for another's error.

A stage that prunes is held against the method's eager module, everything else against Hugging Face's modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.bundle.manifest import Graph
from edgeprune.bundle.store import Bundle
from edgeprune.errors import BackendError
from edgeprune.runtime.backend import NUMPY, Backend, Session
from edgeprune.verify.examination import Examination
from edgeprune.verify.reference import LayerCache, Reference
from edgeprune.verify.report import Check
from edgeprune.verify.sample import QUESTION, Budget, Sample, picture

Values = dict[str, torch.Tensor]
_ROUNDED = {"fp32": torch.float32, "fp16": torch.float16, "int64": torch.int64}


def check_graphs(
    bundle: Bundle,
    reference: Reference,
    backend: Backend,
    sample: Sample,
    budgets: Sequence[Budget],
    progress: Callable[[str], None],
) -> Iterator[Check]:
    """Check every graph, in order of execution.

    Args:
        bundle: opened.
        reference: the checkpoint.
        backend: what runs the graphs; one is loaded at a time.
        sample: picture and prompt.
        budgets: prune graphs are run at all of them.
        progress: told the name of every graph.
    """
    walk = _Walk(bundle, reference, backend, sample, budgets)
    for graph in bundle.manifest.graphs:
        progress(graph.name)
        yield walk.check(graph)


def check_inputs(reference: Reference, sample: Sample, dtype: str) -> Check:
    """Check that picture and prompt are what Hugging Face's processor makes of them."""
    examination = Examination("inputs", "inputs", dtype)
    expected = reference.eager.preprocess([picture()], QUESTION)
    placeholder = reference.eager.model.config.image_token_id
    ids = expected["input_ids"][0].numpy()
    text = np.array([*sample.before, *sample.after])
    examination.exact("token ids", ids[ids != placeholder], text)
    place = np.flatnonzero(ids == placeholder)[:1]
    examination.exact("place of the picture", place, np.array([len(sample.before)]))
    examination.tensor("pixel_values", expected["pixel_values"].numpy(), sample.pixel_values)
    return examination.done()


class _Walk:
    """The reference's values on their way through the unpruned chain, graph by graph."""

    def __init__(
        self,
        bundle: Bundle,
        reference: Reference,
        backend: Backend,
        sample: Sample,
        budgets: Sequence[Budget],
    ) -> None:
        self.bundle, self.reference, self.backend = bundle, reference, backend
        self.sample, self.budgets = sample, budgets
        self.values: Values = {"pixel_values": torch.from_numpy(sample.pixel_values)}
        self.cache = LayerCache()
        # A decode step follows each segment's prefill; any token does.
        token = torch.tensor([sample.after[-1]])
        self.step = reference.embed_tokens(token)

    def check(self, graph: Graph) -> Check:
        """Run a graph and compare; the reference's outputs become the next graph's inputs."""
        examination = Examination(graph.name, "graph", self.bundle.manifest.dtype)
        roles: dict[str, Callable[[Graph, Examination], None]] = {
            "vision": self.vision,
            "project": self.project,
            "assemble": self.assemble,
            "segment": self.segment,
            "prune": self.prune,
        }
        roles[graph.role](graph, examination)
        return examination.done()

    def vision(self, graph: Graph, examination: Examination) -> None:
        """Features and probes."""
        self.compare(graph, self.values, self.reference.vision(self.values["pixel_values"]), examination)

    def project(self, graph: Graph, examination: Examination) -> None:
        """The projector, on all patches."""
        self.compare(graph, self.values, {"visual": self.reference.eager.project(self.values["features"])}, examination)

    def assemble(self, graph: Graph, examination: Examination) -> None:
        """The decoder's input, with text rows from the bundle's embedding table."""
        self.values["before"] = torch.from_numpy(self.sample.embedded_before)
        self.values["after"] = torch.from_numpy(self.sample.embedded_after)
        hidden = self.reference.embed(self.sample.before, self.values["visual"], self.sample.after)
        self.compare(graph, self.values, {"hidden": hidden}, examination)
        rows, length = hidden.shape[:2]
        self.values["position_ids"] = torch.arange(length).expand(rows, -1)

    def segment(self, graph: Graph, examination: Examination) -> None:
        """Decoder layers, on the whole prompt with an empty cache, then on one more row with a full one."""
        assert graph.layers is not None  # the manifest checked it
        rows = self.values["hidden"].shape[0]
        empty = torch.zeros(rows, self.bundle.manifest.decoder.kv_heads, 0, self.bundle.manifest.decoder.head_dim)
        past = {tensor.name: empty for tensor in graph.inputs if tensor.name.startswith("past_")}
        session = self.load(graph, examination)
        position = torch.full((rows, 1), self.values["hidden"].shape[1])
        for suffix, hidden, positions in (
            ("", self.values["hidden"], self.values["position_ids"]),
            (" (decode)", self.step.expand(rows, -1, -1), position),
        ):
            out = self.reference.layers(*graph.layers, hidden, positions, self.cache)
            expected = self.cache.named(*graph.layers, "present")
            ends = graph.layers[1] == self.bundle.manifest.decoder.layers
            expected[graph.outputs[0].name] = self.reference.logits(out) if ends else out
            feeds = {"hidden": hidden, "position_ids": positions, **past}
            found = self.run(session, graph, feeds, examination)
            self.examine(graph, expected, found, examination, suffix)
            past = self.cache.named(*graph.layers, "past")
            if suffix:
                self.step = out
            else:
                self.values["hidden"] = out

    def prune(self, graph: Graph, examination: Examination) -> None:
        """A cut, at every budget of its method."""
        method, at = next(
            (entry, cut.at) for entry in self.bundle.manifest.methods for cut in entry.cuts if cut.graph == graph.name
        )
        module = self.reference.stage(method.name, at)
        session = self.load(graph, examination)
        scalars = {"span_start": len(self.sample.before), "span_length": self.bundle.manifest.vision.tokens}
        for budget in self.budgets:
            if budget.method is None or budget.method.name != method.name or budget.schedule is None:
                continue
            stage = next(stage for stage in budget.schedule.stages if stage.cut == at)
            scalars |= {"keep": stage.keep, "merge": stage.merge}
            feeds = {**self.values, **{name: torch.tensor(value) for name, value in scalars.items()}}
            # A cut must choose from the same numbers on both sides: what the graph's types leave of them.
            feeds = {tensor.name: feeds[tensor.name].to(_ROUNDED[tensor.dtype]) for tensor in graph.inputs}
            wide = (value.float() if value.is_floating_point() else value for value in feeds.values())
            expected = dict(zip((tensor.name for tensor in graph.outputs), module(*wide), strict=True))
            found = self.run(session, graph, feeds, examination)
            if found is not None:
                start = 0 if at == "vision" else scalars["span_start"]
                _examine_cut(expected, found, start, stage.keep, stage.merge, examination)

    def compare(self, graph: Graph, feeds: Values, expected: Values, examination: Examination) -> None:
        """Run a graph once and compare all of its outputs; the expected ones are the next graphs' inputs."""
        found = self.run(self.load(graph, examination), graph, feeds, examination)
        self.examine(graph, expected, found, examination, "")
        self.values.update(expected)

    def examine(
        self,
        graph: Graph,
        expected: Values,
        found: dict[str, NDArray[Any]] | None,
        examination: Examination,
        suffix: str,
    ) -> None:
        """Compare all outputs of a run, if it ran."""
        for tensor in graph.outputs if found is not None else ():
            assert found is not None
            examination.tensor(tensor.name + suffix, expected[tensor.name].numpy(), found[tensor.name])

    def load(self, graph: Graph, examination: Examination) -> Session | None:
        """A graph's session; None where the backend refuses it, which the examination then says."""
        try:
            return self.backend.session(graph, self.bundle.path(graph.file))
        except BackendError as error:
            examination.fail(str(error))
            return None

    def run(
        self, session: Session | None, graph: Graph, feeds: Values, examination: Examination
    ) -> dict[str, NDArray[Any]] | None:
        """Run a graph on reference values, cast to the types it takes; None where it cannot."""
        if session is None:
            return None
        arrays = {
            tensor.name: self.backend.array(feeds[tensor.name].numpy().astype(NUMPY[tensor.dtype]))
            for tensor in graph.inputs
        }
        try:
            outputs = session.run(arrays)
        except BackendError as error:
            examination.fail(str(error))
            return None
        return {name: self.backend.numpy(value) for name, value in outputs.items()}


def _examine_cut(
    expected: Values, found: dict[str, NDArray[Any]], start: int, keep: int, merge: int, examination: Examination
) -> None:
    """Compare what was kept, and the rows: all of them, or where the choice differs those that both selected."""
    ours, theirs = expected["kept"].numpy(), found["kept"]
    identical = examination.kept(f"kept (keep={keep})", ours, theirs, merge)
    for name, value in expected.items():
        label, rows = f"{name} (keep={keep})", value.numpy()
        if name == "kept":
            continue
        if rows.shape != found[name].shape or not value.is_floating_point():
            examination.exact(label, rows, found[name])
        elif identical:
            place = np.arange(rows.shape[1]) - start
            merged = (place >= keep - merge) & (place < keep)
            examination.tensor(label, rows[:, ~merged], found[name][:, ~merged])
            examination.tensor(f"{label}, merged rows", rows[:, merged], found[name][:, merged], "merged")
        elif pairs := _common(ours[:, : keep - merge], theirs[:, : keep - merge]):
            examination.note(f"{label}: other rows kept; compared the {len(pairs)} that both selected")
            row, left, right = np.array(pairs).T
            examination.tensor(label, rows[row, left + start], found[name][row, right + start])


def _common(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Places of the rows that two choices share: (batch row, place in ours, place in theirs)."""
    return [
        (row, place, found[index])
        for row, (left, right) in enumerate(zip(ours.tolist(), theirs.tolist(), strict=True))
        for found in ({index: place for place, index in enumerate(right)},)
        for place, index in enumerate(left)
        if index in found
    ]
