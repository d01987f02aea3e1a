"""A real benchmark of a tiny bundle, and the words of a report."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter

import pytest

from edgeprune.bench import predict as predict_file
from edgeprune.bench import run
from edgeprune.bench.calibrate import Calibrator
from edgeprune.bench.host import cpu_model, has_bf16
from edgeprune.bench.predict import Rates
from edgeprune.bench.report import BenchReport, Comparison, Energy, Spread
from edgeprune.bench.run import Settings, run_bench
from edgeprune.bench.table import grids, render_text
from edgeprune.bench.targets import judge
from edgeprune.bench.variants import Counts, PromptSize, predict
from edgeprune.budget.schedule import make_schedule, site_of
from edgeprune.bundle.store import open_bundle
from edgeprune.errors import BudgetError, BundleError, CheckFailed, UsageError
from edgeprune.estimate.calibration import Calibration, write_calibration
from edgeprune.estimate.cost import total
from edgeprune.estimate.device import device_of
from edgeprune.estimate.machine import Efficiency, Machine
from edgeprune.power.command import Output
from edgeprune.power.device import Device, open_device
from edgeprune.power.state import DeviceState
from edgeprune.runtime.backends import BackendChoice
from edgeprune.runtime.ort import OrtBackend
from edgeprune.runtime.vlm import VLM
from tests.bench import sample
from tests.power import recorded

QUICK = Settings(threads=1, repeats=2, text_tokens=60, new_tokens=4, progress=False, host_size=(256, 16))
BARE = replace(QUICK, memory=False, predict=False, host_size=(64, 1))


@pytest.fixture(scope="module")
def measured(bundle_gqa: Path, checkpoint_gqa: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BenchReport]:
    import torch

    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))  # no rates are kept here
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
    row = 2 * 2 * 8 * 4  # keys and values of two heads of 8 in fp32
    assert every.kv_bytes == 8 * (64 + 60) * row
    assert pruned.kv_bytes == sum(2 * (rows + 60) * row for rows in pruned.tokens)
    assert eager.kv_bytes is None
    shares = next(grid for grid in grids(measured) if grid.title.startswith("The encoder's share"))
    assert [line[0] for line in shares.rows] == ["keep=all", "keep=16"]
    assert shares.rows[0][-1] == "100.0%" and float(shares.rows[1][-1].rstrip("%")) < 75
    assert len(pruned.ttft.times_ms) == 2
    assert len(pruned.itl.times_ms) == 2 * 3


def test_ceilings_and_comparisons_are_complete(measured: BenchReport) -> None:
    for variant in measured.variants[:3]:
        assert [c.stage for c in variant.ceilings] == ["vision", "prefill", "TTFT", "decode"]
        for ceiling in variant.ceilings:
            assert ceiling.ratio == pytest.approx(ceiling.ceiling_ms / ceiling.measured_ms, rel=0.05, abs=1e-3)
    pairs = {(c.variant, c.against, c.stage) for c in measured.comparisons}
    stages = ("prefill", "decode", "TTFT")
    assert {("keep=16", "keep=all", stage) for stage in stages} <= pairs
    assert {("keep=all", "eager fp32", stage) for stage in stages} <= pairs


def test_what_is_counted_is_the_whole_chain(measured: BenchReport, bundle_gqa: Path) -> None:
    manifest = open_bundle(bundle_gqa).manifest
    method = manifest.method("visiondrop")
    assert method is not None
    schedule = make_schedule("visiondrop", 16, site_of(manifest, method))
    counts = Counts.of(manifest, PromptSize(5, 55, 64, 1), method, schedule, 4)
    assert set(method.graphs) < {cost.graph for cost in counts.prompt}
    pruned = measured.variants[1]
    ceiling = {c.stage: c.flops for c in pruned.ceilings}
    # What the method's graphs score depends on how the text lies around the picture; nothing else does.
    assert ceiling["TTFT"] == pruned.prompt_flops == pytest.approx(total(counts.prompt).flops, rel=1e-2)
    assert ceiling["prefill"] == pruned.decoder_flops == total(counts.prompt, "prefill").flops  # without its cuts
    assert total(counts.prompt, "prune").flops > 0
    late = {cost.graph for cost in counts.late}
    assert "prune_visiondrop_vision" not in late
    assert {cut.graph for cut in method.cuts if cut.at != "vision"} <= late


def test_predictions_are_made_from_rates_of_this_machine(measured: BenchReport) -> None:
    every, pruned, eager = measured.variants[:3]
    assert eager.predicted is None
    assert every.predicted is not None
    assert pruned.predicted is not None
    assert 0 < every.predicted.vision_ms == pruned.predicted.vision_ms < every.predicted.ttft_ms
    assert every.predicted.decode_ms > 0
    assert {"prediction of TTFT, off by", "prediction of decode, off by"} <= {t.name for t in measured.targets}
    told = "predictions: from rates of ONNX Runtime taken "
    assert any(note.startswith(told) for note in measured.notes)
    assert "Predicted beside measured" in render_text(measured)


def test_a_prediction_by_hand(bundle_gqa: Path) -> None:
    """On a machine that reads for nothing and starts graphs at once, time is operations over their rate."""
    manifest = open_bundle(bundle_gqa).manifest
    method = manifest.method("visiondrop")
    assert method is not None
    counts = Counts.of(
        manifest, PromptSize(5, 55, 64, 1), method, make_schedule("visiondrop", 16, site_of(manifest, method)), 4
    )
    machine = Machine("m", "m", None, 1e9, 1e30, Efficiency(1.0, 1.0, 1.0, 1.0, 0.0), 0.2, 0, 1e9)
    found = predict(counts, machine)
    seconds = {name: total(costs).flops / 1e9 for name, costs in (("all", counts.prompt), ("late", counts.late))}
    assert found.ttft_ms == pytest.approx(1e3 * seconds["all"], abs=1e-4)
    assert found.prefill_ms == pytest.approx(1e3 * seconds["late"], abs=1e-4)
    assert found.vision_ms == pytest.approx(total(counts.prompt, "vision").flops / 1e6, abs=1e-4)
    assert found.decode_ms == pytest.approx(total(counts.steps).flops / 3 / 1e6, abs=1e-4)
    assert found.prefill_ms < predict(Counts.of(manifest, PromptSize(5, 55, 64, 1), None, None, 4), machine).prefill_ms


def test_rates_of_another_day_do_not_predict_a_cpu(
    bundle_gqa: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    device = device_of("onnxruntime-cpu")
    write_calibration(Calibration(device, "onnxruntime-cpu", 1, "fp32", 1e6, 1e6, {}, "2026-01-02"))
    report = run_bench(bundle_gqa, settings=replace(BARE, predict=True))
    predicted = report.variants[0].predicted
    assert predicted is not None
    assert predicted.ttft_ms < report.variants[0].prompt_flops / 1e6 * 1e3 / 10


def test_kept_rates_predict_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    backend = "onnxruntime-cuda"
    write_calibration(Calibration(device_of(backend), backend, 1, "fp16", 5e14, 4e12, {}, "2026-01-02"))
    machine, note = Rates(backend, 1, "fp16").machine()
    assert note == "predictions: from rates measured on 2026-01-02 by edgeprune estimate --calibrate"
    assert machine is not None
    assert (machine.flops, machine.bandwidth) == (5e14, 4e12)


def test_the_middle_of_the_rates_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(1e9, 4e9), (9e9, 1e9), (4e9, 2e9)]
    monkeypatch.setattr(predict_file, "_REST_S", 0.0)
    monkeypatch.setattr(Calibrator, "rates", lambda self, seconds: found.pop(0))
    rates = Rates("onnxruntime-cpu", 1, "fp32")
    rates.take()
    assert rates.machine()[1].endswith("taken once, before the rounds: 1 GFLOP/s and 4.0 GB/s")
    for _ in range(2):
        rates.take()
    machine, note = rates.machine()
    assert machine is not None
    assert (machine.flops, machine.bandwidth) == (4e9, 2e9)
    monkeypatch.setattr(predict_file, "_REST_S", 3600.0)
    rates.take()  # too soon: nothing is found any more
    assert note.endswith("taken 3 times between rounds, the middle of 1..9 GFLOP/s and 1.0..4.0 GB/s")


@pytest.mark.parametrize(
    ("backend", "dtype", "reason"),
    [
        ("onnxruntime-cuda", "fp32", "none, onnxruntime-cuda has no rates in fp32 yet: edgeprune estimate --calibrate"),
        ("onnxruntime-cpu", "nvfp4", "none, rates on the CPU are not measured in nvfp4"),
    ],
)
def test_where_nothing_is_predicted_a_note_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, dtype: str, reason: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    machine, note = Rates(backend, 1, dtype).machine()
    assert machine is None
    assert reason in note


def test_energy_and_state_of_a_board(bundle_gqa: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded.lay_out(tmp_path, recorded.ORIN_NANO_FILES)
    (tmp_path / "sys/class/thermal/cooling_device8/cur_state").write_text("1\n")
    says = Output(0, "NV Power Mode: 15W\n0\n")
    monkeypatch.setattr(run, "open_device", partial(open_device, tmp_path, lambda words: says))
    report = run_bench(bundle_gqa, keeps=("all", 16), settings=BARE)
    state = report.conditions.device
    assert state is not None
    assert (state.power_mode, state.sensor, state.locked) == ("15W", "INA3221 (VDD_IN)", False)
    for variant in report.variants:
        assert variant.energy is not None
        assert len(variant.energy.samples) == 2
        assert variant.energy.watts == pytest.approx(4.984, rel=0.25)  # of requests of a few milliseconds
        assert variant.energy.tokens_per_joule == pytest.approx(2 * 4 / sum(variant.energy.samples), rel=0.01)
    text = render_text(report)
    assert "Energy of a request, idle power included" in text
    assert "power mode 15W, GPU at 625 of 625 MHz, clocks not locked, 50 C before the start" in text
    assert "energy: INA3221 (VDD_IN), from the picture as a file to the last token, nothing subtracted" in report.notes
    assert "the GPU's clock is not locked, so times may vary: sudo jetson_clocks" in report.notes
    assert "throttled (gpu-throttle): the times are of a device that was slowed down" in report.notes
    assert BenchReport.from_json(report.to_json()) == report


class OnGpu:
    """A GPU that draws 300 W and counts as much, slowed down by its power limit."""

    sensor = "NVML"

    def state(self) -> DeviceState:
        return DeviceState("NVIDIA H200", self.sensor, None, 700.0, 1980.0, 1980.0, None, (), {"gpu": 34.0})

    def watts(self) -> float | None:
        return 300.0

    def joules(self) -> float | None:
        return 300.0 * perf_counter()

    def throttled(self) -> tuple[str, ...]:
        return ("power limit",)

    def close(self) -> None:
        pass


class GpuBackend(OrtBackend):
    """The CPU's backend by a GPU's name: what is reported hangs on the name alone."""

    def __init__(self) -> None:
        super().__init__(1)
        self.name = "onnxruntime-cuda"


def test_a_gpu_is_metered_and_has_no_cpus_ceilings(
    bundle_gqa: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def device(on_gpu: bool) -> Device:
        asked.append(on_gpu)
        return OnGpu()

    def opened(bundle: Path, threads: None, check_hashes: bool, choice: BackendChoice) -> VLM:
        assert (choice.provider, choice.threads) == ("cuda", None)
        return VLM(open_bundle(bundle, check_hashes), GpuBackend())

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(run, "open_device", device)
    monkeypatch.setattr(run, "open_vlm", opened)
    report = run_bench(
        bundle_gqa, settings=replace(BARE, memory=True, threads=None), backend=BackendChoice(provider="cuda")
    )
    assert asked == [True]
    assert not report.memory
    assert not report.variants[0].ceilings
    energy = report.variants[0].energy
    assert energy is not None
    assert energy.watts == pytest.approx(300.0, rel=0.25)
    assert "ceilings and peak memory are not measured with onnxruntime-cuda" in report.notes
    assert "throttled (power limit): the times are of a device that was slowed down" in report.notes
    assert not any("locked" in note for note in report.notes)  # nobody tells
    assert "NVIDIA H200, 700 W at most, GPU at 1980 of 1980 MHz, 34 C before the start, power by NVML" in render_text(
        report
    )


def test_what_a_gpus_backend_has_no_use_for(bundle_gqa: Path, checkpoint_gqa: Path) -> None:
    cuda, plans = BackendChoice(provider="cuda"), BackendChoice("tensorrt")
    with pytest.raises(UsageError, match="--against eager runs on the CPU"):
        run_bench(bundle_gqa, checkpoint_gqa, against="eager", settings=BARE, backend=cuda)
    with pytest.raises(UsageError, match="--threads 1 has no effect with --backend tensorrt"):
        run_bench(bundle_gqa, settings=BARE, backend=plans)


def test_a_machine_without_sensors_says_nothing_of_them(measured: BenchReport) -> None:
    if open_device() is not None:
        pytest.skip("this is a Jetson")
    assert measured.conditions.device is None
    assert all(variant.energy is None for variant in measured.variants)
    words = render_text(measured).lower()
    assert not any(word in words for word in ("energy", "power", "throttled", "locked"))


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


def test_a_report_of_an_older_version_reads() -> None:
    report = sample.report()
    older = json.loads(report.to_json())
    del older["conditions"]["device"]
    for variant in older["variants"]:
        del variant["predicted"], variant["energy"]
        for spread in (variant["ttft"], variant["itl"], *variant["stages"].values()):
            del spread["times_ms"]
    assert BenchReport.from_json(json.dumps(older)) == report
    del older["variants"][0]["ttft"]["p90_ms"]
    with pytest.raises(BundleError, match=r"variants\[0\].ttft: key 'p90_ms' is missing"):
        BenchReport.from_json(json.dumps(older))


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
        f"run_bench({str(bundle_gqa)!r}, settings=Settings(1, 0, 1, 60, 2, False, False, (64, 1), predict=False))\n"
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
    assert not any(title in render_text(report) for title in ("Predicted", "Energy"))
    bare = replace(report, memory=(), variants=tuple(replace(v, ceilings=()) for v in report.variants))
    assert "Memory" in render_text(report)
    assert "could reach" in render_text(report)
    assert "Memory" not in render_text(bare)
    assert "could reach" not in render_text(bare)


def test_energy_is_of_all_requests_together() -> None:
    energy = Energy.of([2.0, 4.0, 3.0], [1.0, 1.0, 2.0], [8, 8, 8])
    assert energy == Energy(joules=3.0, watts=2.25, tokens_per_joule=2.6667, samples=(2.0, 4.0, 3.0))
    assert Energy.of([0.0], [1.0], [8]) is None
    text = render_text(sample.metered(sample.report()))
    rows = {line.split()[0]: line.split() for line in text.split("Energy")[1].splitlines()[2:4]}
    assert rows["keep=64"] == ["keep=64", "4", "4.04", "3.96"]


def test_predictions_are_judged_both_ways() -> None:
    for factor, reached in ((1.1, True), (1.3, False), (0.7, False)):
        report = sample.predicted(sample.report(), factor)
        judged = {t.name: t for t in judge(report.variants, report.comparisons, report.memory)}
        for name in ("prediction of TTFT, off by", "prediction of decode, off by"):
            assert judged[name].measured == pytest.approx(abs(factor - 1), abs=1e-3)
            assert judged[name].reached is reached
    half = replace(report, variants=tuple(replace(v, dtype="fp16") for v in report.variants))
    assert not [t for t in judge(half.variants, half.comparisons, half.memory) if "prediction" in t.name]


def test_spread_is_numpys_percentile() -> None:
    import numpy as np

    seconds = [0.3, 0.1, 0.2, 0.9, 0.4, 0.25]
    spread = Spread.of(seconds)
    assert spread.median_ms == pytest.approx(np.percentile(seconds, 50) * 1e3)
    assert spread.p90_ms == pytest.approx(np.percentile(seconds, 90) * 1e3)
    assert spread.times_ms == (300.0, 100.0, 200.0, 900.0, 400.0, 250.0)  # in the order they were taken
    assert Spread.of([0.5]) == Spread(500.0, 500.0, (500.0,))


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
