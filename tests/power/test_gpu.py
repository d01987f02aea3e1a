"""GPUs through nvidia-smi's tables, and through a module with NVML's functions."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edgeprune.power.command import Output, run_command
from edgeprune.power.nvml import open_nvml
from edgeprune.power.smi import SmiDevice, open_smi, parse_line, question
from edgeprune.power.state import set_by_user, throttle_reasons
from edgeprune.power.stream import LineStream
from edgeprune.power.visible import first_gpu
from tests.power import recorded

TWO = recorded.H200.splitlines()


def test_a_line_of_the_table() -> None:
    line = parse_line(recorded.L4)
    assert line is not None
    assert (line.name, line.limit_watts, line.watts) == ("NVIDIA L4", 72.0, 71.6)
    assert (line.clock_mhz, line.clock_most_mhz, line.degrees) == (855, 2040, 84)
    assert throttle_reasons(line.mask) == ("power limit", "heat, by the driver")


def test_what_the_table_does_not_know() -> None:
    line = parse_line(recorded.NO_SENSOR)
    assert line is not None
    assert (line.limit_watts, line.watts, line.mask) == (None, None, 0)
    assert parse_line("No devices were found") is None


def test_idling_and_set_clocks_are_no_throttling() -> None:
    assert throttle_reasons(0x1 | 0x2 | 0x100) == ()
    assert throttle_reasons(0xC8) == ("hardware slowdown", "heat, by the hardware", "power brake")
    assert (set_by_user(0x2), set_by_user(0x1)) == (True, None)


@pytest.mark.parametrize(
    ("names", "environment", "expected"),
    [
        (["H200"], {}, 0),
        (["H200", "H200"], {"CUDA_VISIBLE_DEVICES": "1,0"}, 1),
        (["H200", "H200"], {"CUDA_VISIBLE_DEVICES": "GPU-1b9f"}, "GPU-1b9f"),
        (["L4", "H200"], {}, None),  # CUDA's first is the fastest
        (["L4", "H200"], {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, 0),
        (["H200"], {"CUDA_VISIBLE_DEVICES": ""}, None),
        (["H200"], {"CUDA_VISIBLE_DEVICES": "MIG-7a1c"}, None),
        (["H200"], {"CUDA_VISIBLE_DEVICES": "3"}, None),
        ([], {}, None),
    ],
)
def test_which_gpu_is_cudas_first(names: list[str], environment: dict[str, str], expected: int | str | None) -> None:
    assert first_gpu(names, environment) == expected


def command(folder: Path, lines: Sequence[str], since_535: bool) -> None:
    """An ``nvidia-smi`` in a folder: it refuses fields it does not know, and with -lms repeats one GPU's line."""
    refuse = "clocks_throttle_reasons" if since_535 else "clocks_event_reasons"
    code = (
        f"#!{sys.executable}\nimport sys, time\nlines, words = {list(lines)!r}, sys.argv[1:]\n"
        f"if {refuse!r} in words[0]: print('Field is not a valid field to query.'); sys.exit(2)\n"
        "if '-i' in words: lines = [line for line in lines if words[words.index('-i') + 1] in line]\n"
        "print(*lines, sep='\\n', flush=True)\n"
        "while '-lms' in words: time.sleep(0.1); print(*lines, sep='\\n', flush=True)\n"
    )
    path = folder / "nvidia-smi"
    path.write_text(code)
    path.chmod(0o755)


@pytest.mark.parametrize("since_535", [True, False])
def test_a_gpu_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, since_535: bool) -> None:
    command(tmp_path, TWO, since_535)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    device = open_smi(run_command)
    assert device is not None
    try:
        assert device.sensor == "nvidia-smi"
        assert device.watts() == 75.92
        state = device.state()
        assert (state.device, state.power_limit_watts, state.locked) == ("NVIDIA H200", 700.0, None)
        assert (state.clock_mhz, state.clock_most_mhz, state.temperatures) == (345, 1980, {"gpu": 29})
        assert device.throttled() == ()
        assert device.joules() is None
    finally:
        device.close()


def test_a_command_that_ends_says_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    line = parse_line(recorded.L4)
    assert line is not None
    monkeypatch.setattr("edgeprune.power.stream.STALE_S", 0.0)
    device = SmiDevice(LineStream((sys.executable, "-c", f"print({recorded.L4!r})")), line)
    try:
        assert device.watts() is None
        assert device.state().power_limit_watts == 72.0  # the first answer's
    finally:
        device.close()


@pytest.mark.parametrize(
    "said", [None, Output(9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")]
)
def test_no_gpu_by_the_command(said: Output | None) -> None:
    assert open_smi(lambda words: said) is None


def test_the_question_names_the_gpu_and_the_period() -> None:
    words = question(("name", "power.draw"), "GPU-1", repeat=True)
    assert words[1:] == ("--query-gpu=name,power.draw", "--format=csv,noheader,nounits", "-i", "GPU-1", "-lms", "100")


class NvmlError(Exception):
    pass


def nvml_module(instant: int | None = 121_500, energy: bool = True) -> types.ModuleType:
    """The functions of ``pynvml`` that are asked, of one GPU; what it does not have raises as NVML does."""

    def field(code: int) -> types.SimpleNamespace:
        known = code == 186 and instant is not None
        return types.SimpleNamespace(nvmlReturn=0 if known else 3, value=types.SimpleNamespace(uiVal=instant or 0))

    def energy_of(handle: str) -> int:
        if not energy:
            raise NvmlError("Not Supported")
        return 5_000_000

    answers: dict[str, Callable[..., object]] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: "gpu",
        "nvmlDeviceGetName": lambda handle: b"NVIDIA H200",
        "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 700_000,
        "nvmlDeviceGetTemperature": lambda handle, sensor: 34,
        "nvmlDeviceGetClockInfo": lambda handle, kind: 1980,
        "nvmlDeviceGetMaxClockInfo": lambda handle, kind: 1980,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: 0x4,
        "nvmlDeviceGetPowerUsage": lambda handle: 118_000,
        "nvmlDeviceGetFieldValues": lambda handle, codes: [field(code) for code in codes],
        "nvmlDeviceGetTotalEnergyConsumption": energy_of,
    }
    module = types.ModuleType("nvml_of_a_test")
    for name, answer in answers.items():
        setattr(module, name, answer)
    module.__dict__.update(NVMLError=NvmlError, NVML_TEMPERATURE_GPU=0, NVML_CLOCK_SM=1)
    return module


def test_a_gpu_by_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "nvml_of_a_test", nvml_module())
    device = open_nvml("nvml_of_a_test")
    assert device is not None
    assert (device.sensor, device.watts(), device.joules()) == ("NVML", 121.5, 5000.0)
    state = device.state()
    assert (state.device, state.power_limit_watts, state.temperatures) == ("NVIDIA H200", 700.0, {"gpu": 34.0})
    assert state.throttled == device.throttled() == ("power limit",)
    device.close()


def test_an_older_gpu_by_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "nvml_of_a_test", nvml_module(instant=None, energy=False))
    device = open_nvml("nvml_of_a_test")
    assert device is not None
    assert (device.watts(), device.joules()) == (118.0, None)


def test_no_gpu_by_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_nvml("no_such_module_as_this") is None

    def fail() -> None:
        raise NvmlError("Driver Not Loaded")

    module = nvml_module()
    module.__dict__["nvmlInit"] = fail
    monkeypatch.setitem(sys.modules, "nvml_of_a_test", module)
    assert open_nvml("nvml_of_a_test") is None
    monkeypatch.setitem(sys.modules, "nvml_of_a_test", nvml_module())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert open_nvml("nvml_of_a_test") is None
