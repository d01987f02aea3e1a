"""Whether ``keep="auto"`` keeps its promise: TTFT of many requests against a budget, and tokens against an oracle's.

    python tools/auto_promise.py BUNDLE --method visiondrop --ttft-budget 60ms [--ttft-budget 80ms] [--json]

For every budget the requests run twice: with an empty state folder, and with what that left behind. Scenes and
questions are the demo's, of one to four sentences. Beside every request the same prompt runs at fixed budgets, so that
both meet the same machine; the oracle is the largest fixed budget that fits in nine of ten, read off between them. The
promise: 90% of the requests take at most 1.1 times the budget; one that is refused counts as one that took for ever.
Uses a temporary state folder, never the user's.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.bench.host import cpu_model
from edgeprune.budget.schedule import reach, site_of
from edgeprune.cli.run import milliseconds
from edgeprune.demo.scenes import HELD_OUT_SEED, draw_scene
from edgeprune.errors import BudgetError, EdgePruneError
from edgeprune.runtime.preprocess import Source
from edgeprune.runtime.vlm import VLM, open_vlm

SLACK = 1.1
"""Of the budget: what 90% of the requests must stay within."""
SHARE = 90  # percentile
NEW_TOKENS = 4


@dataclass(frozen=True)
class Outcome:
    """One row: a budget, and what its requests took and kept.

    Attributes:
        budget_ms: asked for.
        state: "fresh" or "remembered".
        requests: how many.
        p50_ms, p90_ms, max_ms: of TTFT.
        within: share of the requests within the budget.
        trial_ms: what ran in advance, once.
        refused: requests that found no budget that fits.
        tokens: least, median and most of the tokens chosen, all of them counted as such.
        oracle: tokens of the largest fixed budget that fits in nine of ten, 0 if none does; None without one.
        load: of the machine at the end, as the kernel counts it.
    """

    budget_ms: float
    state: str
    requests: int
    p50_ms: float
    p90_ms: float
    max_ms: float
    within: float
    trial_ms: float
    refused: int
    tokens: tuple[int, int, int]
    oracle: int | None
    load: float

    @property
    def kept(self) -> bool:
        """Whether the promise was."""
        return self.p90_ms <= SLACK * self.budget_ms


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--method", required=True)
    parser.add_argument("--ttft-budget", required=True, action="append", metavar="TIME")
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--fixed", type=int, default=8, help="fixed budgets beside each request; 0 is no oracle")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args(arguments)
    if words.requests < 1:
        parser.error(f"--requests is {words.requests}, expected 1 or more")
    try:
        budgets = [milliseconds(text) for text in words.ttft_budget]
        outcomes = [outcome for budget in budgets for outcome in both(words, budget)]
    except EdgePruneError as error:
        raise SystemExit(f"{parser.prog}: {error}") from error
    if words.json:
        print(json.dumps([facts(outcome) for outcome in outcomes]))
    else:
        print(render(outcomes, words.bundle, words.method))
    raise SystemExit(0 if all(outcome.kept for outcome in outcomes) else 1)


def facts(outcome: Outcome) -> dict[str, Any]:
    """A row as JSON has it, where a time that was never reached is null."""
    found = asdict(outcome) | {"kept": outcome.kept}
    return {key: None if value == math.inf else value for key, value in found.items()}


def both(words: argparse.Namespace, budget_ms: float) -> list[Outcome]:
    """A budget with an empty state folder, and with what is in it afterwards."""
    before = os.environ.get("XDG_STATE_HOME")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = folder
        try:
            for part, state in enumerate(("fresh", "remembered")):
                with open_vlm(words.bundle, words.threads, check_hashes=False) as vlm:
                    found.append(ask(vlm, words, budget_ms, state, words.seed + part * words.requests))
        finally:
            if before is None:
                del os.environ["XDG_STATE_HOME"]
            else:
                os.environ["XDG_STATE_HOME"] = before
    return found


def ask(vlm: VLM, words: argparse.Namespace, budget_ms: float, state: str, seed: int) -> Outcome:
    """All requests of one row."""
    vlm.plan("all", words.method)  # raises for a method that is not there
    entry = vlm.manifest.method(words.method)
    assert entry is not None
    low, high = reach(words.method, site_of(vlm.manifest, entry))
    fixed: dict[int | str, list[float]] = {int(keep): [] for keep in np.linspace(low, high, words.fixed)}
    if words.fixed:
        fixed["all"] = []
    times: list[float] = []
    tokens: list[int] = []
    trial = 0.0
    for number in range(words.requests):
        picture, question = prompt(seed + number)
        try:
            answer = vlm.generate(question, [picture], "auto", words.method, NEW_TOKENS, ttft_budget_ms=budget_ms)
            times.append(answer.ttft_ms)
            tokens.append(vlm.manifest.most_tokens if answer.keep == "all" else int(answer.keep))
            trial += answer.timings_ms.get("trial", 0.0)
        except BudgetError as error:
            times.append(math.inf)
            refusal = error
        for keep, collected in fixed.items():
            method = None if keep == "all" else words.method
            collected.append(vlm.generate(question, [picture], keep, method, 1).ttft_ms)
    if not tokens:
        raise refusal
    tokens.sort()
    return Outcome(
        budget_ms=budget_ms,
        state=state,
        requests=len(times),
        p50_ms=statistics.median(times),
        p90_ms=float(np.percentile(times, SHARE, method="higher")),
        max_ms=max(times),
        within=sum(time <= budget_ms for time in times) / len(times),
        trial_ms=trial,
        refused=len(times) - len(tokens),
        tokens=(tokens[0], int(statistics.median(tokens)), tokens[-1]),
        oracle=oracle(fixed, vlm.manifest.most_tokens, budget_ms) if fixed else None,
        load=os.getloadavg()[0],
    )


def prompt(seed: int) -> tuple[Source, str]:
    """A scene of the demo and one to four of its questions in a row."""
    scene = draw_scene(HELD_OUT_SEED + seed)
    count = 1 + seed % 4
    return scene.image, " ".join(question.text for question in scene.questions[:count])


def oracle(fixed: dict[int | str, list[float]], tokens: int, budget_ms: float) -> int:
    """The largest fixed budget whose p90 fits, read off the straight line between two that ran; 0 if none fits."""
    if np.percentile(fixed["all"], SHARE) <= budget_ms:
        return tokens
    points = [(int(keep), float(np.percentile(times, SHARE))) for keep, times in fixed.items() if keep != "all"]
    fitting = [index for index, (_, time) in enumerate(points) if time <= budget_ms]
    if not fitting:
        return 0
    last = fitting[-1]
    if last + 1 == len(points):
        return points[last][0]
    (keep, time), (next_keep, next_time) = points[last], points[last + 1]
    return int(keep + (next_keep - keep) * (budget_ms - time) / (next_time - time))


def render(outcomes: list[Outcome], bundle: Path, method: str) -> str:
    """A table in Markdown, and under it the conditions."""
    lines = [
        "| budget | state | TTFT p50 / p90 / max, ms | within | tokens least / median / most | oracle | promise |",
        "|---|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        share = f"{o.oracle} ({o.tokens[1] / o.oracle:.0%})" if o.oracle else "-"
        verdict = "kept" if o.kept else "no budget fits" if o.oracle == 0 else "broken"
        lines.append(
            f"| {o.budget_ms:g} ms | {o.state} | {o.p50_ms:.0f} / {o.p90_ms:.0f} / {o.max_ms:.0f} | {o.within:.0%} | "
            f"{o.tokens[0]} / {o.tokens[1]} / {o.tokens[2]} | {share} | {verdict}, p90 {o.p90_ms / o.budget_ms:.0%} |"
        )
    cpu = cpu_model(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    loads = ", ".join(f"{o.load:.1f}" for o in outcomes)
    lines.append("")
    lines.append(f"{bundle.name}, {method}, {outcomes[0].requests} requests per row; {cpu}, load {loads}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
