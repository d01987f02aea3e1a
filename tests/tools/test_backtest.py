"""The back-test: honest halves, a fit that finds what is there, and files that are what data and code say."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import pytest

from edgeprune.estimate.cost import Cost, GraphCost
from edgeprune.estimate.machine import EFFICIENCY, Efficiency, Machine, efficiency_of
from edgeprune.estimate.roofline import time_graph
from edgeprune.recipes import target as targets
from tools.backtest import (
    CLASSES,
    ENOUGH,
    LIMIT,
    ROOT,
    START,
    Data,
    Line,
    band,
    fitted,
    judged,
    main,
    read,
    reckon,
    reckoner,
)
from tools.backtest_fit import Point, fit, loss_of

ROWS = ROOT / "tools" / "backtest.toml"


@pytest.fixture(scope="module")
def data() -> Data:
    return read(ROWS)


@pytest.fixture(scope="module")
def shares(data: Data) -> dict[str, Efficiency]:
    return fitted(data)


@pytest.fixture(scope="module")
def lines(data: Data, shares: dict[str, Efficiency]) -> list[Line]:
    return reckon(data, shares)


def test_the_median_error_of_the_judged_half(lines: list[Line]) -> None:
    errors = judged(lines)
    assert len(errors) >= 30
    assert median(errors) <= LIMIT


def test_both_files_are_what_data_and_code_say() -> None:
    main(["--check"])


def test_the_shares_that_estimates_read_are_those(shares: dict[str, Efficiency], lines: list[Line]) -> None:
    assert [*shares] == [*CLASSES]
    for name, share in shares.items():
        found, error = efficiency_of(name)
        assert (found.vision, found.prefill, found.decode, found.overlap) == pytest.approx(
            (share.vision, share.prefill, share.decode, share.overlap)
        )
        assert found.launch == pytest.approx(share.launch)
        assert error == pytest.approx(band(lines, name), abs=0.0006)


def test_halves_alternate_and_only_rows_that_count_have_one(data: Data) -> None:
    assert all((row.half == "") == (row.skip is not None) for row in data.rows)
    agx = [row.half for row in data.rows if (row.target, row.kind, row.skip) == ("orin-agx-64gb", "decode", None)]
    assert len(agx) >= 10
    assert agx == ["fit", "judge"] * (len(agx) // 2) + ["fit"] * (len(agx) % 2)


def test_what_is_judged_is_not_fitted_to(data: Data, shares: dict[str, Efficiency]) -> None:
    absurd = [replace(row, published=row.published * 7) if row.half == "judge" else row for row in data.rows]
    assert fitted(replace(data, rows=tuple(absurd))) == shares


def test_every_row_that_counts_names_what_there_is(data: Data) -> None:
    for row in data.rows:
        assert row.source and row.published > 0
        if row.skip is None:
            assert row.model in data.models
            assert row.target in (*targets.names(), *data.machines)
        else:
            assert len(row.skip) > 10


def test_a_class_with_few_judged_rows_has_no_narrower_band_than_all(data: Data, lines: list[Line]) -> None:
    for name in CLASSES:
        own = judged(lines, name)
        if len(own) < ENOUGH:
            assert band(lines, name) >= median(judged(lines))
        else:
            assert band(lines, name) == median(own)


def test_a_published_figure_by_hand(data: Data) -> None:
    """Qwen3-VL-8B behind 2048 rows: its INT4 matrices, its head and its cache once, on 1 GB/s without a launch."""
    (row,) = [
        row
        for row in data.rows
        if (row.model, row.target, row.kind, row.rows) == ("qwen3-vl-8b", "orin-nx-16gb", "decode", 2048)
    ]
    free = Efficiency(1.0, 1.0, 1.0, 1.0, 0.0)
    slow = Machine("", "", None, 1e15, 1e9, free, 0.1, 0, 1e15)
    matrices = 36 * (2 * 4096 * (4096 + 1024) + 3 * 4096 * 12288)
    read_once = matrices * (0.5 + 2 / 128) + 4096 * 151936 * 2 + 2048 * 36 * 2 * 1024 * 2
    assert reckoner(data, row)(slow) == pytest.approx(1e9 / read_once, rel=0.01)


@pytest.mark.parametrize(("overlap", "loss"), [(0.0, 0.105), (1.0, 0.116)])
def test_rows_hardly_tell_the_overlap(data: Data, overlap: float, loss: float) -> None:
    """The losses that efficiency.toml states."""
    points = []
    for row in data.rows:
        if row.half == "fit" and (found := data.machine(row))[0] == "jetson-orin":
            points.append(Point(row.published, found[1], reckoner(data, row)))
    best = fit(points, replace(START, overlap=overlap), CLASSES["jetson-orin"].free)
    assert round(loss_of(points, best), 3) == loss
    assert str(loss) in CLASSES["jetson-orin"].why


def seconds(cost: GraphCost, machine: Machine) -> float:
    return time_graph(cost, machine).seconds


def test_a_fit_finds_the_shares_that_figures_were_made_with() -> None:
    truth = Efficiency(vision=0.4, prefill=0.6, decode=0.7, overlap=1.0, launch=200e-6)
    machine = Machine("m", "m", None, 1e13, 1e11, truth, 0.1, 0, 1e13)
    costs = [
        GraphCost("g", stage, Cost(flops, bytes_))
        for stage in ("vision", "prefill", "decode")
        for flops, bytes_ in ((10**11, 10**6), (10**12, 10**6), (10**8, 10**9), (10**8, 10**8))
    ]
    points = [Point(seconds(cost, machine), machine, partial(seconds, cost)) for cost in costs]
    start = Efficiency(0.5, 0.5, 0.8, 1.0, 500e-6)
    found = fit(points, start, ("vision", "prefill", "decode", "launch"))
    assert found == truth
    assert fit(points, start, ()) == start


def test_check_sees_a_figure_edited_by_hand(tmp_path: Path) -> None:
    page, shares = tmp_path / "page.md", tmp_path / "shares.toml"
    words = ["--page", str(page), "--shares", str(shares)]
    main(words)
    assert page.read_text() == (ROOT / "tools" / "backtest.md").read_text()
    assert shares.read_text() == EFFICIENCY.read_text()
    main([*words, "--check"])
    page.write_text(page.read_text().replace("| 1.02 | fit |", "| 1.00 | fit |", 1))
    with pytest.raises(SystemExit, match=r"page\.md is stale, line \d+ is "):
        main([*words, "--check"])
    shares.unlink()
    with pytest.raises(SystemExit, match=r"shares\.toml is stale"):
        main([*words, "--check"])
    assert not shares.exists()
