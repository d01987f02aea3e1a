"""``edgeprune run --keep auto``: what it says, and what it refuses before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.cli.run import milliseconds
from edgeprune.errors import UsageError
from tests.cli.conftest import Command


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(path)
    return path


def test_the_choice_is_said(edgeprune: Command, bundle_tiny: Path, photo: Path) -> None:
    words = ("run", bundle_tiny, photo, "what?", "--keep", "auto", "--ttft-budget", "60s", "--max-new-tokens", 2)
    first = edgeprune(*words).out.splitlines()[-1]
    assert first.startswith("[auto: all tokens, predicted ")
    assert " ms of trials | visual tokens 64, unpruned | TTFT " in first
    found = json.loads(edgeprune(*words, "--json").out)
    assert found["keep"] == "all" and 0 < found["ttft_predicted_ms"] < 60_000
    assert "trial" in found["timings_ms"]


def test_an_overlay_of_all_tokens_is_not_drawn_and_that_is_said(
    edgeprune: Command, bundle_tiny: Path, photo: Path, tmp_path: Path
) -> None:
    target = tmp_path / "kept.png"
    words = ("--keep", "auto", "--ttft-budget", "60s", "--max-new-tokens", 1, "--overlay", target)
    result = edgeprune("run", bundle_tiny, photo, "what?", *words)
    assert result.code == 0 and not target.exists()
    assert result.line == f"edgeprune: no {target}: all tokens fit 60s, nothing was pruned"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep", "auto"], "--keep auto needs the time to first token it is to fit: --ttft-budget 150ms"),
        (["--ttft-budget", "150ms"], "--ttft-budget 150ms has no effect with --keep all: give --keep auto"),
        (
            ["--keep", "20", "--ttft-budget", "1s"],
            "--ttft-budget 1000ms has no effect with --keep 20: give --keep auto",
        ),
        (
            ["--keep", "auto", "--ttft-budget", "150"],
            "--ttft-budget '150' is no time with a unit; expected for example",
        ),
        (["--keep", "auto", "--ttft-budget", "0ms"], "--ttft-budget is 0ms, expected more than 0"),
        (["--keep", "auto", "--ttft-budget", "9s", "--method", "fastv"], "has no method 'fastv'; it has visiondrop"),
        (["--keep", "auto", "--ttft-budget", "0.001ms"], "--ttft-budget 0.0ms is too short: the smallest budget of"),
    ],
)
def test_bad_words(edgeprune: Command, bundle_tiny: Path, photo: Path, options: list[str], message: str) -> None:
    result = edgeprune("run", bundle_tiny, photo, "what?", *options)
    assert result.code == 2 and result.out == ""
    assert message in result.line


@pytest.mark.parametrize(("text", "value"), [("150ms", 150), ("0.15s", 150), (" 2 s ", 2000), (".5ms", 0.5)])
def test_times_have_units(text: str, value: float) -> None:
    assert milliseconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "ms", "150", "-1ms", "1e3ms", "150 m", "1,5s", "150ms and more"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected for example 150ms or 0\.15s"):
        milliseconds(text)
