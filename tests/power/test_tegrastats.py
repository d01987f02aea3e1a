"""Lines of every kind of board, and what the module draws."""

from __future__ import annotations

import pytest

from edgeprune.power.rails import TOTALS, total_rails, total_watts
from edgeprune.power.tegrastats import Stats, parse
from tests.power import recorded


@pytest.mark.parametrize(
    ("line", "watts"),
    [
        (recorded.NANO, 0.900),
        (recorded.TX1, 2.532),
        (recorded.TX2, 2.003),  # VDD_IN alone: it holds the others
        (recorded.AGX_XAVIER, 0.216 + 0.864 + 0.144 + 1.889),
        (recorded.ORIN_NANO, 6.626),
        (recorded.AGX_ORIN, 3.150 + 14.312 + 4.968),  # VDDQ_VDD2_1V8AO is within VIN_SYS_5V0
        (recorded.THOR, -0.392 + 3.924 + 5.064),  # without VIN, the carrier's input
        (recorded.THOR_R39, 37.939 + 30.059 + 15.486),
    ],
)
def test_the_module_is_counted_once(line: str, watts: float) -> None:
    assert total_watts(parse(line).rails) == pytest.approx(watts)


def test_a_line_says_rails_heat_and_clock() -> None:
    stats = parse(recorded.AGX_ORIN)
    assert stats.rails == {
        "VDD_GPU_SOC": 3150.0, "VDD_CPU_CV": 14312.0, "VIN_SYS_5V0": 4968.0, "VDDQ_VDD2_1V8AO": 1091.0
    }  # fmt: skip
    assert stats.gpu_clock_mhz == 407
    assert stats.temperatures["gpu"] == 69.125
    assert "cv1" not in stats.temperatures  # switched off: -256


def test_neither_memory_nor_loads_are_rails() -> None:
    assert set(parse(recorded.TX1).rails) == {"VDD_IN", "VDD_CPU", "VDD_GPU"}
    assert set(parse(recorded.NANO).rails) == {"POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU"}


def test_the_newest_form_gives_what_is_now() -> None:
    stats = parse(recorded.THOR_R39)
    assert stats.rails["VDD_GPU"] == 37939
    assert stats.temperatures == {"cpu": 58.25, "tj": 66.625, "gpu": 56.937}
    assert stats.gpu_clock_mhz == 1574


def test_a_clock_that_is_not_told() -> None:
    assert parse(recorded.ORIN_NANO).gpu_clock_mhz is None
    assert parse(recorded.TX1).gpu_clock_mhz == 76


@pytest.mark.parametrize("line", ["", "tegrastats: command not found", "RAM 1/2MB CPU [1%@2]"])
def test_other_text_says_nothing(line: str) -> None:
    assert parse(line) == Stats({}, {}, None)


def test_a_board_that_is_not_known_has_no_total() -> None:
    assert total_watts({"VDD_CPU": 100.0, "VDD_GPU": 200.0}) is None
    assert total_rails(["VDD_SOC", "VDD_IN"]) == ("VDD_IN",)
    assert all(total_rails(rails) == rails for rails in TOTALS)
