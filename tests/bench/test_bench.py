"""A real benchmark of a tiny bundle, and the words of a report."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgeprune.bench.host import cpu_model, has_bf16
from edgeprune.bench.report import BenchReport, Comparison, Spread
from edgeprune.bench.run import Settings, run_bench
from edgeprune.bench.table import render_text
from edgeprune.errors import BudgetError, CheckFailed, UsageError
from tests.bench import sample

QUICK = Settings(threads=1, repeats=2, text_tokens=60, new_tokens=4, progress=False, host_size=(256, 16))


@pytest.fixture(scope="module")
def measured(bundle_gqa: Path, checkpoint_gqa: Path) -> Iterator[BenchReport]:
    import torch

    threads = torch.get_num_threads()
    yield run_bench(bundle_gqa, checkpoint_gqa, ("all", 16), "eager", settings=QUICK)
    torch.set_num_threads(threads)


def test_every_variant_is_measured_in_every_stage(measured: BenchReport) -> None:
    names = [variant.name for variant in measured.variants]
    assert names[:3] == ["keep=all", "keep=16", "eager fp32"]
    every, pruned, eager = measured.variants[:3]
    assert every.tokens == eager.tokens == (64,)
    assert pruned.tokens == (24, 18, 13, 9)
    assert set(pruned.stages) == {"preprocess", "vision", "prune", "project", "prefill"}
    assert set(every.stages) == set(eager.stages) == set(pruned.stages) - {"prune"}
    for variant in measured.variants:
        times = [*variant.stages.values(), variant.ttft, variant.itl]
        assert all(0 < spread.median_ms <= spread.p90_ms for spread in times)
        assert variant.ttft.median_ms > variant.stages["prefill"].median_ms
    for chain in (every, pruned):
        assert chain.prefill_overhead is not None
        assert chain.decode_overhead is not None
        assert chain.prefill_overhead.median_ms > 0
        assert chain.decode_overhead.median_ms > 0
    assert pruned.decoder_flops < every.decoder_flops == eager.decoder_flops


def test_ceilings_and_comparisons_are_complete(measured: BenchReport) -> None:
    for variant in measured.variants[:3]:
        assert [c.stage for c in variant.ceilings] == ["vision", "prefill", "TTFT", "decode"]
        for ceiling in variant.ceilings:
            assert ceiling.ratio == pytest.approx(ceiling.ceiling_ms / ceiling.measured_ms, rel=0.05, abs=1e-3)
    pairs = {(c.variant, c.against, c.stage) for c in measured.comparisons}
    stages = ("prefill", "decode", "TTFT")
    assert {("keep=16", "keep=all", stage) for stage in stages} <= pairs
    assert {("keep=all", "eager fp32", stage) for stage in stages} <= pairs


def test_memory_is_of_whole_runs(measured: BenchReport, bundle_gqa: Path) -> None:
    every, pruned, eager = measured.memory[:3]
    assert [every.variant, pruned.variant, eager.variant] == ["keep=all", "keep=16", "eager fp32"]
    assert 0 < every.weights_bytes < pruned.weights_bytes  # the cuts carry projections of their own
    assert every.mapped_bytes == (bundle_gqa / "embedding.npy").stat().st_size
    assert every.target_bytes == round(1.3 * every.weights_bytes + 400e6)
    assert 20e6 < every.peak_bytes < eager.peak_bytes


def test_json_is_one_line_and_reads_back(measured: BenchReport) -> None:
    text = measured.to_json()
    assert "\n" not in text
    assert set(json.loads(text)) == {"conditions", "variants", "comparisons", "memory", "targets", "notes"}
    assert BenchReport.from_json(text) == measured


def test_the_table_names_its_conditions(measured: BenchReport) -> None:
    table = render_text(measured)
    assert "60 text tokens, 64 visual tokens unpruned, 4 new tokens" in table
    assert "1 warm-up, 2 repeats" in table
    assert "onnxruntime-cpu (base graphs), 1 thread" in table
    assert ("bf16" in table) and (measured.conditions.host.bf16 or "no bf16 arithmetic" in table)


def test_without_eager_torch_is_not_needed(bundle_gqa: Path) -> None:
    import subprocess

    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = sys.modules['onnx'] = None\n"
        "from edgeprune.bench.run import Settings, run_bench\n"
        f"run_bench({str(bundle_gqa)!r}, settings=Settings(1, 0, 1, 60, 2, False, False, (64, 1)))\n"
        "from edgeprune.errors import MissingExtra\n"
        "from edgeprune.bench.measure import load_eager\n"
        "try: load_eager('x', 'fp32', 1)\n"
        "except MissingExtra as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "bench --against eager needs torch" in done.stdout


def test_arguments_are_checked_before_anything_is_measured(bundle_gqa: Path, checkpoint_gqa: Path) -> None:
    with pytest.raises(UsageError, match="--against eager needs the checkpoint"):
        run_bench(bundle_gqa, against="eager")
    with pytest.raises(UsageError, match="expected one budget or several that differ"):
        run_bench(bundle_gqa, keeps=("16", 16))
    with pytest.raises(BudgetError, match="cannot keep 2 visual tokens"):
        run_bench(bundle_gqa, keeps=("2",), settings=QUICK)
    with pytest.raises(UsageError, match="--new-tokens is 1, expected 2 or more"):
        Settings(new_tokens=1)
    with pytest.raises(UsageError, match="--text-tokens 9 is too few"):
        run_bench(bundle_gqa, settings=Settings(threads=1, text_tokens=9))


def test_another_checkpoint_is_refused(bundle_gqa: Path, checkpoint_gqa: Path, tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(checkpoint_gqa, other)
    template = json.loads((other / "chat_template.json").read_text())
    template["chat_template"] = template["chat_template"].replace("ASSISTANT:", "Answer:")
    (other / "chat_template.json").write_text(json.dumps(template))
    with pytest.raises(CheckFailed, match="give the checkpoint the bundle was made from"):
        run_bench(bundle_gqa, other, against="eager", settings=QUICK)


def test_faster_and_slower_are_said_plainly() -> None:
    prefill, decode = (c.sentence() for c in sample.report().comparisons)
    assert prefill == "prefill: keep=64 is 4.60x faster than keep=all (FLOPs allow 5.10x: 0.90 of it)"
    assert decode == "decode: keep=all takes 0.85x of eager fp32's time: faster"
    prefill, decode = (c.sentence() for c in sample.report(500.0, 400.0, 10.0).comparisons)
    assert prefill == "prefill: keep=64 is 1.25x slower than keep=all (FLOPs allow 5.10x faster)"
    assert decode == "decode: keep=all takes 1.70x of eager fp32's time: slower"
    prefill, decode = (c.sentence() for c in sample.report(400.0, 400.0, 17.0).comparisons)
    assert prefill == "prefill: keep=64 is as fast as keep=all (FLOPs allow 5.10x)"
    assert decode == "decode: keep=all takes 1.00x of eager fp32's time: the same"


def test_decode_is_held_against_bytes() -> None:
    every, small, _ = sample.report().variants
    comparison = Comparison.between("decode", small, every)
    assert (comparison.allowed, comparison.allowed_by) == (1.2, "bytes")
    assert comparison.measured == pytest.approx(17 / 16, abs=1e-4)


def test_memory_says_within_or_above() -> None:
    rows = {line.split()[0]: line for line in render_text(sample.report()).split("Memory")[1].splitlines()[2:5]}
    assert rows["keep=all"].endswith("1,700  within")
    assert rows["keep=64"].endswith("1,700   above")


def test_a_table_without_rows_is_left_out() -> None:
    report = sample.report()
    bare = replace(report, memory=(), variants=tuple(replace(v, ceilings=()) for v in report.variants))
    assert "Memory" in render_text(report)
    assert "could reach" in render_text(report)
    assert "Memory" not in render_text(bare)
    assert "could reach" not in render_text(bare)


def test_spread_is_numpys_percentile() -> None:
    import numpy as np

    seconds = [0.3, 0.1, 0.2, 0.9, 0.4, 0.25]
    spread = Spread.of(seconds)
    assert spread.median_ms == pytest.approx(np.percentile(seconds, 50) * 1e3)
    assert spread.p90_ms == pytest.approx(np.percentile(seconds, 90) * 1e3)
    assert Spread.of([0.5]) == Spread(500.0, 500.0)


def test_bf16_and_model_are_read_from_cpuinfo() -> None:
    assert has_bf16("flags\t\t: fpu avx512_bf16 sse\n")
    assert has_bf16("Features\t: fp asimd bf16 i8mm\n")
    assert not has_bf16("flags\t\t: fpu avx2\nbugs: bf16\n")
    assert cpu_model("processor: 0\nmodel name\t: Fast CPU @ 3 GHz\n") == "Fast CPU @ 3 GHz"


def test_targets_are_judged_both_ways() -> None:
    fast = {target.name: target for target in sample.report(keep_ms=100.0, eager_itl_ms=20.0).targets}
    assert fast["decode of keep=all, of eager fp32's time"].measured == pytest.approx(0.85)
    assert fast["decode of keep=all, of eager fp32's time"].reached
    assert not fast["peak memory of run, of 1.3 x weights + 400 MB"].reached
    slow = {target.name: target for target in sample.report(keep_ms=300.0, eager_itl_ms=10.0).targets}
    assert not slow["decode of keep=all, of eager fp32's time"].reached
    missed = slow["prefill speed-up of keep=64, of what FLOPs allow"]
    assert not missed.reached
    assert missed.sentence().startswith("MISSED: prefill speed-up of keep=64")


@pytest.mark.parametrize("dtypes", [("fp32",), ("bf16",)])
def test_dtypes_without_eager_are_refused(bundle_gqa: Path, dtypes: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="no effect without --against eager"):
        run_bench(bundle_gqa, settings=Settings(eager_dtypes=dtypes))


def test_bf16_on_a_cpu_without_it(bundle_gqa: Path, checkpoint_gqa: Path) -> None:
    if has_bf16(Path("/proc/cpuinfo").read_text()):
        pytest.skip("this CPU has bf16 arithmetic")
    settings = Settings(eager_dtypes=("bf16",), host_size=(64, 1), memory=False)
    with pytest.raises(UsageError, match="has no bf16 arithmetic"):
        run_bench(bundle_gqa, checkpoint=checkpoint_gqa, against="eager", settings=settings)
