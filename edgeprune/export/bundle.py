"""A checkpoint to a bundle: plan, write graph by graph, describe, move into place. The only writer of manifests."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune import catalog
from edgeprune.budget.schedule import Site, reach
from edgeprune.bundle.extent import most_tokens
from edgeprune.bundle.manifest import OPSET, SCHEMA, Dialect, Dtype, File, Graph, Manifest, MethodEntry, Model
from edgeprune.bundle.prompt import Medium
from edgeprune.bundle.store import Bundle, check_destination, describe, open_bundle, writing
from edgeprune.checkpoint import facts
from edgeprune.checkpoint.architecture import MEDIA
from edgeprune.checkpoint.source import Source
from edgeprune.errors import UsageError
from edgeprune.export.clip import Clip, open_clip
from edgeprune.export.graph import weight_bytes, write_graph
from edgeprune.export.graph_plan import GraphPlan
from edgeprune.export.method_plan import MethodPlanner
from edgeprune.export.plan import plan_graphs
from edgeprune.export.progress import Progress, Silent
from edgeprune.export.trace import TORCH, Tracer
from edgeprune.families.family import Family, family_of, open_family
from edgeprune.methods import method as methods_lookup
from edgeprune.methods.method import Method

_TOOLS = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript")


@dataclass(frozen=True)
class Request:
    """What to export.

    Attributes:
        source: the checkpoint.
        methods: names of pruning methods.
        dtype: element type of graphs and embedding.
        dialect: operators of the graphs.
        family: name of the model family; None takes that of the checkpoint.
        medium: what the bundle is asked about, "image" or "video"; None takes the family's first.
        clip: the CLIP checkpoint of the encoder, for methods that read the question with CLIP's text tower.
    """

    source: Source
    methods: Sequence[str]
    dtype: Dtype = "fp32"
    dialect: Dialect = "base"
    family: str | None = None
    medium: Medium | None = None
    clip: Source | None = None


def export_bundle(request: Request, destination: Path, force: bool = False, progress: Progress | None = None) -> Bundle:
    """Write a bundle.

    Args:
        request: what to export.
        destination: its folder; appears when everything is written, or not at all.
        force: replace a bundle that is there.
        progress: told about every graph.

    Raises:
        UsageError: a method is unknown, named twice, or cannot be carried by the model.
        CheckpointError: the checkpoint cannot be read.
        OutputError: the destination cannot be written.
    """
    check_destination(destination, force)
    family = request.family or family_of(request.source.path)
    model = open_family(family, request.source, request.medium or MEDIA[family][0])
    clip = None if request.clip is None else open_clip(request.clip)
    methods = load_methods(request.methods, model, family, clip)
    if clip is not None and not any(method.needs_clip for method in methods):
        raise UsageError(
            f"--clip {clip.source.id} has no effect: {', '.join(request.methods)} needs no CLIP checkpoint"
        )
    plans = plan_graphs(model, methods, request.dtype, request.dialect, clip)
    prompt, image = model.prompt(), model.image()
    tokenizer = facts.tokenizer_files(request.source)["tokenizer.json"]
    sizes = model.decoder_facts
    table = sizes.vocab * sizes.hidden * TORCH[request.dtype].itemsize
    needed = table + len(tokenizer) + sum(weight_bytes(plan, request.dtype) for plan in plans)
    with writing(destination, force, needed) as (work, finish):
        (work / "tokenizer.json").write_bytes(tokenizer)
        text = None if clip is None else clip.write_facts(work)
        embedding = _write_embedding(model, request.dtype, work)
        graphs = write_graphs(plans, request.dtype, request.dialect, work, progress or Silent())
        finish(
            Manifest(
                schema=SCHEMA,
                model=Model(request.source.id, request.source.revision, model.architecture, family),
                dtype=request.dtype,
                dialect=request.dialect,
                opset=OPSET[request.dialect],
                vision=model.vision_facts,
                decoder=model.decoder_facts,
                image=image,
                layout=model.layout,
                prompt=prompt,
                tokenizer=describe(work, work / "tokenizer.json"),
                embedding=embedding,
                graphs=graphs,
                methods=entries(methods, model),
                tools=tools(),
                text=text,
            )
        )
    return open_bundle(destination, check_hashes=False)


def entries(methods: Sequence[Method], model: Family) -> tuple[MethodEntry, ...]:
    """What a manifest says about methods."""
    return tuple(MethodPlanner(model, method, "fp32", False).entry for method in methods)


def tools() -> dict[str, str]:
    """Versions of the packages that write bundles."""
    return {name: importlib.metadata.version(name) for name in _TOOLS}


def load_methods(names: Sequence[str], model: Family, family: str, clip: Clip | None = None) -> tuple[Method, ...]:
    """Find methods, and check that a model can carry each; the arguments are those of ``obstacle``.

    Raises:
        UsageError: a method is unknown or named twice, or the model cannot carry it; the message says why.
    """
    if not names:
        raise UsageError("no method is named; edgeprune list methods shows them")
    if len(set(names)) != len(names):
        raise UsageError(f"--method {','.join(names)} names a method twice")
    methods = tuple(methods_lookup.load(name) for name in names)
    for method in methods:
        reason = obstacle(method, model, family, clip)
        if reason is not None:
            raise UsageError(f"this model cannot carry {method.name}: {reason}")
    return methods


def obstacle(method: Method, model: Family, family: str, clip: Clip | None = None) -> str | None:
    """Why a model cannot carry a method; None where it can.

    First what its sizes say, as ``edgeprune list methods --for`` has it, then what only this checkpoint does.

    Args:
        method: what prunes.
        model: the checkpoint.
        family: name of its family.
        clip: the CLIP checkpoint beside it, if one was given.
    """
    vision, layers, image = model.vision_facts, model.decoder_facts.layers, model.image()
    reason = catalog.obstacle(catalog.card(method.name), vision, image.kind, family, layers)
    if reason is None and method.needs_clip:
        reason = _clip_obstacle(method, model, clip)
    if reason is not None:
        return reason
    planner = MethodPlanner(model, method, "fp32", False, clip)
    try:
        planner.before_projector()  # a module refuses an encoder that it cannot prune
        planner.after_projector()
        tokens, medium = most_tokens(vision, image, model.layout), model.prompt().medium
        reach(method.name, Site.of(vision, layers, medium, planner.entry.places, tokens, image.most_runs))
    except UsageError as error:
        return str(error)
    return None


def _clip_obstacle(method: Method, model: Family, clip: Clip | None) -> str | None:
    if clip is None:
        variants = [name for name in catalog.names() if catalog.card(name).variant_of == method.name]
        others = [name for name in variants if not methods_lookup.load(name).needs_clip]
        return (
            "it reads the question with CLIP's text tower, which such a checkpoint does not hold; add "
            f"--clip openai/clip-vit-large-patch14-336, or the CLIP model that the encoder comes from"
            f"{''.join(f', or take {name}' for name in others)}"
        )
    width, own = clip.config.vision_width, model.vision_facts.width
    if width != own:
        return (
            f"the encoder of --clip {clip.source.id} is {width} wide, the model's own {own}; "
            "give the CLIP model that the encoder comes from"
        )
    return None


def _write_embedding(model: Family, dtype: Dtype, work: Path) -> File:
    path = work / "embedding.npy"
    np.save(path, model.embedding().to(TORCH[dtype]).numpy(), allow_pickle=False)
    return describe(work, path)


def write_graphs(
    plans: Sequence[GraphPlan], dtype: Dtype, dialect: Dialect, work: Path, progress: Progress
) -> tuple[Graph, ...]:
    """Write graphs into the folder ``graphs`` of ``work``, in order, and describe them."""
    folder = work / "graphs"
    folder.mkdir(exist_ok=True)
    tracer = Tracer(OPSET[dialect])
    graphs = []
    for index, plan in enumerate(plans):
        progress.start(plan.name, index, len(plans), weight_bytes(plan, dtype))
        path = folder / f"{plan.name}.onnx"
        write_graph(plan, tracer, dtype, path, progress.advance)
        data = path.with_name(path.name + ".data")
        graphs.append(
            Graph(
                name=plan.name,
                role=plan.role,
                file=describe(work, path),
                data=describe(work, data) if data.exists() else None,
                layers=plan.layers,
                inputs=plan.inputs,
                outputs=plan.outputs,
            )
        )
        progress.finish()
    return tuple(graphs)
