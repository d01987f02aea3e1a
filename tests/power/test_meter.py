"""Energy of work, from a board in a folder and from a device that counts."""

from __future__ import annotations

from pathlib import Path
from time import sleep

import pytest

from edgeprune.power import meter
from edgeprune.power.device import open_device
from edgeprune.power.meter import Meter, area
from edgeprune.power.state import DeviceState
from tests.power import recorded


def test_the_area_is_of_trapezoids() -> None:
    assert area([(0.0, 10.0), (1.0, 20.0), (3.0, 20.0)]) == 15.0 + 40.0
    assert area([(1.0, 10.0)]) == 0.0


def test_a_steady_board(tmp_path: Path) -> None:
    device = open_device(recorded.lay_out(tmp_path, recorded.ORIN_NANO_FILES), lambda words: None)
    assert device is not None

    def work() -> str:
        sleep(0.2)
        return "done"

    result, reading = Meter(device, 0.01).measure(work)
    assert result == "done"
    assert reading.seconds >= 0.2
    assert reading.joules == pytest.approx(4.984 * reading.seconds, rel=0.1)
    assert reading.throttled == ()


def test_what_changes_meanwhile_is_seen(tmp_path: Path) -> None:
    device = open_device(recorded.lay_out(tmp_path, recorded.ORIN_NANO_FILES), lambda words: None)
    assert device is not None

    def work() -> None:
        recorded.draw(tmp_path, 5000)
        (tmp_path / "sys/class/thermal/cooling_device8/cur_state").write_text("2\n")
        sleep(0.3)
        recorded.draw(tmp_path, 1000)
        (tmp_path / "sys/class/thermal/cooling_device8/cur_state").write_text("0\n")

    _, reading = Meter(device, 0.01).measure(work)
    assert reading.throttled == ("gpu-throttle",)
    assert reading.joules == pytest.approx(24.92 * reading.seconds, rel=0.15)


def test_work_that_fails_ends_the_thread(tmp_path: Path) -> None:
    device = open_device(recorded.lay_out(tmp_path, recorded.ORIN_NANO_FILES), lambda words: None)
    assert device is not None
    with pytest.raises(ZeroDivisionError):
        Meter(device).measure(lambda: 1 // 0)


class Counting:
    """A device that draws 50 W, and counts 7 J at every look at its counter."""

    sensor = "counter"
    seen = 0.0

    def state(self) -> DeviceState:
        return DeviceState("counter", self.sensor, None, None, None, None, None, (), {})

    def watts(self) -> float | None:
        return 50.0

    def joules(self) -> float | None:
        self.seen += 7.0
        return self.seen

    def throttled(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        pass


class Slow(Counting):
    """It also takes long to say why it is slowed down."""

    def throttled(self) -> tuple[str, ...]:
        sleep(0.2)
        return ()


def test_what_is_drawn_while_the_device_is_read_is_not_the_works() -> None:
    _, reading = Meter(Slow()).measure(lambda: sleep(0.1))
    assert reading.joules == pytest.approx(50.0 * reading.seconds)


def test_a_counter_counts_where_the_work_is_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    _, short = Meter(Counting()).measure(lambda: sleep(0.05))
    assert short.joules == pytest.approx(50.0 * short.seconds, rel=0.3)
    monkeypatch.setattr(meter, "COUNTER_LEAST_S", 0.01)
    _, long = Meter(Counting()).measure(lambda: sleep(0.05))
    assert long.joules == 7.0
