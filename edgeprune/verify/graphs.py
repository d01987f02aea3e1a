"""Each graph of a bundle alone, on the reference's own inputs, so that no graph is blamed for another's error.

A stage that prunes is held against the method's eager module, everything else against Hugging Face's modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.budget.schedule import Stage
from edgeprune.bundle.manifest import Cut, Graph, Manifest, MethodEntry
from edgeprune.bundle.store import Bundle
from edgeprune.eager.model import Inputs, pixel_values
from edgeprune.errors import BackendError
from edgeprune.runtime.backend import NUMPY, Backend, Session
from edgeprune.runtime.samplers import SAMPLERS
from edgeprune.verify.examination import Examination
from edgeprune.verify.reference import LayerCache, Reference, Values, call, laid_out
from edgeprune.verify.report import Check
from edgeprune.verify.sample import QUESTION, SEED, Budget, Sample, certainty

_ROUNDED = {"fp32": torch.float32, "fp16": torch.float16, "int64": torch.int64}


def check_graphs(
    bundle: Bundle,
    reference: Reference,
    backend: Backend,
    sample: Sample,
    budgets: Sequence[Budget],
    progress: Callable[[str], None],
) -> Iterator[Check]:
    """Check every graph, in order of execution; those of methods without a budget are left out.

    Args:
        bundle: opened.
        reference: the checkpoint.
        backend: what runs the graphs; one is loaded at a time.
        sample: pictures and prompt.
        budgets: prune graphs are run at all of them.
        progress: told the name of every graph.
    """
    walk = _Walk(bundle, reference, backend, sample, budgets)
    asked = {budget.method.name for budget in budgets if budget.method is not None}
    others = {name for method in bundle.manifest.methods if method.name not in asked for name in method.graphs}
    for graph in bundle.manifest.graphs:
        if graph.name not in others:
            progress(graph.name)
            yield walk.check(graph)


def check_inputs(reference: Reference, manifest: Manifest, sample: Sample) -> Check:
    """Check that pictures and prompt are what Hugging Face's processor makes of them; positions, where they matter."""
    label = f" of {sample.label}" if sample.label else ""
    examination = Examination(f"inputs{label}", "inputs", manifest.dtype)
    expected = reference.inputs(sample)
    if reference.clip_text is not None:
        examination.exact("CLIP's token ids", reference.clip_text.ids(QUESTION), np.array(sample.text.clip_ids))
    ids = expected["input_ids"]
    visual = reference.eager.visual(ids)
    text = np.array(sum(sample.text.parts, ()))
    examination.exact("token ids", ids[~visual].numpy(), text)
    examination.exact("places of visual rows", np.flatnonzero(visual[0].numpy()), sample.laid.visual_rows[0])
    positions = reference.eager.positions(expected)
    if positions is not None:
        examination.exact("positions", positions.numpy(), sample.positions)
    if "video_grid_thw" in expected:
        examination.note("the video's pixels are the runtime's on both sides: Hugging Face's need torchvision")
    examination.tensor("pixel_values", _pixels(expected, sample), sample.pixels.feeds["pixel_values"])
    return examination.done()


def _pixels(inputs: Inputs, sample: Sample) -> NDArray[np.float32]:
    """The processor's pixels in the shape of the vision graph's."""
    found: NDArray[np.float32] = pixel_values(inputs).numpy()
    ours = sample.pixels.feeds["pixel_values"].shape
    if found.ndim == 5 and len(found) == len(sample.pixels.pictures):  # tiles of several pictures, padded
        found = np.concatenate([own[: one.runs] for own, one in zip(found, sample.pixels.pictures, strict=True)])
    # Of native resolution they are rows of a patch each here, and there those of a visual token.
    return found.reshape(ours) if found.size == np.prod(ours) else found


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
        self.inputs = reference.inputs(sample)
        self.values: Values = {name: torch.from_numpy(value) for name, value in sample.pixels.feeds.items()}
        self.values |= {
            "text_ids": torch.tensor([sample.text.clip_ids]),
            "question": torch.from_numpy(sample.question),
            "text": torch.from_numpy(sample.embedded),
            "runs": torch.tensor(sample.pixels.runs),
            "text_after": torch.tensor(len(sample.text.parts[-1])),
            **laid_out(sample.laid),
        }
        self.cache = LayerCache()
        # A decode step follows each segment's prefill; any token does.
        token = torch.tensor([sample.text.parts[-1][-1]])
        self.step = reference.embed_tokens(token)

    def check(self, graph: Graph) -> Check:
        """Run a graph and compare; the reference's outputs become the next graph's inputs."""
        examination = Examination(graph.name, "graph", self.bundle.manifest.dtype)
        roles: dict[str, Callable[[Graph, Examination], None]] = {
            "vision": self.vision,
            "project": self.project,
            "assemble": self.assemble,
            "segment": self.segment,
            "prepare": self.prepare,
            "kernel": self.kernel,
            "encoder": self.prune,
            "prune": self.prune,
        }
        roles[graph.role](graph, examination)
        return examination.done()

    def vision(self, graph: Graph, examination: Examination) -> None:
        """Features and probes."""
        self.seen, found = self.reference.vision(self.inputs, [tensor.name for tensor in graph.outputs[1:]])
        self.compare(graph, self.values, {"features": self.seen.features, **found}, examination)

    def project(self, graph: Graph, examination: Examination) -> None:
        """The projector, on all patches."""
        self.compare(graph, self.values, {"visual": self.seen.projected}, examination)

    def assemble(self, graph: Graph, examination: Examination) -> None:
        """The decoder's input, with text rows from the bundle's embedding table."""
        hidden = self.reference.eager.embed(self.inputs["input_ids"], self.seen.rows)
        self.compare(graph, self.values, {"hidden": hidden}, examination)
        positions = self.reference.eager.positions(self.inputs)
        self.values["position_ids"] = torch.arange(hidden.shape[1])[None] if positions is None else positions

    def segment(self, graph: Graph, examination: Examination) -> None:
        """Decoder layers, on the whole prompt with an empty cache, then on one more row with a full one."""
        assert graph.layers is not None  # the manifest checked it
        rows, following = self.values["hidden"].shape[0], self.sample.following
        empty = torch.zeros(rows, self.bundle.manifest.decoder.kv_heads, 0, self.bundle.manifest.decoder.head_dim)
        past = {tensor.name: empty for tensor in graph.inputs if tensor.name.startswith("past_")}
        session = self.load(graph, examination)
        position = torch.full((*self.values["position_ids"].shape[:-1], 1), following)
        for suffix, hidden, positions in (
            ("", self.values["hidden"], self.values["position_ids"]),
            (" (decode)", self.step.expand(rows, -1, -1), position),
        ):
            out = self.reference.layers(*graph.layers, hidden, positions, self.cache)
            expected = self.cache.named(*graph.layers, "present")
            ends = graph.layers[1] == self.bundle.manifest.decoder.layers
            expected[graph.outputs[0].name] = self.reference.logits(out) if ends else out
            expected[f"query_{graph.layers[1] - 1}"] = self.reference.query
            feeds = {"hidden": hidden, "position_ids": positions, **past}
            found = self.run(session, graph, feeds, examination)
            self.examine(graph, expected, found, examination, suffix)
            past = self.cache.named(*graph.layers, "past")
            if suffix:
                self.step = out
            else:
                self.values["hidden"] = out
                self.values |= expected

    def prepare(self, graph: Graph, examination: Examination) -> None:
        """What a method reads of the projected rows and the text."""
        method = next(entry for entry in self.bundle.manifest.methods if graph.name in entry.prepare)
        module = self.reference.module(method.name, "prepare")
        self.compare(graph, self.values, call(module, graph, self.rounded(graph, self.values)), examination)

    def kernel(self, graph: Graph, examination: Examination) -> None:
        """What a method chooses rows by on the host."""
        method, _ = self.cut(graph)
        module = self.reference.module(method.name, "kernel")
        for budget in self.budgets_of(method)[-1:]:
            assert budget.schedule is not None  # it has a method
            self.values |= self.scalars(budget.schedule.stages[0])
            self.compare(graph, self.values, call(module, graph, self.rounded(graph, self.values)), examination)

    def prune(self, graph: Graph, examination: Examination) -> None:
        """A cut, at every budget of its method."""
        method, cut = self.cut(graph)
        module = self.reference.module(method.name, cut.at)
        session = self.load(graph, examination)
        for budget in self.budgets_of(method):
            assert budget.schedule is not None  # it has a method
            stage = next(stage for stage in budget.schedule.stages if stage.cut == cut.at)
            values = {**self.values, **self.scalars(stage)}
            if cut.sampler is not None:
                read = {name: value.numpy() for name, value in self.values.items() if name in ("kernel", "start")}
                values["chosen"] = torch.from_numpy(SAMPLERS[cut.sampler](read, stage.keep))
            # A cut must choose from the same numbers on both sides: what the graph's types leave of them.
            feeds = self.rounded(graph, values)
            expected = call(module, graph, feeds)
            found = self.run(session, graph, feeds, examination)
            if found is not None:
                sure = certainty(self.bundle.manifest, method, budget.schedule)
                examine_cut(expected, found, stage, sure, examination)

    def cut(self, graph: Graph) -> tuple[MethodEntry, Cut]:
        """The method and the cut that a graph belongs to."""
        entries = ((entry, cut) for entry in self.bundle.manifest.methods for cut in entry.cuts)
        return next(pair for pair in entries if graph.name in (pair[1].graph, pair[1].kernel))

    def budgets_of(self, method: MethodEntry) -> list[Budget]:
        """The budgets of a method, each with its schedule."""
        return [budget for budget in self.budgets if budget.method is not None and budget.method.name == method.name]

    def scalars(self, stage: Stage) -> Values:
        """The scalars of a cut that has all rows before it."""
        counts = {"keep": stage.keep, "merge": stage.merge, "seed": SEED}
        return {name: torch.tensor(value) for name, value in counts.items()}

    def rounded(self, graph: Graph, values: Values) -> Values:
        """A graph's inputs as its types leave them, in fp32."""
        feeds = {tensor.name: values[tensor.name].to(_ROUNDED[tensor.dtype]) for tensor in graph.inputs}
        return {name: value.float() if value.is_floating_point() else value for name, value in feeds.items()}

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


def examine_cut(
    expected: Values, found: dict[str, NDArray[Any]], stage: Stage, sure: float, examination: Examination
) -> None:
    """Compare what was kept, and the rows: all of them, or where the choice differs those that both selected."""
    ours, theirs, keep, merge = expected["kept"].numpy(), found["kept"], stage.keep, stage.merge
    merged = np.broadcast_to(np.arange(keep) >= keep - merge, ours.shape)
    identical = examination.kept(f"kept (keep={keep})", ours, theirs, merged, sure)
    # In the decoder the visual rows lie among those of text, before it they are all there is.
    place = expected["visual_rows_out"].numpy() if "visual_rows_out" in expected else np.arange(keep)[None]
    for name, value in expected.items():
        label, rows = f"{name} (keep={keep})", value.numpy()
        if name == "kept" or (name == "visual_rows_out" and not identical):  # other rows lie elsewhere, rightly
            continue
        same = identical or np.array_equal(rows, found[name])
        if rows.shape != found[name].shape or (same and not value.is_floating_point()):
            examination.exact(label, rows, found[name])
        elif identical:
            fused = np.isin(np.arange(rows.shape[1]), place[0, keep - merge :])
            examination.tensor(label, rows[:, ~fused], found[name][:, ~fused])
            if merge:
                examination.tensor(f"{label}, merged rows", rows[:, fused], found[name][:, fused], "merged")
        elif pairs := _common(ours[:, : keep - merge], theirs[:, : keep - merge]):
            examination.note(f"{label}: other rows kept; compared the {len(pairs)} that both selected")
            row, left, right = np.array(pairs).T
            other = found.get("visual_rows_out", place)
            compare = examination.tensor if value.is_floating_point() else examination.exact
            here, there = [row, place[0, left]], [row, other[0, right]]
            axes = [...] if name == "position_ids_out" else []  # [3, B, R] with three of them
            compare(label, rows[tuple(axes + here)], found[name][tuple(axes + there)])


def _common(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Places of the rows that two choices share: (batch row, place in ours, place in theirs)."""
    return [
        (row, place, found[index])
        for row, (left, right) in enumerate(zip(ours.tolist(), theirs.tolist(), strict=True))
        for found in ({index: place for place, index in enumerate(right)},)
        for place, index in enumerate(left)
        if index in found
    ]
