"""Boards laid out as folders."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgeprune.power.command import Output
from edgeprune.power.device import open_device
from edgeprune.power.ina3221 import FOLDER, Ina3221
from edgeprune.power.jetson import Clock, Throttling, gpu_clock
from edgeprune.power.jetson_device import JetsonDevice
from tests.power import recorded


def nvpmodel(command: Sequence[str]) -> Output | None:
    return Output(0, "NV Power Mode: 15W\n0\n") if command[0] == "nvpmodel" else None


def test_an_orin_nano_draws_its_input(tmp_path: Path) -> None:
    chips = Ina3221.open(recorded.lay_out(tmp_path, recorded.ORIN_NANO_FILES))
    assert chips is not None
    assert chips.name == "INA3221 (VDD_IN)"
    assert chips.watts() == pytest.approx(4.984)
    recorded.draw(tmp_path, 2500)
    assert chips.watts() == pytest.approx(12.46)


def test_an_agx_orin_draws_three_rails(tmp_path: Path) -> None:
    chips = Ina3221.open(recorded.lay_out(tmp_path, recorded.AGX_ORIN_FILES))
    assert chips is not None
    assert chips.name == "INA3221 (VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0)"
    assert chips.watts() == pytest.approx(19.832 * 0.160 + 19.832 * 0.040 + 4.968 * 0.750)


def test_a_rail_that_cannot_be_read_gives_no_power(tmp_path: Path) -> None:
    chips = Ina3221.open(recorded.lay_out(tmp_path, recorded.AGX_ORIN_FILES))
    assert chips is not None
    (tmp_path / FOLDER / "1-0040/hwmon/hwmon3/curr2_input").write_text("")  # the chip did not answer in time
    assert chips.watts() is None


def test_chips_without_known_rails_are_none(tmp_path: Path) -> None:
    assert Ina3221.open(tmp_path) is None
    files = {name: text for name, text in recorded.AGX_ORIN_FILES.items() if "1-0040" not in name}
    assert Ina3221.open(recorded.lay_out(tmp_path, files)) is None


def test_the_state_of_a_board(tmp_path: Path) -> None:
    device = open_device(recorded.lay_out(tmp_path, recorded.ORIN_NANO_FILES), nvpmodel)
    assert device is not None
    state = device.state()
    assert state.device == "NVIDIA Jetson Orin Nano Developer Kit"
    assert (state.power_mode, state.locked, state.throttled) == ("15W", False, ())
    assert (state.clock_mhz, state.clock_most_mhz) == (624.75, 624.75)
    assert state.temperatures == {"cpu": 50.125}
    assert device.sensor == "INA3221 (VDD_IN)"
    assert device.joules() is None
    device.close()


def test_clocks_are_locked_where_they_cannot_move(tmp_path: Path) -> None:
    recorded.lay_out(tmp_path, recorded.ORIN_NANO_FILES)
    (tmp_path / "sys/class/devfreq/17000000.gpu/min_freq").write_text("624750000\n")
    assert gpu_clock(tmp_path).locked is True
    assert Clock(None, None, 600.0).locked is None


def test_throttling_for_heat_is_now_and_for_current_since(tmp_path: Path) -> None:
    recorded.lay_out(tmp_path, recorded.ORIN_NANO_FILES)
    throttling = Throttling(tmp_path)
    assert throttling.reasons() == ()  # a fan that turns is none, nor 37 events of before
    thermal, counters = tmp_path / "sys/class/thermal", tmp_path / "sys/class/hwmon/hwmon3"
    (thermal / "cooling_device8/cur_state").write_text("1\n")
    (counters / "oc3_event_cnt").write_text("38\n")
    assert throttling.reasons() == ("gpu-throttle", "instantaneous over-current")
    (thermal / "cooling_device8/cur_state").write_text("0\n")
    assert throttling.reasons() == ("instantaneous over-current",)


def printing(line: str) -> tuple[str, ...]:
    """A command that prints a line ten times a second, as ``tegrastats --interval 100`` does."""
    code = f"import time\nwhile True:\n print({line!r}, flush=True)\n time.sleep(0.1)"
    return (sys.executable, "-c", code)


def test_tegrastats_where_there_are_no_sensors_files(tmp_path: Path) -> None:
    board = {name: text for name, text in recorded.AGX_ORIN_FILES.items() if name.startswith(("proc", "etc"))}
    device = JetsonDevice(recorded.lay_out(tmp_path, board), nvpmodel, printing(recorded.AGX_ORIN))
    try:
        assert device.sensor == "tegrastats (VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0)"
        assert device.watts() == pytest.approx(22.43)
        state = device.state()
        assert (state.clock_mhz, state.clock_most_mhz, state.locked) == (407, None, None)
        assert state.temperatures["gpu"] == 69.125
    finally:
        device.close()


@pytest.mark.parametrize("command", [("/nowhere/tegrastats",), (sys.executable, "-c", "")])
def test_a_board_that_tells_no_power(tmp_path: Path, command: tuple[str, ...]) -> None:
    board = {name: text for name, text in recorded.ORIN_NANO_FILES.items() if "ina3221" not in name}
    device = JetsonDevice(recorded.lay_out(tmp_path, board), nvpmodel, command)
    assert (device.sensor, device.watts()) == (None, None)
    assert device.state().power_mode == "15W"
    device.close()


def test_other_machines_are_no_device(tmp_path: Path) -> None:
    assert open_device(tmp_path, nvpmodel) is None
    assert open_device(tmp_path, nvpmodel, on_gpu=True) is None
