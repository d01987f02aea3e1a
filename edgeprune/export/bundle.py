"""A checkpoint to a bundle: plan, write graph by graph, describe, move into place. The only writer of manifests."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune.budget.schedule import reach
from edgeprune.bundle.manifest import OPSET, SCHEMA, Dialect, Dtype, File, Graph, Manifest, Model
from edgeprune.bundle.store import Bundle, check_destination, describe, open_bundle, writing
from edgeprune.checkpoint import facts
from edgeprune.checkpoint.config import read_config
from edgeprune.checkpoint.source import Source
from edgeprune.errors import UsageError
from edgeprune.export.graph import weight_bytes, write_graph
from edgeprune.export.plan import GraphPlan, plan_graphs, plan_methods
from edgeprune.export.progress import Progress, Silent
from edgeprune.export.trace import TORCH, Tracer
from edgeprune.families.family import Family, open_family
from edgeprune.methods import method as methods_lookup
from edgeprune.methods.method import Method

_TOOLS = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript")


@dataclass(frozen=True)
class Request:
    """What to export.

    Attributes:
        source: the checkpoint.
        methods: names of pruning methods.
        cuts: decoder layers to cut before; None lets each method place its own.
        dtype: element type of graphs and embedding.
        dialect: operators of the graphs.
        family: name of the model family.
    """

    source: Source
    methods: Sequence[str]
    cuts: tuple[int, ...] | None = None
    dtype: Dtype = "fp32"
    dialect: Dialect = "base"
    family: str = "llava"


def export_bundle(request: Request, destination: Path, force: bool = False, progress: Progress | None = None) -> Bundle:
    """Write a bundle.

    Args:
        request: what to export.
        destination: its folder; appears when everything is written, or not at all.
        force: replace a bundle that is there.
        progress: told about every graph.

    Raises:
        UsageError: a method is unknown or named twice, or the cuts do not suit the model.
        CheckpointError: the checkpoint cannot be read.
        OutputError: the destination cannot be written.
    """
    check_destination(destination, force)
    model = open_family(request.family, request.source.path)
    config = read_config(request.source.path)
    methods = _place(request, model)
    plans = plan_graphs(model, methods, request.dtype, request.dialect)
    prompt = facts.prompt_facts(request.source, config)
    image = facts.image_processing(request.source)
    tokenizer = facts.tokenizer_files(request.source)["tokenizer.json"]
    sizes = model.decoder_facts
    table = sizes.vocab * sizes.hidden * TORCH[request.dtype].itemsize
    needed = table + len(tokenizer) + sum(weight_bytes(plan, request.dtype) for plan in plans)
    with writing(destination, force, needed) as (work, finish):
        (work / "tokenizer.json").write_bytes(tokenizer)
        embedding = _write_embedding(model, request.dtype, work)
        graphs = _write_graphs(plans, request, work, progress or Silent())
        finish(
            Manifest(
                schema=SCHEMA,
                model=Model(request.source.id, request.source.revision, config.architecture, request.family),
                dtype=request.dtype,
                dialect=request.dialect,
                opset=OPSET[request.dialect],
                vision=model.vision_facts,
                decoder=model.decoder_facts,
                image=image,
                prompt=prompt,
                tokenizer=describe(work, work / "tokenizer.json"),
                embedding=embedding,
                graphs=graphs,
                methods=plan_methods(methods),
                tools={name: importlib.metadata.version(name) for name in _TOOLS},
            )
        )
    return open_bundle(destination, check_hashes=False)


def _place(request: Request, model: Family) -> dict[str, tuple[Method, tuple[int, ...]]]:
    """Each method with its cuts, checked against the depth and against the method's own budget rule."""
    if len(set(request.methods)) != len(request.methods):
        raise UsageError(f"--method {','.join(request.methods)} names a method twice")
    layers = model.decoder_facts.layers
    placed = {}
    for name in request.methods:
        method = methods_lookup.load(name)
        cuts = method.cuts(layers) if request.cuts is None else request.cuts
        if list(cuts) != sorted(set(cuts)) or not cuts or cuts[0] < 1 or cuts[-1] >= layers:
            raise UsageError(
                f"cuts {list(cuts)} do not suit {layers} decoder layers; expected rising layers 1..{layers - 1}"
            )
        reach(name, model.vision_facts.tokens, cuts, layers)  # raises where no budget could ever be met
        placed[name] = (method, cuts)
    return placed


def _write_embedding(model: Family, dtype: Dtype, work: Path) -> File:
    path = work / "embedding.npy"
    np.save(path, model.embedding().to(TORCH[dtype]).numpy(), allow_pickle=False)
    return describe(work, path)


def _write_graphs(plans: Sequence[GraphPlan], request: Request, work: Path, progress: Progress) -> tuple[Graph, ...]:
    folder = work / "graphs"
    folder.mkdir()
    tracer = Tracer(OPSET[request.dialect])
    graphs = []
    for index, plan in enumerate(plans):
        progress.start(plan.name, index, len(plans), weight_bytes(plan, request.dtype))
        path = folder / f"{plan.name}.onnx"
        write_graph(plan, tracer, request.dtype, path, progress.advance)
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
