"""A bundle held against its checkpoint: every graph against Hugging Face's modules, then the whole chain.

Importing this loads neither PyTorch nor a backend; ``verify_bundle`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from edgeprune.bundle.store import Bundle
from edgeprune.checkpoint.source import Source
from edgeprune.errors import CheckpointError, UsageError
from edgeprune.runtime.backend import Backend
from edgeprune.verify.report import Report

__all__ = ["Report", "verify_bundle"]


def verify_bundle(
    bundle: Bundle,
    checkpoint: Path,
    backend: Backend,
    keeps: Sequence[int | str] | None = None,
    progress: Callable[[str], None] | None = None,
    clip: Source | None = None,
    methods: Sequence[str] | None = None,
) -> Report:
    """Compare a bundle with the checkpoint it was made from, and save the report in it as ``verify.json``.

    Every graph is run alone on the reference's own inputs, so that errors do not add up and the one that differs is
    named; then all of them together, unpruned and at each budget; and unpruned for pictures of other shapes, two in one
    prompt among them. The reference is in fp32 whatever the bundle's
    dtype, and is freed before the whole chain is loaded.

    Args:
        bundle: opened.
        checkpoint: the folder it was exported from.
        backend: what runs the graphs.
        keeps: budgets, as ``--keep`` takes them; None takes a third, a ninth and an eighteenth of all visual tokens.
            The unpruned chain is checked in any case. A method that cannot prune the few visual tokens of the sample is
            then left out, which a note of the first check says, unless ``methods`` names it.
        progress: told the name of every check before it runs.
        clip: the CLIP checkpoint beside it, for a bundle that has facts of CLIP's text.
        methods: pruning methods to check; None is all of the bundle's.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is of another size than the bundle's.
        UsageError: the bundle needs ``clip``, or has no such method.
        BudgetError: a budget is out of a method's reach.
        OutputError: the report cannot be written.
    """
    # They load PyTorch, which the rest of the package must not need.
    from edgeprune.verify.chain import check_chain, record
    from edgeprune.verify.graphs import check_graphs, check_inputs
    from edgeprune.verify.reference import Reference
    from edgeprune.verify.sample import Budget, budgets, make_samples

    tell = progress or (lambda name: None)
    manifest = bundle.manifest
    if manifest.text is not None and clip is None:
        raise UsageError(f"{bundle.root} holds CLIP's text tower; give the checkpoint it is from, {manifest.text.id}")
    (sample, *others), left = make_samples(bundle)
    plans, out_of_reach = budgets(manifest, sample, keeps, methods)
    reference = Reference(checkpoint, manifest.prompt.medium, clip if manifest.text is not None else None)
    if (reference.family.decoder_facts, reference.family.vision_facts) != (manifest.decoder, manifest.vision):
        raise CheckpointError(
            f"{checkpoint} has other sizes than {bundle.root}; expected {manifest.model.id}, which that was made from"
        )
    checks = [check_inputs(reference, manifest, one) for one in (sample, *others)]
    checks[0] = replace(checks[0], notes=(*checks[0].notes, *left, *out_of_reach))
    checks += check_graphs(bundle, reference, backend, sample, plans, tell)
    traces = [record(reference, manifest, sample, plan) for plan in plans]
    traces += [record(reference, manifest, other, Budget("keep=all", None, None)) for other in others]
    del reference
    checks += check_chain(bundle, backend, traces, tell)
    report = Report(manifest.model, manifest.dtype, manifest.dialect, backend.name, tuple(checks))
    report.save(bundle.root)
    return report
