"""Which names reach a rule, which layers see how many rows, and the papers' own labels."""

import pytest

from edgeprune import catalog
from edgeprune.budget.schedule import Schedule, Site, Stage, make_schedule, reach
from edgeprune.bundle.sizes import Vision
from edgeprune.errors import BudgetError, UsageError

SITE = Site(576, ("vision", 8, 16, 24), 32)


@pytest.mark.parametrize("name", ["keep", "schedule", "visiondrop.os", "..x", "", "antigravity"])
def test_a_name_that_is_no_method_is_never_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(module: str) -> None:
        raise AssertionError(f"{module} was imported")

    monkeypatch.setattr("importlib.import_module", refuse)
    with pytest.raises(UsageError, match=r"unknown method .*; methods: .*\bvisiondrop\b"):
        reach(name, SITE)
    for keep in (64, "paper:64"):
        with pytest.raises(UsageError, match="unknown method"):
            make_schedule(name, keep, SITE)


def test_what_was_asked_is_kept() -> None:
    assert make_schedule("visiondrop", 65, SITE).asked == 65
    assert make_schedule("visiondrop", "paper:64", SITE).asked == "paper:64"


def test_layers_of_every_place() -> None:
    deep = Site(576, ("vision", 5, 11, 16), 22)
    assert (deep.weights, deep.whole, deep.cuts) == ((5, 6, 5, 6), 0, (5, 11, 16))
    late = Site(576, (2,), 32)
    assert (late.weights, late.whole, late.cuts) == ((30,), 2, (2,))
    both = Site(576, ("vision", "projected", 8), 32)
    assert (both.weights, both.whole, both.cuts) == ((0, 8, 24), 0, (8,))


def test_the_average_is_over_every_decoder_layer() -> None:
    pruned = Schedule((Stage("vision", 10, 2, 5), Stage(5, 4, 1, 6)), 7, 64, 0)
    assert pruned.average == pytest.approx((50 + 24) / 11)
    late = Schedule((Stage(2, 10, 0, 6),), 25, 64, 2)
    assert late.average == pytest.approx((2 * 64 + 6 * 10) / 8)
    twice = Schedule((Stage("vision", 30, 0, 0), Stage("projected", 12, 0, 8)), 12, 64, 0)
    assert twice.average == 12  # no decoder layer sees what the first leaves


def test_the_rows_that_enter_the_decoder() -> None:
    assert make_schedule("visiondrop", 32, SITE).first == 48
    assert Schedule((Stage(2, 10, 0, 6),), 25, 64, 2).first == 64
    assert Schedule((Stage("vision", 30, 0, 0), Stage("projected", 12, 0, 8)), 12, 64, 0).first == 12


# --- the papers' labels -------------------------------------------------------------------------------------------


def test_a_papers_label_gives_its_counts() -> None:
    schedule = make_schedule("visiondrop", "paper:32", SITE)
    assert [(stage.cut, stage.keep, stage.merge, stage.layers) for stage in schedule.stages] == [
        ("vision", 48, 6, 8),
        (8, 35, 5, 8),
        (16, 26, 4, 8),
        (24, 19, 3, 8),
    ]
    assert (schedule.label, schedule.average, schedule.tokens, schedule.whole) == ("32", 32, 576, 0)


def test_an_average_that_is_a_row_of_the_paper_has_its_label() -> None:
    for label in ("192", "128", "64", "32"):
        named, counted = (
            make_schedule("visiondrop", f"paper:{label}", SITE),
            make_schedule("visiondrop", int(label), SITE),
        )
        assert counted.label == named.label == label
        assert counted.stages == named.stages
    assert make_schedule("visiondrop", 65, SITE).label is None


def test_a_label_is_of_its_number_of_tokens() -> None:
    """The same counts out of another number of patches are no row of the paper."""
    assert make_schedule("visiondrop", 32, Site(256, SITE.places, 32)).label is None


def test_a_picture_of_its_own_size_has_no_label() -> None:
    """That it has 576 visual tokens by chance, as LLaVA-1.5's always has, makes it no row of a paper."""
    places = SITE.places
    native = Vision(None, 5120, 32, 16, 3456, 14, "none", 2)
    own, fixed = (
        Site.of(facts, 32, "image", places, 576, 1) for facts in (native, Vision((24, 24), 16, 23, 2, 32, 14))
    )
    assert (own.given, own.of_run, fixed.given) == (576, 576, 576)
    assert (make_schedule("visiondrop", 64, own).label, make_schedule("visiondrop", 64, fixed).label) == (None, "64")
    assert make_schedule("visiondrop", "paper:64", fixed).label == "64"
    with pytest.raises(BudgetError, match="its labels: none for pictures of their own size"):
        make_schedule("visiondrop", "paper:64", own)


def test_an_unknown_label_names_the_labels() -> None:
    with pytest.raises(BudgetError) as caught:
        make_schedule("visiondrop", "paper:48", SITE)
    assert str(caught.value) == (
        "--keep paper:48 is no budget of visiondrop's paper; its labels: paper:192, paper:128, paper:64, paper:32"
    )
    with pytest.raises(BudgetError, match="its labels: none for 64 visual tokens"):
        make_schedule("visiondrop", "paper:32", Site(64, SITE.places, 32))


def test_a_label_for_other_places_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"paper:32 has 4 counts and this bundle cuts in 3 places"):
        make_schedule("visiondrop", "paper:32", Site(576, ("vision", 8, 16), 32))


@pytest.mark.parametrize("name", catalog.names())
def test_every_label_is_one_stage_per_place(name: str) -> None:
    """At 32 layers, where its places are the card's."""
    card = catalog.card(name)
    for budget in card.budgets:
        site = Site(budget.tokens, card.at(32, budget.kind), 32, budget.runs, medium=budget.medium)
        schedule = make_schedule(name, f"paper:{budget.label}", site)
        assert tuple(stage.rows for stage in schedule.stages) == budget.counts
        assert schedule.label == budget.label
        assert all(0 <= stage.merge < stage.keep for stage in schedule.stages)
