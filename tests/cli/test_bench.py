"""``edgeprune bench``: a report on the last line, two reports compared, and options that would change nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgeprune.bench.report import BenchReport, Spread
from tests.bench import sample
from tests.cli.conftest import Command


def write(path: Path, factor: float, repeats: int = 10) -> Path:
    """A report whose times to first token are those of the sample, times a factor."""
    report = sample.report()
    times = [0.1 * factor * (1 + 0.001 * number) for number in range(repeats)]
    variants = tuple(replace(variant, ttft=Spread.of(times)) for variant in report.variants)
    path.write_text("a table\n" + replace(report, variants=variants).to_json() + "\n")
    return path


def test_the_last_line_is_the_report(edgeprune: Command, bundle_gqa: Path) -> None:
    words = ["--keep", "all,16", "--repeats", 1, "--warmup", 0, "--new-tokens", 2, "--no-memory", "--threads", 1, "-q"]
    result = edgeprune("bench", bundle_gqa, *words)
    assert result.code == 0, result.err
    report = BenchReport.from_json(result.out.splitlines()[-1])
    assert [variant.name for variant in report.variants] == ["keep=all", "keep=16"]
    assert result.out.startswith("Time per stage")
    assert len(edgeprune("bench", bundle_gqa, *words, "--json").out.splitlines()) == 1


def test_reports_are_compared(edgeprune: Command, tmp_path: Path) -> None:
    old, new = write(tmp_path / "a.json", 1.0), write(tmp_path / "b.json", 1.2)
    result = edgeprune("bench", "--compare", old, new)
    assert result.code == 0, result.err
    assert "keep=64" in result.out
    assert "20.0% more" in result.out
    value = json.loads(edgeprune("bench", "--compare", old, new, "--json").out)
    assert {figure["name"] for figure in value["figures"]} >= {"TTFT", "peak memory"}


def test_a_figure_that_is_surely_worse_fails(edgeprune: Command, tmp_path: Path) -> None:
    old, new = write(tmp_path / "a.json", 1.0), write(tmp_path / "b.json", 1.2)
    result = edgeprune("bench", "--compare", old, new, "--fail-above", "5%")
    assert result.code == 3
    assert result.line.startswith(f"edgeprune: error: {new} is worse than {old} by more than 5%: keep=all TTFT +20.0%")
    assert "20.0% more" in result.out
    assert edgeprune("bench", "--compare", old, new, "--fail-above", "25").code == 0
    assert edgeprune("bench", "--compare", new, old, "--fail-above", "0").code == 0


def test_a_limit_that_cannot_be_judged_is_no_success(edgeprune: Command, tmp_path: Path) -> None:
    old, new = write(tmp_path / "a.json", 1.0, 3), write(tmp_path / "b.json", 2.0, 3)
    result = edgeprune("bench", "--compare", old, new, "--fail-above", "5%")
    assert result.code == 2
    assert "--fail-above 5% cannot judge any time" in result.line
    assert "--repeats 5 or more" in result.line
    assert "too few repeats (3 x 3) to tell" in result.out
    assert edgeprune("bench", "--compare", old, new).code == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--backend", "tensorrt"], 1, "has no plans; build them on the device: edgeprune build"),
        (["--backend", "tensorrt", "--threads", "1"], 2, "--threads 1 has no effect with --backend tensorrt"),
        (["--backend", "tensorrt", "--provider", "cuda"], 2, "--provider cuda has no effect with --backend tensorrt"),
        (["--target", "orin"], 2, "--target orin has no effect with --backend onnxruntime"),
        (["--trust-plans", "x"], 2, "--trust-plans x has no effect with --backend onnxruntime"),
        (["--sweep", "--provider", "cuda"], 2, "--provider has no effect with --sweep"),
        (["--method", "visiondrop", "--keep", "all"], 2, "--method visiondrop has no effect at --keep all"),
    ],
)
def test_what_runs_the_bundle(edgeprune: Command, bundle_gqa: Path, words: list[str], code: int, message: str) -> None:
    result = edgeprune("bench", bundle_gqa, *words)
    assert result.code == code, result
    assert message in result.line
    assert result.out == ""


def test_the_provider_is_passed_on(edgeprune: Command, bundle_gqa: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    result = edgeprune("bench", bundle_gqa, "--provider", "cuda")
    assert result.code == 1
    assert "cuda" in result.line.lower()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Missing argument 'BUNDLE'"),
        (["--compare", "a.json"], "'--compare' requires 2 arguments"),
        (["--compare", "a.json", "b.json"], "a.json cannot be read"),
        (["bundle", "--compare", "a.json", "b.json"], "BUNDLE bundle has no effect with --compare"),
        (["--compare", "a.json", "b.json", "--keep", "64"], "--keep has no effect with --compare"),
        (["--compare", "a.json", "b.json", "--sweep"], "--sweep has no effect with --compare"),
        (["--compare", "a.json", "b.json", "--fail-above", "much"], "--fail-above much is no percentage"),
        (["--compare", "a.json", "b.json", "--fail-above", "-3%"], "--fail-above -3% is no percentage"),
        (["bundle", "--fail-above", "3%"], "--fail-above has no effect without --compare A.json B.json"),
        (["bundle", "another"], "'another' has no effect without --sweep"),
        (["bundle", "--model", "x"], "--model x is eager's: it has no effect without --against eager"),
    ],
)
def test_options_that_are_refused(edgeprune: Command, words: list[str], message: str) -> None:
    result = edgeprune("bench", *words)
    assert result.code == 2, result
    assert message in result.line
    assert result.out == ""
