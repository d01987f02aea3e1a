"""The GPU check on a machine without a GPU: all of it on the CPU, and its parts."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.bench.report import Spread
from edgeprune.bundle.store import open_bundle
from edgeprune.errors import BackendError, BudgetError, UsageError
from edgeprune.estimate.cost import total
from edgeprune.estimate.request import Request, prompt_costs
from edgeprune.runtime.ort import OrtBackend
from tools.gpu import run
from tools.gpu.backends import candidates
from tools.gpu.bench import Rounds, Times, measure
from tools.gpu.cases import AFTER, BEFORE, CASES, METHOD, Budget, budgets
from tools.gpu.chain import Resident
from tools.gpu.checkpoint import BLOCK, Numbers, shape_of, write_fast
from tools.gpu.child import in_child
from tools.gpu.compare import Outcome, compare, shared_rows
from tools.gpu.count import flops, prefill_work, shortest_ms
from tools.gpu.files import save
from tools.gpu.machine import Machine
from tools.gpu.progress import Progress
from tools.gpu.report import Attempt, Comparison, Report, Row
from tools.gpu.rows import make_verdicts
from tools.gpu.table import NO_MEASUREMENT, markdown
from tools.gpu.target import OWN, Speed, known_target, ranges, speed, target_for
from tools.gpu.variant import Engine, Variant
from tools.gpu_check import main
from tools.random_checkpoint import SHAPES, Parameter

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30
H200 = Machine("cuda", "NVIDIA H200", "9.0", 143771 * 2**20, "580.159", None, 7e14, 4.3e12, {"torch": "2.11"})
CPU = Machine("cpu", "x86_64", None, None, None, None, None, None, {"torch": "2.11"})


@dataclass(frozen=True)
class Checked:
    """A whole run on the CPU: its folder, stdout and stderr."""

    out: Path
    text: str
    errors: str

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.text.splitlines()[-1])
        return found


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    """As a user runs it: the file, from another folder."""
    out = tmp_path_factory.mktemp("gpu") / "out"
    words = ["--device", "cpu", "--shapes", "tiny", "tiny-next", "--out", str(out), "--keeps", "all,32"]
    words += ["--repeats", "3", "--warmup", "1", "--new-tokens", "3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    command = [sys.executable, str(ROOT / "tools" / "gpu_check.py"), *words]
    done = subprocess.run(command, env=environment, cwd=out.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Checked(out, done.stdout, done.stderr)


def test_on_a_cpu_everything_runs_and_is_said_to_be_no_measurement(checked: Checked) -> None:
    report = checked.report
    assert report["measurement"] is False
    assert NO_MEASUREMENT in checked.text
    names = {(row["case"], row["variant"]) for row in report["rows"]}
    variants = [f"{engine} keep={keep}" for engine in ("eager", "chain") for keep in ("all", "32")]
    assert names == {(case, variant) for case in ("tiny", "tiny-next") for variant in variants}
    for row in report["rows"]:
        assert row["prefill"]["median_ms"] > 0 and row["step"]["median_ms"] > 0 and row["repeats"] == 3
        assert row["speedup"] > 0 and row["peak_bytes"] is None and row["ceiling_ms"] is None
        assert (row["prune_ms"] is not None) == (row["engine"] == "chain")
        # The rows of tiny-next are no picture's, and pruned eager begins behind the projector.
        encoded = row["case"] == "tiny" and row["variant"] != "eager keep=32"
        assert (row["ttft"] is not None) == encoded
    assert [row["speedup"] for row in report["rows"] if row["variant"] == "eager keep=all"] == [1.0, 1.0]
    assert not report["skipped"] and not report["errors"] and report["verdicts"] == []


def test_every_graph_and_both_chains_are_held_against_pytorch(checked: Checked) -> None:
    (tried,) = checked.report["attempts"]
    assert (tried["backend"], tried["dialect"], tried["works"]) == ("onnxruntime-cpu", "fused", True)
    assert tried["checks"] > 10 and tried["failed"] == 0
    compared = checked.report["comparisons"]
    assert len(compared) == 4
    for one in compared:
        assert one["cosine"] > 0.99999 and one["same_token"] and not one["failures"] and one["note"] is None
        assert one["kept"] == (None if one["variant"] == "chain keep=all" else 1.0)


def test_the_files_say_what_stdout_says(checked: Checked) -> None:
    written = json.loads((checked.out / "gpu_check.json").read_text())
    assert written["rows"] == checked.report["rows"] and written["attempts"] == checked.report["attempts"]
    table = (checked.out / "gpu_check.md").read_text()
    assert "| tiny-next, chain keep=32, fused | 32 | 48, 35, 26, 19 |" in table
    assert "| onnxruntime-cpu | fused | yes: onnxruntime-cpu |" in table
    assert "decoder layers: tiny 4 of 4, tiny-next 4 of 4" in table
    assert sorted(path.name for path in checked.out.iterdir()) == ["gpu_check.json", "gpu_check.md", "work"]


def test_operations_are_counted_as_bench_counts_them(checked: Checked) -> None:
    manifest = open_bundle(checked.out / "work" / "tiny-4-fp32-fused", check_hashes=False).manifest
    for budget in budgets(CASES["tiny"], None, 4):
        method = METHOD if budget.schedule else None
        request = Request.of(manifest, BEFORE, AFTER, method, budget.schedule)
        costs = total(prompt_costs(request), "prefill")
        assert flops(prefill_work(SHAPES["tiny"].decoder, budget, 4)) == costs.flops


def run_here(out: Path, *words: str) -> None:
    main(["--out", str(out), "--device", "cpu", "--repeats", "1", "--warmup", "1", "--new-tokens", "1", *words])


def test_without_a_compiled_backend_eager_alone_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_here(tmp_path, "--backend", "eager", "--keeps", "32")
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["variant"] for row in report["rows"]] == ["eager keep=all", "eager keep=32"]
    assert report["attempts"] == report["comparisons"] == []


def test_what_does_not_fit_into_the_time_limit_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_here(tmp_path, "--time-limit", "1")
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    names = [skipped["name"] for skipped in report["skipped"]]
    assert names == [
        "onnxruntime-cpu (fused) on a tiny model",
        "onnxruntime-cpu (base) on a tiny model",
        "tiny-4: everything",
    ]
    assert report["rows"] == [] and "s of the time limit are left" in (tmp_path / "gpu_check.md").read_text()


@pytest.mark.parametrize("backend", ["auto", "tensorrt-rtx", "eager"])
def test_without_a_gpu_there_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: str
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as caught:
        main(["--out", str(tmp_path), "--backend", backend])
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no NVIDIA GPU here: PyTorch ") and "--device cpu" in line


def test_words_that_cannot_be_meant_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (
        (("--layers", "3"), "--layers is 3, expected 4 or more"),
        (("--keeps", "63"), "visiondrop cannot keep 63 visual tokens"),
        (("--backend", "tensorrt"), "--backend tensorrt has no place on --device cpu; give --device cuda"),
    ):
        with pytest.raises(SystemExit) as caught:
            run_here(tmp_path / "out", *words)
        assert caught.value.code == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out" / "work").exists()


# --- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "capability", "gib", "expected"),
    [
        ("NVIDIA H200", "9.0", 140.4, "h200"),
        ("NVIDIA H100 80GB HBM3", "9.0", 79.6, "h100"),
        ("NVIDIA A100-SXM4-80GB", "8.0", 79.3, "a100-80gb"),
        ("NVIDIA A100-SXM4-40GB", "8.0", 39.4, None),
        ("NVIDIA L4", "8.9", 22.2, "l4"),
        ("NVIDIA L40S", "8.9", 44.5, None),
        ("NVIDIA GeForce RTX 4090", "8.9", 23.6, "rtx-4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "8.9", 15.6, None),
        ("NVIDIA H200", "8.9", 140.4, None),
    ],
)
def test_a_target_is_taken_only_where_it_is_this_gpu(
    name: str, capability: str, gib: float, expected: str | None
) -> None:
    found = known_target(replace(H200, name=name, capability=capability, memory=round(gib * GIB)))
    assert (found.name if found else None) == expected


def test_a_gpu_that_no_target_knows_gets_one_of_its_facts() -> None:
    machine = replace(H200, name="NVIDIA B300", capability="10.3", memory=270 * GIB)
    target, stack = target_for(machine, "tensorrt", (11, 4, 0))
    assert (target.name, target.capabilities, target.memory) == (OWN, ("10.3",), 270 * GIB)
    assert target.bandwidth == 4.3e12 and target.flops == {"fp16": 7e14}
    assert target.stacks == (stack,) and stack.serves("tensorrt", (11, 4, 0, 106)) and stack.dialects[0] == "fused"
    assert speed(machine) == Speed(7e14, 4.3e12, "measured here")


def test_a_known_gpu_gets_a_stack_for_whatever_is_installed() -> None:
    target, stack = target_for(H200, "tensorrt", (10, 16, 1))
    assert (target.name, stack.name) == ("h200", "tensorrt-10")
    target, stack = target_for(H200, "tensorrt-rtx", (1, 7, 1))
    assert (target.name, target.stacks, stack.name) == ("h200", (stack,), "tensorrt-rtx-here")
    assert stack.serves("tensorrt-rtx", (1, 7, 1, 116))
    _, old = target_for(H200, "tensorrt", (10, 3, 0))
    assert old.dialects == ("base",)
    assert speed(H200) == Speed(989e12, 4.8e12, "data sheet (h200)")
    assert speed(CPU) is None
    with pytest.raises(BackendError, match="give --device cuda"):
        target_for(CPU, "tensorrt", (11, 0))


def test_one_build_serves_576_and_2880_rows() -> None:
    shapes = ranges(2880, 4096)
    assert (shapes.kept.most, shapes.context, shapes.batch.most) == (2880, 4096, 1)
    assert ranges(64, 512).kept.usual == 64


# --- backends ---------------------------------------------------------------------------------------------------------


def test_backends_are_tried_in_turn_fused_before_base() -> None:
    every = candidates("auto", "any", H200)
    assert [wanted[0].name for wanted in every] == ["tensorrt", "tensorrt-rtx", "onnxruntime-cuda"]
    assert all([one.dialect for one in wanted] == ["fused", "base"] for wanted in every)
    ((only,),) = candidates("tensorrt", "base", H200)
    assert (only.name, only.dialect) == ("tensorrt", "base")
    assert candidates("eager", "any", H200) == ()
    with pytest.raises(UsageError, match="give --device cpu"):
        candidates("onnxruntime-cpu", "any", H200)


def test_a_process_that_dies_is_a_reason() -> None:
    assert in_child(math.sqrt, 4.0) == 2.0
    with pytest.raises(BackendError, match="its process died: SIGABRT"):
        in_child(os.abort)
    with pytest.raises(BackendError, match="its process died: exit code 7"):
        in_child(os._exit, 7)
    with pytest.raises(BackendError, match=r"^ValueError: "):
        in_child(math.sqrt, -1.0)
    with pytest.raises(BackendError, match="stopped after 1 s, the end of the time limit"):
        in_child(time.sleep, 60, limit=1.0)


def test_rows_that_are_kept_on_the_device_are_not_copied_again() -> None:
    resident = Resident(OrtBackend())
    rows, other = np.ones((1, 4, 8), np.float32), np.ones((1, 4, 8), np.float32)
    resident.keep(rows)
    assert resident.array(rows) is resident.array(rows)
    assert resident.array(np.asarray(rows, dtype=np.float32)) is resident.array(rows)  # as the chain asks for it
    assert resident.array(other) is not resident.array(rows)
    resident.forget()
    assert resident.array(rows) is not resident.array(rows)


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_the_fast_checkpoint_is_what_transformers_takes_it_for(tmp_path: Path) -> None:
    from transformers import LlavaForConditionalGeneration

    shape = shape_of("tiny-gqa", 4)
    assert shape.decoder.num_hidden_layers == 4 and shape_of("tiny-gqa", 99) is SHAPES["tiny-gqa"]
    folder = write_fast(shape, tmp_path / "model", "fp32")
    loaded: Any = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    model, info = loaded
    assert not any(info.values()), info
    assert len(model.model.language_model.layers) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert write_fast(shape, folder, "fp32") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_laid_numbers_are_scaled_and_no_two_rows_are_alike() -> None:
    import torch

    numbers = Numbers(torch.float32, 1009)
    weight = numbers.take(Parameter("w", (64, 256)))
    assert float(weight.std()) == pytest.approx(1 / 16, rel=0.1)
    assert len({tuple(row) for row in weight.tolist()}) == 64
    assert not numbers.take(Parameter("w", (64, 256))).equal(weight)
    assert numbers.take(Parameter("n", (8,), "one")).equal(torch.ones(8))
    assert float(numbers.take(Parameter("b", (1000,), "small")).std()) == pytest.approx(0.02, rel=0.1)
    assert all(BLOCK % divisor for divisor in range(2, 5000))  # else rows of a matrix would repeat


def test_the_shortest_time_is_weights_or_operations() -> None:
    decoder = SHAPES["llava-1.5-7b"].decoder
    every, few = (b for b in budgets(CASES["llava-1.5-7b"], ["64"], 32))
    best = Speed(989e12, 4.8e12, "")
    assert flops(prefill_work(decoder, every, 2)) / 1e12 == pytest.approx(2 * 6.476e9 * 636 / 1e12, rel=0.06)
    # 96, 70, 51 and 38 rows with 60 of text: every layer waits for its 405 MB of weights.
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11008) * 2 + 4096 * 32064 * 2
    assert shortest_ms(prefill_work(decoder, few, 2), best) == pytest.approx(weights / 4.8e12 * 1e3, rel=1e-6)
    assert shortest_ms(prefill_work(decoder, every, 2), best) > 2.9 * shortest_ms(prefill_work(decoder, few, 2), best)


def test_the_papers_budgets_are_what_they_say() -> None:
    for name in ("llava-1.5-7b", "llava-next-7b"):
        for budget, keep in zip(budgets(CASES[name], None, 32), CASES[name].keeps, strict=True):
            average = float(CASES[name].visual if keep == "all" else keep)
            assert budget.average == pytest.approx(average, abs=0.5)
    with pytest.raises(BudgetError):
        budgets(CASES["tiny"], ["60"], 4)


# --- measuring --------------------------------------------------------------------------------------------------------

ALL = Budget("all", (64,), (4,), None)


class Sleeper:
    """Takes a while; its results are given."""

    engine: Engine = "chain"
    budget = ALL
    from_pixels: Callable[[], None] | None = None

    def __init__(self, logits: NDArray[np.float32], *kept: list[int], seconds: float = 0.0) -> None:
        self._logits, self._seconds = logits, seconds
        self._kept = tuple(np.array(rows, dtype=np.int64) for rows in kept)
        self.steps = 0

    def prefill(self) -> None:
        time.sleep(self._seconds)

    def step(self) -> None:
        self.steps += 1

    def logits(self) -> NDArray[np.float32]:
        return self._logits

    def kept(self) -> tuple[NDArray[np.int64], ...]:
        return self._kept

    def parts_ms(self) -> dict[str, float]:
        return {"prune": 1.0, "prefill": 2.0}


def test_rounds_end_with_the_time_limit_and_what_was_measured_stays() -> None:
    progress, seen = Progress(0.6), list[int]()
    sleepers = [Sleeper(np.zeros(4, np.float32), seconds=0.02) for _ in range(2)]
    measure(sleepers, Rounds(1, 1000, 1, 5), "cpu", progress, "case", lambda times: seen.append(len(times[0].prefill)))
    assert 2 < len(seen) < 30 and seen == list(range(1, len(seen) + 1))
    assert sleepers[0].steps == 10  # the first warm-up, and one round that counts
    (skipped,) = progress.skipped
    assert skipped.reason.startswith(f"the rest: {len(seen)} of 1000 repeats were made")


def test_time_outside_of_graphs_is_what_is_left() -> None:
    times = Times([0.005, 0.007], [], [], [{"prune": 1.0, "prefill": 2.0}] * 2)
    assert times.part_ms("prune") == 1.0 and times.outside_ms == pytest.approx(3.0)
    assert Times([0.005], [], [], [{}]).outside_ms is None


def test_a_chain_that_computes_something_else_is_found() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal(96).astype(np.float32)
    assert not compare("tiny", "base", Sleeper(logits), Outcome(logits, ()), "fp16").failures
    noisy = logits + rng.standard_normal(96).astype(np.float32) * np.float32(0.2)
    assert compare("tiny", "base", Sleeper(noisy), Outcome(logits, ()), "fp16").failures
    (few,) = compare(
        "tiny", "base", Sleeper(logits, [0, 1, 2, 3]), Outcome(logits, (np.array([0, 7, 8, 9]),)), "fp16"
    ).failures
    assert few == "25.0% of the rows kept are the same, below 80%"
    rows = list(range(10))
    other = compare("tiny", "base", Sleeper(noisy, [*rows[:9], 11]), Outcome(logits, (np.array(rows),)), "fp16")
    assert not other.failures and other.note is not None and other.kept == 0.9
    broken = compare(
        "tiny", "base", Sleeper(logits * np.float32("nan"), [*rows[:9], 11]), Outcome(logits, (np.array(rows),)), "fp16"
    )
    assert broken.failures == ("logits are not finite",)
    assert shared_rows((np.array([1, 2]), np.array([1])), (np.array([2, 3]), np.array([1]))) == pytest.approx(2 / 3)


# --- reports ----------------------------------------------------------------------------------------------------------

SETTINGS = {"dtype": "fp16", "text_tokens": 60, "depths": "llava-1.5-7b 8 of 32", "warmup": 1, "repeats": 2}
SETTINGS |= {"new_tokens": 4, "layers": None}


def row(variant: str, speedup: float | None, case: str = "llava-1.5-7b", dialect: str | None = "fused") -> Row:
    engine: Engine = "chain" if variant.startswith("chain") else "eager"
    spread = Spread(4.0, 4.4)
    counts = (64.0, (96, 70, 51, 38))
    return Row(case, variant, engine, "some", dialect, *counts, spread, speedup, 4.1, 2.7, 0.68, 0.5, 0.3, spread, None,
               15_000_000_000, 2)  # fmt: skip


def compared(variant: str, case: str = "llava-1.5-7b", dialect: str = "fused", *failures: str) -> Comparison:
    return Comparison(case, variant, dialect, 0.9999, 1e-3, True, 1.0, failures, None)


def test_goals_are_reached_or_not_or_cannot_be_judged() -> None:
    cases = [CASES["llava-1.5-7b"], CASES["llava-next-7b"], CASES["tiny"]]
    report = Report(H200, dict(SETTINGS), Progress())
    report.rows = [row("chain keep=64", 2.4, dialect="base"), row("chain keep=64", 2.6), row("chain keep=128", 9.0)]
    report.comparisons = [compared("chain keep=64"), compared("chain keep=64", dialect="base")]
    report.comparisons += [compared("chain keep=320", "llava-next-7b")]
    report.rows += [row("eager keep=320", 1.9, "llava-next-7b", None), row("chain keep=320", 3.9, "llava-next-7b")]
    first, second = make_verdicts(report, cases)
    assert first.sentence() == (
        "reached: prefill of llava-1.5-7b at 64 of 576 rows against eager with all: 2.60x, wanted 2.5x"
    )
    assert second.reached is False and "3.90x, wanted 4x" in second.sentence()
    report.rows = report.rows[:-1]
    _, second = make_verdicts(report, cases)
    assert second.sentence().startswith("not judged: ")
    assert "no compiled chain was measured; pruned in PyTorch eager: 1.90x" in second.sentence()
    report.settings["layers"] = 8
    assert make_verdicts(report, cases)[0].note == "decoder layers: llava-1.5-7b 8 of 32"
    assert make_verdicts(report, cases)[0].reached is None
    report.settings["layers"] = 40  # no fewer than it has
    assert make_verdicts(report, cases)[0].reached is True
    report.machine = CPU
    assert make_verdicts(report, cases)[0].reached is None


def test_a_row_that_is_not_what_the_goal_speaks_of_is_not_judged() -> None:
    cases = [CASES["llava-1.5-7b"]]
    report = Report(H200, dict(SETTINGS), Progress())
    report.rows = [row("chain keep=64", 2.6), row("chain keep=64", 2.4, dialect="base")]
    (verdict,) = make_verdicts(report, cases)
    assert (verdict.reached, verdict.measured) == (None, 2.6)
    assert verdict.note == "its logits were not compared with PyTorch eager's"
    wrong = compared("chain keep=64", "llava-1.5-7b", "fused", "cosine 0.5")
    report.comparisons = [wrong, compared("chain keep=64", dialect="base")]
    (verdict,) = make_verdicts(report, cases)  # the slower one, which computes the right thing, counts
    assert (verdict.reached, verdict.measured) == (False, 2.4)
    report.comparisons = [wrong]
    (verdict,) = make_verdicts(report, cases)
    assert verdict.sentence().startswith("not judged: ")
    assert verdict.note == "it computes something else than PyTorch eager: cosine 0.5"
    report.comparisons = [compared("chain keep=64")]
    report.settings["dtype"] = "fp32"
    (verdict,) = make_verdicts(report, cases)
    assert (verdict.reached, verdict.note) == (None, "in fp32; the goal is for fp16")


@pytest.mark.parametrize("engine", ["eager", "chain"])
def test_memory_that_runs_out_in_one_part_ends_that_part_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    import torch

    def measure_or_not(variants: Sequence[Variant], *rest: Any) -> None:
        if variants[-1].engine == engine:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
        measure(variants, *rest)

    monkeypatch.setattr(run, "measure", measure_or_not)
    with pytest.raises(SystemExit) as caught:
        run_here(tmp_path, "--keeps", "32", "--dialect", "base")
    assert caught.value.code != 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    part = "PyTorch eager" if engine == "eager" else "onnxruntime-cpu (base)"
    assert report["errors"] == [f"tiny-4: {part}: OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"]
    assert {row["engine"] for row in report["rows"]} == {"chain" if engine == "eager" else "eager"}


def test_a_report_names_what_failed_and_why_and_later_rows_replace_earlier_ones(tmp_path: Path) -> None:
    report = Report(H200, dict(SETTINGS), Progress())
    report.attempts = [
        Attempt("tensorrt-rtx", "fused", False, "SM90 is not supported", None, 2.0),
        Attempt("tensorrt", "fused", True, None, "tensorrt 10.16.1 (h200)", 9.0, 15, 1, ("segment_0_1: cosine 0.5",)),
    ]
    report.put(row("chain keep=64", 2.0))
    report.put(row("chain keep=64", 2.7))
    report.put(row("eager keep=all", math.nan, dialect=None))
    assert report.failures == ("tensorrt fused, tiny model: segment_0_1: cosine 0.5",)
    save(report, tmp_path / "out")
    read = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    assert [one["speedup"] for one in read["rows"]] == [2.7, None] and read["measurement"] is True
    table = markdown(report)
    assert "| tensorrt-rtx | fused | no: SM90 is not supported | - | 2 |" in table
    assert "| tensorrt | fused | yes: tensorrt 10.16.1 (h200) | 14 of 15 ok | 9 |" in table
    assert "FAIL tensorrt fused, tiny model: segment_0_1: cosine 0.5" in table
    assert "| llava-1.5-7b, chain keep=64, fused | 64 | 96, 70, 51, 38 | 4.00 (4.40) | 2.70 | 4.10 | 2.70 |" in table
    assert "NVIDIA H200, compute capability 9.0, 151 GB, driver 580.159" in table and NO_MEASUREMENT not in table
