"""Time left, from what was done."""

from __future__ import annotations

import pytest

from edgeprune.sweep.progress import Pace, SweepBar


def test_pace() -> None:
    pace = Pace({"time": 10, "reply": 4, "memory": 2})
    assert pace.seconds_left() is None
    for _ in range(5):
        pace.took("time", 2.0)
    assert pace.seconds_left() == 5 * 2 + 4 * 2 + 2 * 8  # a memory run is taken for four
    pace.took("reply", 0.5)
    assert pace.seconds_left() == pytest.approx(5 * 2 + 3 * 0.5 + 2 * 4 * 1.25)
    pace.drop("time", 5)
    pace.drop("memory", 2)
    assert pace.seconds_left() == pytest.approx(3 * 0.5)


def test_the_bar_names_what_runs_and_the_time_left(capfd: pytest.CaptureFixture[str]) -> None:
    with SweepBar({"time": 2, "reply": 0, "memory": 0}, quiet=False) as bar:
        bar.begin("time", "sts 64, repeat 1")
        bar.advance()
        bar.begin("time", "sts 64, repeat 2")
        bar.advance()
    err = capfd.readouterr().err
    assert "sweep 100%" in err
    assert "1 s left, sts 64, repeat 2" in err


def test_quiet_draws_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with SweepBar({"time": 1, "reply": 0, "memory": 0}, quiet=True) as bar:
        bar.begin("time", "sts 64")
        bar.drop("time", 1)
    assert capfd.readouterr().err == ""
    assert bar.pace.seconds_left() is None
