"""Leave visual rows out in training as pruning does at run time: fewer rows, numbered anew.

Draws what a batch drops and does it after the encoder; ``cuts`` does it between decoder layers. Knows the encoder's
outputs and which patches show objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgeprune import catalog
from edgeprune.budget.schedule import Site
from edgeprune.budget.visiondrop import reach, stages
from edgeprune.methods.selection import gather_rows, merge_rest
from tools.demo_training.network import DECODER_LAYERS, Seen
from tools.demo_training.pictures import Pictures
from tools.demo_training.stages import Stage


@dataclass(frozen=True)
class Cut:
    """Visual rows that go on before decoder layer ``layer``, merged rows included."""

    layer: int
    keep: int
    merge: int


@dataclass(frozen=True)
class Plan:
    """What one batch drops: by ``sort`` down to ``keep`` rows (``merge`` of them merged), then ``cuts``."""

    sort: str  # "all", "visiondrop", "cls" or "objects"
    keep: int
    merge: int = 0
    cuts: tuple[Cut, ...] = ()


def draw_plan(stage: Stage, patches: int, draws: torch.Generator) -> Plan:
    """Draw a batch's plan.

    Of the batches that drop, half do what VisionDrop does, half of those its decoder cuts too; a fifth keep
    patches by the class row's attention alone; the others keep object patches and random background.
    """
    whole, amount, sort = torch.rand(3, generator=draws).tolist()
    if whole < stage.whole:
        return Plan("all", patches)
    low, high = stage.keep
    keep = min(patches - 1, round(low * (high / low) ** amount))
    if sort >= 0.5:
        return Plan("cls" if sort < 0.7 else "objects", keep)
    places = catalog.card("visiondrop").cuts(DECODER_LAYERS)
    site = Site(patches, ("vision", *places), DECODER_LAYERS)
    fewest, most = reach(site)
    counts = stages(min(max(round(keep / 1.5), fewest), most), site)
    after = tuple(Cut(place, s.keep, s.merge) for place, s in zip(places, counts[1:], strict=True))
    return Plan("visiondrop", counts[0].keep, counts[0].merge, after if stage.cuts and sort < 0.25 else ())


def keep_rows(seen: Seen, pictures: Pictures, plan: Plan) -> torch.Tensor:
    """The rows [B, K, D] of ``seen`` that ``plan`` keeps, ascending; VisionDrop's led by the class row."""
    patches = seen.rows[:, 1:]
    if plan.sort == "all":
        return patches
    if plan.sort == "visiondrop":
        always = torch.full_like(seen.cls_attention[:, :1], 2.0)
        order = selected_first(torch.cat((always, seen.cls_attention), dim=1), plan.keep - plan.merge)
        return merge_rest(seen.rows, seen.key, order, plan.keep - plan.merge, plan.merge)[0]
    noise = torch.rand(patches.shape[:2]).to(patches.device)
    score = seen.cls_attention if plan.sort == "cls" else noise + (pictures.color > 0)
    return gather_rows(patches, selected_first(score, plan.keep)[:, : plan.keep])


def selected_first(score: torch.Tensor, count: int) -> torch.Tensor:
    """As ``edgeprune.methods.selection.selected_first``, by sorting: ties are of no account in training."""
    order = score.argsort(dim=1, descending=True)
    return torch.cat((order[:, :count].sort(dim=1).values, order[:, count:].sort(dim=1).values), dim=1)
