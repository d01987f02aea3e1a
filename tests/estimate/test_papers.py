"""The papers' own FLOP figures, to the digits they show.

``..._macs``: multiply-accumulates of LLaVA-1.5-7B's decoder, each counted once. ``..._whole_model``: two FLOPs for each
in all of the model. Both conventions: ``edgeprune.estimate.papers``.
"""

from __future__ import annotations

import pytest

from edgeprune import catalog
from edgeprune.budget.schedule import Schedule, Site, Stage, make_schedule
from edgeprune.bundle.sizes import Decoder, Vision
from edgeprune.estimate.papers import PROJECTIONS, layer_macs, visual_macs, visual_share, whole_model_flops
from edgeprune.estimate.shape import Shape

TERA, GIGA = 1e12, 1e9
CLIP = Vision((24, 24), 1024, 23, 16, 4096, 14)
VICUNA = Decoder(32, 4096, 32, 32, 128, 11008, 32000, 4096)
PLACES = catalog.card("visiondrop").places


def cut(counts: list[int], tokens: int, layers: list[int], whole: int) -> Schedule:
    places = [8, 16, 24, 28][: len(counts)]
    stages = [Stage(place, keep, 0, depth) for place, keep, depth in zip(places, counts, layers, strict=True)]
    return Schedule(tuple(stages), tokens, tokens, whole)


def test_pyramiddrop_macs() -> None:
    """3.82 T and 1.78 T: visual rows alone, three matrices of the feed-forward."""
    assert round(32 * layer_macs(576) / TERA, 2) == 3.82
    default = make_schedule("pyramiddrop", "paper:270", Site(576, (8, 16, 24), 32))
    assert round(visual_macs(default) / TERA, 2) == 1.78
    assert round(visual_macs(default) / TERA, 3) == 1.777
    three = cut([288, 144], 576, [10, 12], 10)
    assert round(visual_macs(three) / TERA, 2) == 2.13


def test_pyramiddrop_on_llava_next_macs() -> None:
    """54.6% less, which the paper calls 55%: visual rows alone."""
    assert round(32 * layer_macs(2880) / TERA, 3) == 20.825
    pruned = cut([1440, 720, 360], 2880, [8, 8, 8], 8)
    assert round(visual_macs(pruned) / TERA, 3) == 9.465
    assert round(1 - visual_share(pruned), 3) == 0.546


def test_fastv_macs() -> None:
    """99.3 G of one layer, and 55.2% and 56.7% of all: visual rows and 36 of the system prompt, two matrices."""
    whole, half = layer_macs(612, matrices=2), layer_macs(324, matrices=2)
    assert round(whole / GIGA, 1) == 99.3
    assert round((2 * whole + 30 * half) / (32 * whole), 3) == 0.552  # K = 2, R = 50 %: "45 % less"
    assert round((3 * whole + 29 * half) / (32 * whole), 3) == 0.567  # K = 3: "57 %"


def test_sparsevlm_macs() -> None:
    """1.8177 T were logged for 192 tokens, with about 70 words of text: all rows that every layer takes in."""
    layers, rows = [3, 4, 9, 16], [576, 309, 204, 113]

    def logged(words: int) -> float:
        return sum(n * layer_macs(v + words) for n, v in zip(layers, rows, strict=True)) / TERA

    assert round(logged(70), 4) == 1.8155
    assert round(logged(71), 4) == 1.8221
    assert logged(70) == pytest.approx(1.8177, rel=0.004)
    assert logged(71) == pytest.approx(1.8177, rel=0.004)


@pytest.mark.parametrize(("label", "tera"), [("192", 1.254), ("128", 0.834), ("64", 0.416), ("32", 0.208)])
def test_visiondrop_macs(label: str, tera: float) -> None:
    """What the same convention gives for VisionDrop; its paper has no such figures."""
    schedule = make_schedule("visiondrop", f"paper:{label}", Site(576, PLACES, 32))
    assert round(visual_macs(schedule) / TERA, 3) == tera


def test_visiondrop_whole_model() -> None:
    """9.06 T with 576 tokens and 2.11 T with 64, with 63 rows of text and VisionDrop's own projections."""
    shape = Shape("llava-1.5-7b", CLIP, VICUNA)
    schedule = make_schedule("visiondrop", "paper:64", Site(576, PLACES, 32))
    assert whole_model_flops(shape, 63) / TERA == pytest.approx(9.06, rel=0.003)
    assert whole_model_flops(shape, 63, schedule, PROJECTIONS["visiondrop"]) / TERA == pytest.approx(2.11, rel=0.003)


def test_visiondrop_on_llava_next_whole_model() -> None:
    """46.25 T with 2880 tokens and 7.70 T with 320: five pictures, of which no prompt length fits both as above.

    Both fit with 111 rows that are no visual tokens, the 63 of before and the 48 that LLaVA-NeXT puts at the ends of
    lines, if what VisionDrop projects again is left out. With it, 7.70 T asks for 101 rows.
    """
    shape = Shape("llava-next-7b", CLIP, VICUNA, runs=5)
    schedule = make_schedule("visiondrop", 320, Site(2880, PLACES, 32))
    assert whole_model_flops(shape, 63 + 48) / TERA == pytest.approx(46.25, rel=0.003)
    assert whole_model_flops(shape, 63 + 48, schedule) / TERA == pytest.approx(7.70, rel=0.003)
    assert whole_model_flops(shape, 101, schedule, PROJECTIONS["visiondrop"]) / TERA == pytest.approx(7.70, rel=0.003)
    assert whole_model_flops(shape, 101) / TERA == pytest.approx(46.25, rel=0.004)


def test_the_share_is_one_without_pruning_and_less_with_it() -> None:
    assert visual_share(cut([576], 576, [16], 16)) == 1.0
    for name in catalog.names():
        card = catalog.card(name)
        for budget in card.budgets:
            schedule = make_schedule(
                name,
                f"paper:{budget.label}",
                Site(budget.tokens, card.at(32, budget.kind), 32, budget.runs, medium=budget.medium),
            )
            assert 0 < visual_share(schedule) <= schedule.average / schedule.tokens
