"""``keep="auto"``: which budget is chosen, what is tried out and remembered for it, and when it is refused."""

from __future__ import annotations

import dataclasses
import json
import random
import stat
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import edgeprune
from edgeprune.bundle.store import Bundle, open_bundle
from edgeprune.errors import BudgetError, BundleError, UsageError
from edgeprune.estimate.calibration import Calibration, write_calibration
from edgeprune.estimate.device import device_of
from edgeprune.runtime.auto import Asked, Auto, Choice, Keep, Sample, check_words, fit_line, quantile
from edgeprune.runtime.curve import Curve, this_machine
from edgeprune.runtime.ort import OrtBackend
from edgeprune.runtime.remembered import Place, recall, remember
from edgeprune.runtime.tuner import Trial, Tuner
from tests.runtime.case import QUESTION, picture

LOW, HIGH, TOKENS = 13, 384, 576
ASKED = Asked(20, 20, 1)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def predict(keep: Keep, asked: Asked) -> float:
    """An estimate whose shape is right but for a third of it."""
    return asked.pictures * (0.020 + (TOKENS if keep is None else keep) * 5.5e-5 + asked.after * 5.5e-5)


def truth(keep: Keep, asked: Asked) -> float:
    """Fixed costs, and more than proportional ones, as pruning stages have."""
    rows = TOKENS if keep is None else keep
    return asked.pictures * (
        0.034 + rows * 6e-5 + (0 if keep is None else (1.5 * rows) ** 2 * 4e-8) + asked.after * 5e-5
    )


@dataclass
class Device:
    """A machine with noise: every request a few percent, some of them far slower."""

    seed: int
    spread: float = 0.0
    spikes: float = 0.0
    slower: float = 1.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def run(self, keep: Keep, asked: Asked) -> float:
        seconds = truth(keep, asked) * self.slower * self.random.lognormvariate(0, self.spread)
        return seconds * (self.random.uniform(1.3, 2.5) if self.random.random() < self.spikes else 1)

    def ask(self, auto: Auto, limit: float, asked: Asked) -> tuple[Keep, float]:
        choice = auto.choose(asked, limit)
        keep = auto.low if choice is None else choice.keep
        seconds = self.run(keep, asked)
        auto.add(sample(keep, seconds, asked))
        return keep, seconds


def sample(keep: Keep, seconds: float, asked: Asked = ASKED) -> Sample:
    return Sample(keep, asked.before, asked.after, asked.pictures, seconds, seconds / 2)


def started(device: Device) -> Auto:
    """After one trial run at the smallest budget."""
    auto = Auto(LOW, HIGH, predict)
    auto.add(sample(LOW, device.run(LOW, ASKED)))
    return auto


def largest(limit: float, device: Device, share: float = 0.9) -> int:
    """The largest budget that a device runs within a limit that often, as one would find by trying them all."""
    rng = random.Random(0)
    for keep in range(HIGH, LOW, -4):
        times = [device.run(keep, Asked(20, 10 + rng.randrange(30), 1)) for _ in range(300)]
        if sum(time <= limit for time in times) >= share * len(times):
            return keep
    return LOW


# --- the decision -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.042, 0.050, 0.060])
def test_finds_the_largest_budget_within_a_few_requests(limit: float) -> None:
    device = Device(0)
    auto = started(device)
    kept = [device.ask(auto, limit, ASKED) for _ in range(30)]
    assert all(seconds <= limit * 1.02 for _, seconds in kept)
    best = max(keep for keep in range(LOW, HIGH + 1) if truth(keep, ASKED) <= limit)
    assert kept[-1][0] is not None and 0.95 * best <= kept[-1][0] <= best * 1.02 + 1


@pytest.mark.parametrize("limit", [0.045, 0.055, 0.070])
@pytest.mark.parametrize("seed", range(4))
def test_nine_of_ten_stay_within_on_a_noisy_machine(limit: float, seed: int) -> None:
    device, rng = Device(seed, spread=0.03, spikes=0.03), random.Random(seed)
    auto = started(device)
    runs = [device.ask(auto, limit, Asked(20, 10 + rng.randrange(30), 1)) for _ in range(50)]
    assert sorted(seconds for _, seconds in runs)[44] <= 1.1 * limit
    tokens = statistics.median(TOKENS if keep is None else keep for keep, _ in runs)
    assert tokens >= 0.8 * largest(limit, Device(99, 0.03, 0.03))


def test_a_machine_that_becomes_slower_is_followed_at_once_and_a_faster_one_soon() -> None:
    device = Device(1, spread=0.02)
    auto = started(device)
    limit = 0.060
    before = [device.ask(auto, limit, ASKED)[0] for _ in range(40)][-1]
    device.slower = 1.3
    late = [device.ask(auto, limit, ASKED)[1] > 1.1 * limit for _ in range(40)]
    assert sum(late[:10]) <= 6 and not any(late[10:])
    slow = [device.ask(auto, limit, ASKED)[0] for _ in range(20)][-1]
    device.slower = 1.0
    after = [device.ask(auto, limit, ASKED)[0] for _ in range(80)][-1]
    assert before is not None and slow is not None and after is not None
    assert slow < 0.7 * before and after > 0.9 * before


def test_a_single_slow_request_changes_little() -> None:
    device = Device(2, spread=0.01)
    auto = started(device)
    before = [device.ask(auto, 0.055, ASKED)[0] for _ in range(30)][-1]
    auto.add(sample(before, 0.5))
    choice = auto.choose(ASKED, 0.055)
    assert before is not None and choice is not None and choice.keep is not None
    assert abs(choice.keep - before) <= 0.05 * before


def test_slow_requests_that_no_budget_could_save_cost_no_tokens() -> None:
    device = Device(3, spread=0.01, spikes=0.0)
    auto = started(device)
    for turn in range(60):
        keep, _ = device.ask(auto, 0.055, ASKED)
        if turn % 5 == 0:  # one in six takes five times as long, whatever it keeps
            auto.add(sample(keep, 5 * truth(keep, ASKED)))
    choice = auto.choose(ASKED, 0.055)
    assert choice is not None and choice.keep is not None
    assert choice.keep >= 0.85 * largest(0.055, Device(4, spread=0.01))
    assert choice.seconds > 0.2  # which is what nine of ten stay within, and is said


def test_longer_texts_and_more_pictures_get_fewer_tokens() -> None:
    auto = Auto(LOW, HIGH, predict, [sample(keep, truth(keep, ASKED)) for keep in (20, 100, 200, 300)] * 5)
    short, long, two = (auto.choose(asked, 0.1 if asked.pictures > 1 else 0.055) for asked in (
        Asked(20, 10, 1), Asked(20, 60, 1), Asked(20, 10, 2)
    ))  # fmt: skip
    assert short is not None and long is not None and two is not None
    assert isinstance(short.keep, int) and isinstance(long.keep, int) and isinstance(two.keep, int)
    assert LOW < two.keep < long.keep < short.keep < HIGH


def test_all_tokens_where_they_fit_and_nothing_where_not_even_the_smallest_does() -> None:
    auto = Auto(LOW, HIGH, predict, [sample(LOW, truth(LOW, ASKED))])
    choice = auto.choose(ASKED, 1.0)
    assert choice is not None and choice.keep is None
    assert auto.choose(ASKED, 0.9 * truth(LOW, ASKED)) is None
    assert auto.choose(ASKED, -1.0) is None


def test_a_budget_that_cannot_run_is_not_chosen() -> None:
    auto = Auto(LOW, HIGH, predict, [sample(LOW, truth(LOW, ASKED))])
    choice = auto.choose(ASKED, 1.0, lambda keep: keep is not None and keep <= 77)
    assert choice is not None and choice.keep == 77


def test_what_an_earlier_process_measured_counts_and_what_this_one_did_counts_more() -> None:
    earlier = [sample(100, 0.050)] * 40
    auto = Auto(LOW, HIGH, predict, earlier)
    assert auto.samples == tuple(earlier)
    assert auto.fit().line(predict(100, ASKED)) == pytest.approx(0.050)
    for _ in range(12):
        auto.add(sample(100, 0.060))
    assert auto.fit().line(predict(100, ASKED)) == pytest.approx(0.060)


def test_the_line_has_an_offset_where_two_budgets_show_one() -> None:
    points = [(predicted, 0.03 + 0.5 * predicted) for predicted in (0.02, 0.03, 0.04, 0.05)] * 5
    fit = fit_line(points, [1.0] * len(points))
    assert fit.line(0.08) == pytest.approx(0.07, rel=0.05)
    assert fit.margin(0.9) == pytest.approx(1.0, abs=0.02)


def test_few_measurements_are_not_trusted_to_show_their_spread() -> None:
    assert fit_line([(0.02, 0.03)], [1.0]).margin(0.9) == 1.1
    assert fit_line([(0.02, 0.03)] * 20, [1.0] * 20).margin(0.9) == 1.0


def test_quantiles_go_by_weight() -> None:
    assert quantile([3, 1, 2], [1, 1, 1], 0.5) == 2
    assert quantile([3, 1, 2], [8, 1, 1], 0.5) == 3
    assert quantile([*range(1, 11)], [1] * 10, 0.9) == 9


@pytest.mark.parametrize(
    "change", [{"seconds": 0.0}, {"seconds": float("nan")}, {"keep": 0}, {"pictures": 0}, {"after": 10**400}]
)
def test_impossible_measurements_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(BundleError, match="expected counts and times of a request"):
        dataclasses.replace(sample(3, 0.1), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keep", "budget", "message"),
    [
        ("auto", None, "--keep auto needs the time to first token it is to fit: --ttft-budget 150ms"),
        (64, 150.0, "--ttft-budget 150ms has no effect with --keep 64: give --keep auto"),
        ("all", 150.0, "--ttft-budget 150ms has no effect with --keep all: give --keep auto"),
        ("auto", 0.0, "--ttft-budget is 0ms, expected more than 0"),
        ("auto", float("nan"), "--ttft-budget is nanms, expected more than 0"),
    ],
)
def test_words_that_do_not_go_together(keep: int | str, budget: float | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_words(keep, budget)


# --- the file ---------------------------------------------------------------------------------------------------

PLACE = Place("0" * 64, "visiondrop", "onnxruntime-cpu", 2, "CPU", 576, 1)


def test_what_was_measured_is_remembered() -> None:
    assert recall(PLACE) == ()
    samples = (sample(40, 0.05), sample(None, 0.09))
    remember(PLACE, samples)
    assert recall(PLACE) == samples
    assert stat.S_IMODE(PLACE.path.stat().st_mode) == 0o600
    for change in ({"manifest": "1" * 64}, {"method": "fastv"}, {"backend": "x"}, {"threads": 1}, {"device": "GPU"}):
        assert recall(dataclasses.replace(PLACE, **change)) == ()


def test_a_damaged_file_counts_as_empty() -> None:
    remember(PLACE, [sample(40, 0.05)])
    good = PLACE.path.read_text()
    assert recall(PLACE)
    other = good.replace('"threads": 2', '"threads": 4')
    for bad in ("", "{", "[]", good.replace("0.05", "-1"), good.replace('"keep"', '"keeps"'), other, "\ud800"):
        PLACE.path.write_text(bad, errors="surrogatepass")
        assert recall(PLACE) == ()
    PLACE.path.write_text(good)
    assert recall(PLACE)
    PLACE.path.chmod(0o666)
    assert recall(PLACE) == ()


def test_where_nothing_can_be_written_nothing_fails(state: Path) -> None:
    state.write_text("a file")
    remember(PLACE, [sample(40, 0.05)])
    assert recall(PLACE) == ()


# --- the estimate and the trials --------------------------------------------------------------------------------


@pytest.fixture
def bundle(bundle_tiny: Path) -> Bundle:
    return open_bundle(bundle_tiny)


def test_the_forecast_is_what_counting_gives(bundle: Bundle) -> None:
    entry = bundle.manifest.methods[0]
    forecast = Curve(bundle.manifest, entry, this_machine("onnxruntime-cpu", 1, "fp32"), 64, 1, None)
    for asked in (Asked(9, 0, 1), Asked(9, 64, 3), Asked(30, 100, 1)):
        times = [forecast.seconds(keep, asked) for keep in (*range(forecast.low, forecast.high + 1), None)]
        assert times[:-1] == sorted(times[:-1])
        exact = [forecast.exact(keep, asked) for keep in (*range(forecast.low, forecast.high + 1), None)]
        np.testing.assert_allclose(times, exact, rtol=0.02)


class Runs:
    """Stands for a chain on a slow machine: times that grow with the estimate's, and which budgets ran."""

    def __init__(self, bundle: Bundle, slower: Callable[[int], float] = lambda turn: 1.0, scale: float = 1.0) -> None:
        machine = this_machine("onnxruntime-cpu", 1, "fp32")
        self.forecast = Curve(bundle.manifest, bundle.manifest.methods[0], machine, 64, 1, None)
        self.slower, self.scale = slower, scale
        self.kept: list[Keep] = []

    def __call__(self, keep: Keep) -> Trial:
        self.kept.append(keep)
        seconds = self.seconds(keep) * self.slower(len(self.kept))
        return Trial(seconds, 0.6 * self.seconds(13))

    def seconds(self, keep: Keep) -> float:
        return self.scale * (0.2 + 1.5 * self.forecast.seconds(keep, ASKED))


@pytest.fixture
def slow(state: Path) -> None:
    """A calibration by which operations take far longer than starting a graph."""
    device = device_of("onnxruntime-cpu")
    write_calibration(Calibration(device, "onnxruntime-cpu", 1, "fp32", 3e7, 1e9, {}, "2026-01-31"))


def tuner_of(bundle: Bundle) -> Tuner:
    return Tuner(bundle, bundle.manifest.methods[0], "onnxruntime-cpu", 1)


PREPARED = 0.01


def choose(tuner: Tuner, runs: Runs, budget: float) -> tuple[Choice, bool]:
    return tuner.choose(ASKED, budget, PREPARED, lambda keep: True, runs)


@pytest.mark.usefixtures("slow")
def test_what_was_never_measured_is_tried_out_first_and_the_first_run_does_not_count(bundle: Bundle) -> None:
    runs = Runs(bundle, lambda turn: 10.0 if turn == 1 else 1.0)
    tuner, budget = tuner_of(bundle), PREPARED + runs.seconds(32)
    choice, tried = choose(tuner, runs, budget)
    assert tried and runs.kept == [13, 13]  # of more than a second together: two are enough
    assert isinstance(choice.keep, int) and 13 < choice.keep < 32
    assert choice.seconds <= budget
    for _ in range(15):
        tuner.learn(choice.keep, ASKED, runs(choice.keep))
        choice, tried = choose(tuner, runs, budget)
        assert not tried
    assert choice.keep in (31, 32)


@pytest.mark.usefixtures("slow")
def test_the_next_process_starts_where_this_one_ended(bundle: Bundle) -> None:
    tuner, runs = tuner_of(bundle), Runs(bundle)
    budget = PREPARED + runs.seconds(30)
    for _ in range(30):
        choice, _ = choose(tuner, runs, budget)
        tuner.learn(choice.keep, ASKED, runs(choice.keep))
    tuner.keep()
    again = Runs(bundle, lambda turn: 2.0 if turn == 1 else 1.0)
    found, tried = choose(tuner_of(bundle), again, budget)
    assert tried and again.kept == [found.keep]  # once, for the memory that a first run takes
    assert isinstance(found.keep, int) and 29 <= found.keep <= 30


@pytest.mark.usefixtures("slow")
def test_too_short_a_time_is_refused_with_what_would_do(bundle: Bundle) -> None:
    tuner, runs = tuner_of(bundle), Runs(bundle)
    least = runs.seconds(13)
    with pytest.raises(BudgetError) as refused:
        choose(tuner, runs, 0.8 * least)
    assert str(refused.value) == (
        f"--ttft-budget {0.8e3 * least:.0f}ms is too short: the smallest budget of visiondrop, --keep 13, just took "
        f"{1e3 * (PREPARED + least):.0f}ms, {0.6e3 * least:.0f}ms of it the encoder alone; give --ttft-budget "
        f"{1.1e3 * (PREPARED + least):.0f}ms or more, or another --method"
    )
    with pytest.raises(BudgetError, match="or a --method that prunes inside the encoder"):
        choose(tuner, runs, 0.5 * least)


@pytest.mark.usefixtures("slow")
def test_a_refusal_is_measured_not_remembered(bundle: Bundle) -> None:
    runs = Runs(bundle)
    budget = PREPARED + 1.2 * runs.seconds(13)
    with pytest.raises(BudgetError):
        choose(tuner_of(bundle), Runs(bundle, lambda turn: 3.0), budget)
    choice, tried = choose(tuner_of(bundle), runs, budget)
    assert tried and choice.keep == 13
    assert choice.seconds == pytest.approx(PREPARED + runs.seconds(13))


@pytest.mark.usefixtures("slow")
def test_one_slow_trial_refuses_nothing(bundle: Bundle) -> None:
    runs = Runs(bundle, lambda turn: 1.6 if turn == 2 else 1.0, scale=0.2)
    choice, _ = choose(tuner_of(bundle), runs, PREPARED + 1.2 * runs.seconds(13))
    assert isinstance(choice.keep, int) and runs.seconds(choice.keep) <= 1.2 * runs.seconds(13)


@pytest.mark.usefixtures("slow")
def test_a_refusal_of_seconds_runs_no_more_often_than_it_must(bundle: Bundle) -> None:
    tuner, runs = tuner_of(bundle), Runs(bundle, scale=10)
    with pytest.raises(BudgetError):
        choose(tuner, runs, 0.5 * runs.seconds(13))
    assert runs.kept == [13, 13]
    with pytest.raises(BudgetError):
        choose(tuner, runs, 0.5 * runs.seconds(13))
    assert runs.kept == [13, 13, 13]


# --- a bundle ---------------------------------------------------------------------------------------------------


def test_a_bundle_from_trial_to_memory(bundle_tiny: Path, state: Path) -> None:
    image = picture(0)
    with edgeprune.open(bundle_tiny, backend=OrtBackend(1)) as vlm:
        first = vlm.generate(QUESTION, [image], "auto", max_new_tokens=2, ttft_budget_ms=60_000)
        assert (first.keep, first.method, first.stages) == ("all", None, ())
        assert first.ttft_predicted_ms is not None and 0 < first.ttft_predicted_ms < 60_000
        assert "trial" in first.timings_ms
        (path,) = (state / "edgeprune" / "ttft").iterdir()
        before = len(json.loads(path.read_text())["samples"])
        # In between of what the smallest and all tokens take nothing is sure but the reach.
        found = vlm.generate_batch(QUESTION, [image, image], "auto", max_new_tokens=2, ttft_budget_ms=60_000)
        assert len(found) == 2 and "trial" not in found[0].timings_ms
        samples = json.loads(path.read_text())["samples"]
        assert len(samples) == before + 1 and samples[-1]["pictures"] == 2
        assert samples[-1]["seconds"] < found[0].ttft_ms / 1e3
        with pytest.raises(BudgetError, match=r"--ttft-budget 0\.0ms is too short: the smallest budget of visiondrop"):
            vlm.generate(QUESTION, [image], "auto", ttft_budget_ms=0.001)
        plain = vlm.generate(QUESTION, [image], 20, max_new_tokens=2)
        assert plain.ttft_predicted_ms is None
    with edgeprune.open(bundle_tiny, backend=OrtBackend(1)) as vlm:
        limit = 50 * plain.ttft_ms  # on a machine that may be busy just now
        answer = vlm.generate(QUESTION, [image], "auto", max_new_tokens=2, ttft_budget_ms=limit)
        assert answer.keep == "all" or 13 <= int(answer.keep) <= 42
        assert answer.visual_tokens_average == (64 if answer.keep == "all" else answer.keep)
