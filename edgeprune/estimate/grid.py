"""The methods and budgets of one report, as requests to one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgeprune import catalog
from edgeprune.budget.keep import parse_keep
from edgeprune.budget.schedule import Site, make_schedule
from edgeprune.errors import BudgetError, UsageError
from edgeprune.estimate.find import Found
from edgeprune.estimate.precision import Precision
from edgeprune.estimate.request import Request
from edgeprune.recipes.find import suggestion

BEFORE = 5
"""Text tokens in front of the picture, as LLaVA's template has them."""
USUAL = "visiondrop"
"""Whose segments a decoder is taken to have where no method is named."""


@dataclass(frozen=True)
class Grid:
    """What is asked.

    Attributes:
        requests: the unpruned one first, if it was asked for.
        whole: the unpruned one, in the same segments.
        left_out: why a method cannot have a budget, one line each.
    """

    requests: tuple[Request, ...]
    whole: Request
    left_out: tuple[str, ...]


def make_grid(
    found: Found, held: Precision, text: int, methods: Sequence[str], keeps: Sequence[str], chunk: int | None = None
) -> Grid:
    """Every method at every budget.

    Args:
        found: the model.
        held: its precision.
        text: tokens of the prompt beside the picture.
        methods: by name; may be empty, where every budget is "all".
        keeps: as ``--keep`` has them, one at least.
        chunk: rows of the prompt that a segment runs on at once, about; None for all of them.

    Raises:
        UsageError: an unknown method, one that a bundle lacks or the model cannot carry, or a budget without a method.
        BudgetError: a budget of another form, or out of reach of every method.
    """
    _check_methods(found, methods)
    parsed = [parse_keep(keep, found.shape.tokens) for keep in keeps]
    if not methods and any(keep is not None for keep in parsed):
        budget = next(word for word, keep in zip(keeps, parsed, strict=True) if keep is not None)
        such = found.manifest.methods[0].name if found.manifest and found.manifest.methods else USUAL
        raise UsageError(f"--keep {budget} needs a method, such as --method {such}; edgeprune list methods")
    whole = replace(_request(found, held, text, methods or (USUAL,)), chunk=chunk)
    requests, failed = [whole] if None in parsed else [], []
    for method in methods:
        site = site_of_method(found, method)
        for keep in dict.fromkeys(keep for keep in parsed if keep is not None):
            try:
                requests.append(replace(whole, method=method, schedule=make_schedule(method, keep, site)))
            except BudgetError as error:
                failed.append(error)
    if failed and len(requests) == (None in parsed):
        raise failed[0]
    return Grid(tuple(requests), whole, tuple(map(str, failed)))


def _check_methods(found: Found, methods: Sequence[str]) -> None:
    for method in methods:
        catalog.card(method)  # which knows all names
        if found.manifest is not None and found.manifest.method(method) is None:
            known = tuple(entry.name for entry in found.manifest.methods)
            raise UsageError(
                f"the bundle has no method {method!r}; it has {', '.join(known)}{suggestion(method, known)}; edgeprune "
                "export BUNDLE --add-method adds one, and a recipe or config.json in its place has all"
            )
        reason = obstacle(found, method)
        if reason is not None:
            name = found.shape.name
            raise UsageError(f"{name} cannot carry {method}: {reason}; edgeprune list methods --for {name}")
    if len(set(methods)) != len(methods):
        raise UsageError(f"--method {','.join(methods)} names a method twice")


def obstacle(found: Found, method: str) -> str | None:
    """Why a model cannot carry a method; None where it can, as a bundle does every one that it has."""
    if found.manifest is not None and found.manifest.method(method) is not None:
        return None
    shape = found.shape
    return catalog.obstacle(catalog.card(method), shape.vision, shape.kind, shape.family, shape.decoder.layers)


def site_of_method(found: Found, method: str) -> Site:
    """Where a method prunes in a model that can carry it."""
    entry = found.manifest.method(method) if found.manifest else None
    shape = found.shape
    return shape.site(entry.places if entry else catalog.card(method).at(shape.decoder.layers, shape.kind))


def _request(found: Found, held: Precision, text: int, methods: Sequence[str]) -> Request:
    """Without pruning, in the segments that a bundle of these methods has."""
    before = min(BEFORE, text // 2)
    if found.manifest is not None:
        shape = found.shape
        request = Request.of(found.manifest, before, text - before, None, None, shape.tokens, shape.runs)
        return replace(request, precision=held)
    layers, kind = found.shape.decoder.layers, found.shape.kind
    cuts = {cut for method in methods for cut in catalog.card(method).cuts(layers, kind) if cut < layers}
    return Request(found.shape, held, before, text - before, None, None, tuple(sorted(cuts)))
