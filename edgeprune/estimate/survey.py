"""What is known of a model at a glance: which methods it can carry, and how small a device may be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeprune import catalog
from edgeprune.budget.schedule import reach
from edgeprune.errors import UsageError
from edgeprune.estimate.find import Found, find_model
from edgeprune.estimate.grid import BEFORE, obstacle, site_of_method
from edgeprune.estimate.machine import SYSTEM_RESERVE
from edgeprune.estimate.memory import memory_of
from edgeprune.estimate.precision import precision
from edgeprune.estimate.request import Request, prompt_costs
from edgeprune.recipes import target as targets
from edgeprune.recipes.model import DEMO, ModelRecipe

_PUBLISHED_FOR = {"tiles": "llava_next", "frames": "video_llava"}
"""The one family that papers mean by these kinds of pixels."""
DTYPES = ("fp32", "fp16", "int4")
"""That a model's weights are told for; edgeprune itself exports the first two."""
TEXT_TOKENS, NEW_TOKENS = 60, 128
"""Of the prompt and the answer that a device must have room for."""


@dataclass(frozen=True)
class Carried:
    """Whether a model can carry a method.

    Attributes:
        method: its name.
        carried: "yes" as its paper or code has it, "generalised" where part of it is ours, or "no".
        why: the reason for a "no", else what its card says of such a model; "" where it is as for LLaVA-1.5.
        reach: least and most visual tokens on average over the decoder's layers; null where it is "no".
    """

    method: str
    carried: Literal["yes", "generalised", "no"]
    why: str
    reach: tuple[int, int] | None


@dataclass(frozen=True)
class Needs:
    """What a model needs in an element type.

    Attributes:
        dtype: one of ``DTYPES``.
        weights: bytes.
        fits: the target with the least memory that an unpruned request fits; null where none has enough.
    """

    dtype: str
    weights: int
    fits: str | None


@dataclass(frozen=True)
class Size:
    """What a model is, and takes.

    Attributes:
        tokens: visual tokens of a large picture, or of a video, without pruning.
        needs: by element type.
    """

    tokens: int
    needs: tuple[Needs, ...]


def carried(found: Found, method: str) -> Carried:
    """Whether a model can carry a method, by the facts of its sizes."""
    card, shape = catalog.card(method), found.shape
    reason = obstacle(found, method)
    if reason is not None:
        return Carried(method, "no", reason, None)
    try:
        span = reach(method, site_of_method(found, method))
    except UsageError as error:
        return Carried(method, "no", str(error), None)
    lines = catalog.generalised(card, shape.vision, shape.kind, shape.blends, shape.newline)
    ours = any("ours" in line for line in lines) or _PUBLISHED_FOR.get(shape.kind, shape.family) != shape.family
    return Carried(method, "generalised" if ours else "yes", "; ".join(lines), span)


def size_of(word: str, recipe: ModelRecipe) -> Size | None:
    """What the model of a recipe takes; None where only its config.json says, and that is not here.

    Args:
        word: that the recipe was found by.
        recipe: that one.

    Raises:
        RecipeError: the model is a folder that holds none.
    """
    if recipe.vision is None and recipe.model != DEMO and not Path(recipe.model).is_dir():
        return None
    found = find_model(word)
    return Size(found.shape.tokens, needs(found))


def needs(found: Found) -> tuple[Needs, ...]:
    """What a model needs, in every element type; a request has a large picture, or a video, and nothing is pruned."""
    there = sorted((target.memory, target.name, target.kind) for target in _known() if target.memory is not None)
    rows = []
    for name in DTYPES:
        request = Request(found.shape, precision(name), BEFORE, TEXT_TOKENS - BEFORE, None, None)
        memory = memory_of(request, prompt_costs(request), [rows + NEW_TOKENS for rows in request.rows])
        fits = (
            target for size, target, kind in there if memory.run <= size - (SYSTEM_RESERVE if kind == "jetson" else 0)
        )
        rows.append(Needs(name, memory.weights, next(fits, None)))
    return tuple(rows)


def _known() -> list[targets.Target]:
    return [targets.load(name) for name in targets.names()]
