"""Which rows are run, what each question is asked with, and what is refused before anything is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgeprune.budget.keep import parse_keep
from edgeprune.errors import BudgetError, ImageError, QuestionError, UsageError
from edgeprune.eval.accuracy import table
from edgeprune.eval.data import Sample
from edgeprune.eval.run import UNPRUNED, Run, Size, check_questions, evaluate, plan_runs, versions
from edgeprune.runtime.vlm import VLM

REACH = {"wide": (10, 500), "narrow": (100, 150)}


@dataclass
class Stand:
    """Stands in for a VLM of 576 visual tokens and two methods; answers with the budget."""

    asked: list[dict[str, Any]] = field(default_factory=list)

    @property
    def manifest(self) -> Any:
        methods = [SimpleNamespace(name=name) for name in REACH]
        return SimpleNamespace(most_tokens=576, methods=methods)

    @property
    def prompt(self) -> Any:
        return SimpleNamespace(encode=self.encode, check_length=self.check_length)

    def encode(self, question: str) -> Any:
        return SimpleNamespace(text_tokens=len(question))

    def check_length(self, text_tokens: int, visual_tokens: int, new_tokens: int) -> None:
        if text_tokens + visual_tokens + new_tokens > 600:
            raise QuestionError("too long")

    def plan(self, keep: str, method: str | None, tokens: int, runs: int) -> tuple[object, object]:
        if method not in REACH:
            raise UsageError(f"the bundle has no method {method!r}")
        average = parse_keep(keep, tokens)
        if average is None:
            return None, None
        if average == "paper:128" and method == "wide":
            return method, average
        low, high = REACH[method]
        if isinstance(average, str) or not low <= average <= high:
            raise BudgetError(f"{method} cannot keep {keep}; it reaches {low}..{high}")
        return method, average

    def generate(
        self, question: str, images: list[Path], keep: str, method: str | None, max_new_tokens: int, seed: int
    ) -> Any:
        if images[0].name == "bad.png":
            raise ImageError("bad.png is damaged")
        self.asked.append({"keep": keep, "method": method, "limit": max_new_tokens, "seed": seed})
        return SimpleNamespace(text=f"The {keep}.", ttft_ms=1.0, visual_tokens_average=2.0)


SIZES = {0: Size(576, 1), 1: Size(576, 1)}


def plan(
    methods: list[str] | None, keeps: list[str] | None, sizes: dict[int, Size] = SIZES
) -> tuple[list[str], tuple[str, ...]]:
    runs, left_out = plan_runs(cast(VLM, Stand()), methods, keeps, samples(), sizes)
    assert runs[0] == UNPRUNED
    return [run.label for run in runs[1:]], left_out


def test_usual_budgets_out_of_reach_are_left_out_in_one_line_per_method() -> None:
    labels, left_out = plan(None, None)
    assert labels == ["wide 192", "wide 128", "wide 64", "wide 32", "narrow 128"]
    assert left_out == ("narrow: left out --keep 192, 64, 32: narrow cannot keep 32; it reaches 100..150",)


def test_a_named_budget_is_left_out_where_another_method_reaches_it() -> None:
    assert plan(None, ["all", "64"]) == (
        ["wide 64"],
        ("narrow: left out --keep 64: narrow cannot keep 64; it reaches 100..150",),
    )
    assert plan(None, ["paper:128", "50%"])[0] == ["wide paper:128", "wide 50%"]
    assert plan(["narrow"], None)[0] == ["narrow 128"]
    assert plan(None, ["100%", "576"]) == ([], ())  # both are the unpruned row


@pytest.mark.parametrize(
    ("methods", "keeps", "message"),
    [
        (["narrow"], ["128", "64"], "narrow cannot keep 64"),
        (None, ["128", "5"], "cannot keep 5"),
        (None, ["paper:9"], "cannot keep paper:9"),
        (None, ["abc"], "'abc' is no budget"),
        (None, [""], "'' is no budget"),
        (None, ["600"], "out of range"),
        (None, ["64", "64"], "--keep names '64' twice"),
        (["wide", "wide"], None, "--method names 'wide' twice"),
        (["other"], None, "no method 'other'"),
        (["wide"], ["all"], "--method wide has no effect at --keep all"),
    ],
)
def test_words_that_are_refused(methods: list[str] | None, keeps: list[str] | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(methods, keeps)


def samples() -> list[Sample]:
    return [Sample(f"line {index}", lambda: Path("a.png"), index // 2, "What?", "all", ("all",)) for index in range(4)]


def test_every_question_in_every_run_with_a_seed_per_picture() -> None:
    stand = Stand()
    labels: list[str] = []
    advanced: list[int] = []
    runs = [UNPRUNED, Run("wide", "64"), Run("wide", "32")]
    rows = evaluate(cast(VLM, stand), samples(), runs, 9, 3, SIZES, labels.append, lambda: advanced.append(1))
    first = next(rows)
    assert len(stand.asked) == len(advanced) == 4  # each row is given as it is finished
    assert first.overall is not None and first.overall.right == 4
    second, third = rows
    assert labels == [first.label, second.label, third.label] == ["all", "wide 64", "wide 32"]
    assert (first.agreement, second.agreement, third.agreement) == (1, 0, 0)
    assert (second.method, second.keep, second.average) == ("wide", "64", 2.0)
    assert [entry["seed"] for entry in stand.asked[4:8]] == [3_000_000, 3_000_000, 3_000_001, 3_000_001]
    assert {entry["limit"] for entry in stand.asked} == {9}


def test_a_picture_of_fewer_tokens_than_the_budget_is_not_pruned() -> None:
    sizes = {0: Size(576, 5), 1: Size(128, 3)}
    assert plan(None, ["128"], sizes) == (["wide 128", "narrow 128"], ())
    stand = Stand()
    first, second = evaluate(cast(VLM, stand), samples(), [UNPRUNED, Run("wide", "128")], 9, 0, sizes)
    assert [(entry["method"], entry["keep"]) for entry in stand.asked[4:]] == [("wide", "128")] * 2 + [
        (None, "all")
    ] * 2
    assert (first.spared, second.spared, second.agreement) == (0, 2, 0.5)
    note = "wide 128: not pruned for 2 of the questions, whose pictures have no more than 128 visual tokens"
    assert table([first, second]).splitlines()[3:] == [note]
    with pytest.raises(BudgetError, match="--keep 192 prunes nothing: no picture has more than 128 visual"):
        plan(None, ["192"], {0: Size(100, 2), 1: Size(128, 3)})
    with pytest.raises(BudgetError, match="line 2: narrow cannot keep 50%"):  # half of what the first picture has
        plan(["narrow"], ["50%"], {0: Size(250, 5), 1: Size(128, 3)})


def test_the_line_is_named_with_what_is_wrong() -> None:
    bad = Sample("line 7", lambda: Path("bad.png"), 0, "What?", "all", ())
    with pytest.raises(ImageError, match=r"line 7: bad\.png is damaged"):
        list(evaluate(cast(VLM, Stand()), [bad], [UNPRUNED], 9, 0, SIZES))
    long = Sample("line 8", lambda: Path("a.png"), 0, "?" * 50, "all", ())
    with pytest.raises(QuestionError, match="line 8: too long"):
        check_questions(cast(VLM, Stand()), [*samples(), long])


def test_versions_name_python_and_edgeprune() -> None:
    assert {"python", "edgeprune", "numpy"} <= set(versions())
