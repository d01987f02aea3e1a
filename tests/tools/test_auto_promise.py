"""The benchmark of ``keep="auto"``: its oracle, its verdict, and one small run of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from tools.auto_promise import Outcome, main, oracle, prompt, render

OUTCOME = Outcome(
    budget_ms=60.0,
    state="fresh",
    requests=50,
    p50_ms=55.0,
    p90_ms=61.0,
    max_ms=90.0,
    within=0.88,
    trial_ms=700.0,
    refused=0,
    tokens=(90, 180, 200),
    oracle=200,
    load=0.5,
)


def test_the_oracle_lies_between_two_fixed_budgets() -> None:
    fixed: dict[int | str, list[float]] = {10: [40.0] * 10, 110: [50.0] * 10, 210: [70.0] * 10, "all": [80.0] * 10}
    assert oracle(fixed, 576, 60.0) == 160
    assert oracle(fixed, 576, 75.0) == 210
    assert oracle(fixed, 576, 80.0) == 576
    assert oracle(fixed, 576, 39.0) == 0


def test_the_table_says_whether_the_promise_was_kept(tmp_path: Path) -> None:
    text = render([OUTCOME], tmp_path / "demo", "visiondrop")
    assert "| 60 ms | fresh | 55 / 61 / 90 | 88% | 90 / 180 / 200 | 200 (90%) | kept, p90 102% |" in text
    assert "demo, visiondrop, 50 requests per row" in text
    for found, verdict in ((0, "- | no budget fits"), (None, "- | broken"), (200, "200 (90%) | broken")):
        late = replace(OUTCOME, p90_ms=90.0, oracle=found)
        assert f"| {verdict}, p90 150% |" in render([late], tmp_path / "demo", "visiondrop")


@pytest.mark.parametrize(("p90_ms", "kept"), [(60.0, True), (66.0, True), (66.1, False), (math.inf, False)])
def test_within_a_tenth_is_kept(p90_ms: float, kept: bool) -> None:
    values = vars(OUTCOME) | {"p90_ms": p90_ms}
    assert Outcome(**values).kept is kept


def test_texts_vary_in_length() -> None:
    lengths = {prompt(seed)[1].count("?") for seed in range(8)}
    assert lengths == {1, 2, 3, 4}


def test_a_run_leaves_nothing_in_the_users_state_folder(
    bundle_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    words = [str(bundle_tiny), "--method", "visiondrop", "--ttft-budget", "60s", "--requests", "3", "--fixed", "2"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--threads", "1", "--json"])
    assert stopped.value.code == 0
    fresh, remembered = json.loads(capsys.readouterr().out)
    assert (fresh["state"], remembered["state"]) == ("fresh", "remembered")
    assert fresh["tokens"] == [64, 64, 64] and fresh["oracle"] == 64 and fresh["kept"]
    assert 0 < remembered["trial_ms"] < 60_000
    assert not (tmp_path / "state").exists()
    with pytest.raises(SystemExit, match="the bundle has no method 'fastv'; it has visiondrop"):
        main([*words[:2], "fastv", *words[3:]])
    with pytest.raises(SystemExit):
        main([*words, "--requests", "0"])
    assert "--requests is 0, expected 1 or more" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="is no time with a unit"):
        main([*words[:4], "60"])
