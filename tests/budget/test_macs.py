"""The papers' own FLOP figures, to the digits they show; all are multiply-accumulates of LLaVA-1.5-7B's decoder."""

from __future__ import annotations

import pytest

from edgeprune import catalog
from edgeprune.budget.macs import layer_macs, visual_macs, visual_share
from edgeprune.budget.schedule import Schedule, Site, Stage, make_schedule

TERA, GIGA = 1e12, 1e9


def cut(counts: list[int], tokens: int, layers: list[int], whole: int) -> Schedule:
    places = [8, 16, 24, 28][: len(counts)]
    stages = [Stage(place, keep, 0, depth) for place, keep, depth in zip(places, counts, layers, strict=True)]
    return Schedule(tuple(stages), tokens, tokens, whole)


def test_pyramiddrop() -> None:
    assert round(32 * layer_macs(576) / TERA, 2) == 3.82
    default = make_schedule("pyramiddrop", "paper:270", Site(576, (8, 16, 24), 32))
    assert round(visual_macs(default) / TERA, 2) == 1.78
    assert round(visual_macs(default) / TERA, 3) == 1.777
    three = cut([288, 144], 576, [10, 12], 10)
    assert round(visual_macs(three) / TERA, 2) == 2.13


def test_pyramiddrop_on_llava_next() -> None:
    assert round(32 * layer_macs(2880) / TERA, 3) == 20.825
    pruned = cut([1440, 720, 360], 2880, [8, 8, 8], 8)
    assert round(visual_macs(pruned) / TERA, 3) == 9.465
    assert round(1 - visual_share(pruned), 3) == 0.546  # "55 % less"


def test_fastv() -> None:
    whole, half = layer_macs(612, matrices=2), layer_macs(324, matrices=2)
    assert round(whole / GIGA, 1) == 99.3
    assert round((2 * whole + 30 * half) / (32 * whole), 3) == 0.552  # K = 2, R = 50 %: "45 % less"
    assert round((3 * whole + 29 * half) / (32 * whole), 3) == 0.567  # K = 3: "57 %"


def test_sparsevlm() -> None:
    """1.8177 T were logged for 192 tokens, with about 70 words of text: what every layer takes in."""
    layers, rows = [3, 4, 9, 16], [576, 309, 204, 113]

    def logged(words: int) -> float:
        return sum(n * layer_macs(v + words) for n, v in zip(layers, rows, strict=True)) / TERA

    assert round(logged(70), 4) == 1.8155
    assert round(logged(71), 4) == 1.8221
    assert abs(logged(70) - 1.8177) / 1.8177 < 0.004


@pytest.mark.parametrize(("label", "tera"), [("192", 1.254), ("128", 0.834), ("64", 0.416), ("32", 0.208)])
def test_visiondrop(label: str, tera: float) -> None:
    schedule = make_schedule("visiondrop", f"paper:{label}", Site(576, ("vision", 8, 16, 24), 32))
    assert round(visual_macs(schedule) / TERA, 3) == tera


def test_the_share_is_one_without_pruning_and_less_with_it() -> None:
    assert visual_share(cut([576], 576, [16], 16)) == 1.0
    for name in catalog.names():
        card = catalog.card(name)
        for budget in card.budgets:
            schedule = make_schedule(name, f"paper:{budget.label}", Site(budget.tokens, card.places, 32))
            assert 0 < visual_share(schedule) <= schedule.average / schedule.tokens
