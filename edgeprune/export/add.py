"""More methods for a bundle that is there: what they need is written anew, everything else stays the same file.

A graph is written anew where it is not there yet, or where it gets another input or output: a probe of the encoder, the
queries in front of a cut, a decoder cut in another place. All others are linked into the new folder, weights included.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import external_data_helper, numpy_helper

from edgeprune.bundle.manifest import Graph, Manifest, Role, TextFacts
from edgeprune.bundle.store import Bundle, open_bundle, writing
from edgeprune.checkpoint.source import Source
from edgeprune.errors import CheckpointError, UsageError
from edgeprune.export.bundle import entries, load_methods, tools, write_graphs
from edgeprune.export.clip import Clip, open_clip
from edgeprune.export.graph import weight_bytes
from edgeprune.export.graph_plan import GraphPlan
from edgeprune.export.plan import plan_graphs
from edgeprune.export.progress import Progress, Silent
from edgeprune.export.trace import TORCH
from edgeprune.families.family import Family, open_family
from edgeprune.families.part import Part


@dataclass(frozen=True)
class Added:
    """What adding methods did.

    Attributes:
        bundle: opened again.
        added: graphs that are new.
        rewritten: graphs that were there and are written anew.
        kept: graphs whose files stayed as they were.
        removed: graphs that no method needs in this form any more.
    """

    bundle: Bundle
    added: tuple[str, ...]
    rewritten: tuple[str, ...]
    kept: tuple[str, ...]
    removed: tuple[str, ...]


def add_methods(
    bundle: Bundle,
    source: Source,
    names: Sequence[str],
    progress: Progress | None = None,
    clip_source: Source | None = None,
) -> Added:
    """Add pruning methods to a bundle, in its place.

    The bundle is replaced when everything is written, or not at all. TensorRT plans in it are kept; those of rewritten
    graphs are refused by their hash until they are built again.

    Args:
        bundle: opened.
        source: the checkpoint that it was exported from.
        names: methods it has not yet.
        progress: told about every graph that is written.
        clip_source: the CLIP checkpoint of the encoder, where an old or a new method needs one.

    Raises:
        UsageError: a method is unknown, there already, or cannot be carried by the model.
        CheckpointError: the checkpoint, or the CLIP checkpoint, is not the bundle's.
        OutputError: the bundle's folder cannot be written.
    """
    old = bundle.manifest
    there = [method.name for method in old.methods]
    for name in names:
        if name in there:
            raise UsageError(f"--add-method {name}: the bundle has it already; it has {', '.join(there)}")
    model = open_family(old.model.family, source, old.prompt.medium)
    _check_same(model, bundle, source)
    clip = None if clip_source is None else open_clip(clip_source)
    methods = load_methods([*there, *names], model, old.model.family, clip)
    if clip is not None and not any(method.needs_clip for method in methods):
        raise UsageError(f"--clip {clip.source.id} has no effect: {', '.join(names)} needs no CLIP checkpoint")
    plans = plan_graphs(model, methods, old.dtype, old.dialect, clip)
    known = {graph.name: graph for graph in old.graphs}
    fresh = [plan for plan in plans if not _same(plan, known.get(plan.name))]
    needed = sum(weight_bytes(plan, old.dtype) for plan in fresh)
    with writing(bundle.root, True, needed) as (work, finish):
        text = None if clip is None else _text(clip, bundle, work)
        kept = [known[plan.name] for plan in plans if plan not in fresh]
        for file in (old.tokenizer, old.embedding, *(f for g in kept for f in (g.file, g.data) if f is not None)):
            _link(bundle.path(file), work / file.path)
        _link_tree(bundle.root / "engines", work / "engines")
        written = write_graphs(fresh, old.dtype, old.dialect, work, progress or Silent())
        graphs = {graph.name: graph for graph in (*kept, *written)}
        finish(
            replace(
                old,
                graphs=tuple(graphs[plan.name] for plan in plans),
                methods=entries(methods, model),
                tools=tools(),
                text=text,
            )
        )
    names_now = {plan.name for plan in plans}
    return Added(
        bundle=open_bundle(bundle.root, check_hashes=False),
        added=tuple(plan.name for plan in fresh if plan.name not in known),
        rewritten=tuple(plan.name for plan in fresh if plan.name in known),
        kept=tuple(graph.name for graph in kept),
        removed=tuple(name for name in known if name not in names_now),
    )


def _check_same(model: Family, bundle: Bundle, source: Source) -> None:
    """Whether the checkpoint is the bundle's, and not a fine-tuned one or one with another encoder.

    Sizes are compared, the embedding table, the last matrix of the encoder and of the projector, and two projections of
    every layer of the decoder.
    """
    facts = bundle.manifest
    if (model.decoder_facts, model.vision_facts) == (facts.decoder, facts.vision):
        table = np.load(bundle.path(facts.embedding), mmap_mode="r", allow_pickle=False)
        same = torch.equal(model.embedding().to(TORCH[facts.dtype]), torch.from_numpy(np.array(table)))
        if same and all(_same_weights(bundle, *witness) for witness in _witnesses(model, facts)):
            return
    raise CheckpointError(
        f"{source.path} is not the checkpoint of {bundle.root}, which was exported from {facts.model.id}; "
        "give that one with --model"
    )


def _witnesses(model: Family, facts: Manifest) -> Iterator[tuple[Graph, Part, tuple[str, ...]]]:
    """Graphs, the parts of the checkpoint that they are made of, and the names of the weights to compare."""
    fused = facts.dialect == "fused"
    heads: tuple[tuple[Role, Part], ...] = ("vision", model.vision((), fused)), ("project", model.project())
    for role, part in heads:
        matrices = [name for name, value in part.module.named_parameters() if value.dim() > 1]
        yield facts.by_role(role)[0], part, tuple(matrices[-1:])
    for segment in facts.by_role("segment"):
        assert segment.layers is not None  # the manifest checked it
        part = model.segment(*segment.layers, fused)
        names = (name for name, _ in part.module.named_parameters())
        # Query and value projections are what every fine-tuning changes.
        yield segment, part, tuple(name for name in names if name.endswith(("q_proj.weight", "v_proj.weight")))


def _same_weights(bundle: Bundle, graph: Graph, part: Part, names: tuple[str, ...]) -> bool:
    """Whether those weights of a graph are the checkpoint's."""
    path = bundle.path(graph.file)
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        if tensor.name not in names:
            continue
        if tensor.external_data:
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
        expected = part.tensor(tensor.name).to(TORCH[bundle.manifest.dtype])
        if not torch.equal(expected, torch.from_numpy(np.array(numpy_helper.to_array(tensor)))):
            return False
    return True


def _text(clip: Clip, bundle: Bundle, work: Path) -> TextFacts:
    """Write what a text is tokenised with, or find that the bundle's is the same: its graphs may stay as they are."""
    facts, old = clip.write_facts(work), bundle.manifest.text
    if old is not None and facts != replace(old, id=facts.id, revision=facts.revision):
        raise CheckpointError(f"{clip.source.path} is not the CLIP checkpoint of {bundle.root}, which is {old.id}")
    return facts if old is None else old


def _same(plan: GraphPlan, graph: Graph | None) -> bool:
    """Whether a graph that is there is what was planned."""
    if graph is None:
        return False
    found = (graph.role, graph.layers, graph.inputs, graph.outputs)
    return found == (plan.role, plan.layers, plan.inputs, plan.outputs)


def _link(path: Path, place: Path) -> None:
    """A second name for a file, or a copy where the file system has no such thing."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, place)
    except OSError:
        shutil.copy2(path, place)


def _link_tree(folder: Path, place: Path) -> None:
    if folder.is_dir():
        shutil.copytree(folder, place, copy_function=lambda path, to: _link(Path(path), Path(to)))
