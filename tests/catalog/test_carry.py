"""Which models can carry a method, and what is said of those that cannot."""

from __future__ import annotations

import pytest

from edgeprune import catalog
from edgeprune.errors import UsageError
from edgeprune.estimate.find import find_model
from edgeprune.estimate.grid import make_grid
from edgeprune.estimate.precision import precision
from edgeprune.estimate.survey import carried
from edgeprune.recipes import model as recipes

NO = {
    "internvl3-1b": {"cdpruner", "flowcut"},
    "llava-1.5-7b": set(),
    "llava-v1.6-mistral-7b": set(),
    "llava-onevision-qwen2-0.5b": {"cdpruner", "flowcut"},
    "qwen2.5-vl-3b": {"cdpruner", "flowcut", "sts", "sts-greedy", "vispruner"},
    "video-llava-7b": {"cdpruner"},
}


@pytest.mark.parametrize("model", NO)
def test_who_cannot(model: str) -> None:
    rows = [carried(find_model(model), name) for name in catalog.names()]
    assert {row.method for row in rows if row.carried == "no"} == NO[model]
    for row in rows:
        assert (row.reach is None) == (row.carried == "no")
        assert row.why or model == "llava-1.5-7b"


def test_a_tower_of_clips_build_is_not_clips() -> None:
    """Video-LLaVA's towers are LanguageBind's: FlowCut prunes inside them, CLIP's text tower knows nothing of them."""
    video = find_model("video-llava-7b")
    assert (
        "the model's encoder is LanguageBind's: no text tower of CLIP belongs to it" in carried(video, "cdpruner").why
    )
    assert carried(video, "flowcut").carried != "no"
    shape = video.shape
    picture = catalog.obstacle(catalog.card("cdpruner"), shape.vision, "fixed", "video_llava", 32)
    assert picture is not None and "LanguageBind's" in picture


def test_what_a_cut_before_the_decoder_leaves_out_is_said() -> None:
    one = find_model("llava-onevision-qwen2-0.5b")
    for name in catalog.names():
        row, early = carried(one, name), isinstance(catalog.card(name).places[0], str)
        assert ("pooling of frames and shrinking" in row.why) == (early and row.carried != "no")
        assert row.carried != "yes" or not early


@pytest.mark.parametrize("model", recipes.names())
def test_an_estimate_refuses_what_cannot_be_carried(model: str) -> None:
    found, held = find_model(model), precision("fp16")
    for name in catalog.names():
        row = carried(found, name)
        if row.reach is None:
            with pytest.raises(UsageError, match=f"{model} cannot carry {name}: .*list methods --for {model}$"):
                make_grid(found, held, 60, [name], ["all"])
        else:
            assert make_grid(found, held, 60, [name], [str(row.reach[1])]).requests[0].method == name


def test_line_ends_are_told_of_where_there_are_some() -> None:
    names = [name for name in catalog.names() if "newline" in catalog.card(name).elsewhere["tiles"]]
    assert len(names) > 8
    nexts, intern = find_model("llava-v1.6-vicuna-7b"), find_model("internvl3-1b")
    for name in names:
        plain = carried(intern, name)
        assert "newline" in carried(nexts, name).why
        assert "newline" not in plain.why and "no setting" not in plain.why
        assert plain.reach is None or "tile" in plain.why or "picture" in plain.why


def test_as_published_or_generalised() -> None:
    nexts, plain = find_model("llava-v1.6-vicuna-7b"), find_model("llava-1.5-7b")
    for name in ("visionzip", "cdpruner", "vispruner", "pyramiddrop", "flowcut"):
        assert carried(nexts, name).carried == "yes"
    assert carried(nexts, "fastv").carried == "generalised"
    assert {carried(plain, name).carried for name in catalog.names()} == {"yes"}
    assert carried(find_model("internvl3-2b"), "visionzip").carried == "generalised"  # published for LLaVA-NeXT alone


@pytest.mark.parametrize("name", catalog.names())
def test_a_card_has_a_line_wherever_there_is_no_obstacle(name: str) -> None:
    """So that nothing is carried of which nothing is said."""
    card = catalog.card(name)
    assert set(card.elsewhere) <= {"tiles", "frames", "native", "blended", "bare", "merged"}
    for line in card.elsewhere.values():
        assert line.startswith(("published", "ours"))
    for model in recipes.names():
        shape = find_model(model).shape
        free = catalog.obstacle(card, shape.vision, shape.kind, shape.family, shape.decoder.layers) is None
        assert not free or shape.kind == "fixed" or shape.kind in card.elsewhere
