"""What devices print and hold in files, as texts.

Where they come from:

- ``NANO``, ``TX1``, ``TX2``, ``AGX_XAVIER``: Datadog's agent, pkg/collector/corechecks/nvidia/jetson, jetson_test.go.
- ``ORIN_NANO``: a developer kit with JetPack 6.2.1, as a public benchmark's notes print it. ``AGX_ORIN``: r35, from an
  article on YOLO with DeepStream; r36 leaves VDDQ_VDD2_1V8AO out, and writes a hot chip's zones with their most.
- ``THOR``: r38, a GPU at rest, whose sensor reads below 0; ``THOR_R39``: under load, with averages and mosts.
- The folders of the INA3221 have the labels of Linux's tegra234-p3701.dtsi (AGX Orin) and tegra234-p3767.dtsi (Orin NX
  and Nano), patch "arm64: tegra: Add power-sensors for Tegra234 boards"; voltages and currents as hwmon prints them.
- ``H200``, ``L4``: tables of nvidia-smi with the fields asked; the masks are NVML's nvmlClocksEventReasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

NANO = (
    "RAM 613/3964MB (lfb 634x4MB) SWAP 0/1982MB (cached 0MB) CPU [2%@102,1%@102,0%@102,0%@102] EMC_FREQ 0% "
    "GR3D_FREQ 0% PLL@39C CPU@40.5C PMIC@100C GPU@41C AO@46C thermal@41C "
    "POM_5V_IN 900/943 POM_5V_GPU 0/0 POM_5V_CPU 123/123"
)
TX1 = (
    "RAM 1179/3983MB (lfb 120x4MB) IRAM 0/252kB(lfb 252kB) CPU [1%@102,4%@102,0%@102,0%@102] EMC_FREQ 7%@408 "
    "GR3D_FREQ 0%@76 APE 25 AO@42.5C CPU@37.5C GPU@39C PLL@37C Tdiode@42.75C PMIC@100C Tboard@42C thermal@38.5C "
    "VDD_IN 2532/2698 VDD_CPU 76/178 VDD_GPU 19/19"
)
TX2 = (
    "RAM 1345/7829MB (lfb 1290x4MB) SWAP 0/512MB (cached 0MB) CPU [2%@345,off,off,off,off,off] EMC_FREQ 13%@40 "
    "GR3D_FREQ 0%@114 APE 150 BCPU@35C MCPU@35C GPU@41C PLL@35C AO@35.5C Tboard@35C Tdiode@36C PMIC@100C thermal@35.5C "
    "VDD_IN 2003/2658 VDD_CPU 320/518 VDD_GPU 400/735 VDD_SOC 400/415 VDD_WIFI 0/0 VDD_DDR 240/348"
)
AGX_XAVIER = (
    "RAM 1903/15692MB (lfb 3251x4MB) CPU [1%@1190,1%@1190,2%@1190,0%@1190,0%@1190,0%@1190,0%@1190,0%@1190] EMC_FREQ 0% "
    "GR3D_FREQ 0% AO@32.5C GPU@32C Tboard@32C Tdiode@34.75C AUX@31.5C CPU@33.5C thermal@32.9C PMIC@100C GPU 0/0 "
    "CPU 216/216 SOC 864/864 CV 0/0 VDDRQ 144/144 SYS5V 1889/1889"
)
ORIN_NANO = (
    "04-27-2026 15:00:54 RAM 779/7620MB (lfb 2x4MB) SWAP 0/3810MB (cached 0MB) "
    "CPU [0%@1344,0%@1344,0%@1344,0%@1344,0%@1344,0%@1344] GR3D_FREQ 0% cpu@50.125C soc2@49.125C soc0@49.25C "
    "gpu@50.562C tj@50.562C soc1@50.437C VDD_IN 6626mW/6625mW VDD_CPU_GPU_CV 1228mW/1230mW VDD_SOC 2380mW/2380mW "
)
AGX_ORIN = (
    "RAM 8236/62801MB (lfb 12000x4MB) SWAP 0/31400MB (cached 0MB) CPU [100%@2201,100%@2201] EMC_FREQ 1%@2133 "
    "GR3D_FREQ 14%@[407,407] VIC_FREQ 115 NVDLA0_FREQ @1600 APE 174 CV0@73.625C CPU@77.281C Tboard@62C SOC2@70C "
    "Tdiode@62.25C SOC0@69.531C CV1@-256C GPU@69.125C tj@77.281C VDD_GPU_SOC 3150mW/2971mW VDD_CPU_CV 14312mW/12415mW "
    "VIN_SYS_5V0 4968mW/5048mW VDDQ_VDD2_1V8AO 1091mW/1091mW"
)
THOR = (
    "05-14-2026 21:36:35 RAM 26063/125772MB (lfb 35x4MB) CPU [2%@972,1%@972] VDD_GPU -392mW/-392mW "
    "VDD_CPU_SOC_MSS 3924mW/3835mW VIN_SYS_5V0 5064mW/5055mW VIN 15004mW/15096mW"
)
THOR_R39 = (
    "08-08-2026 21:00:39 RAM 8353/125749MB (lfb 31x4MB) CPU [90%@2601,75%@2601,off,7%@2601] EMC_FREQ 34%@4266 "
    "GR3D_FREQ 87%@[1574,1574,1574] NVENC0_FREQ @1691 VIC off cpu@58.25C/61.75C tj@66.625C/66.625C gpu@56.937C/66.625C "
    "VDD_GPU 37939mW/8660mW/37939mW VDD_CPU_SOC_MSS 30059mW/12281mW/30059mW VIN_SYS_5V0 15486mW/7424mW/15486mW "
    "VIN 124486mW/36487mW/124486mW"
)

H200 = (
    "NVIDIA H200, GPU-8d3f1c52-1f0b-5f1e-9a43-3c1f2b7a9e10, 700.00, 1980, 1980, 34, 120.31, 0x0000000000000000\n"
    "NVIDIA H200, GPU-1b9f77aa-6a0e-2b43-b5a5-5b3a3f1cde77, 700.00, 345, 1980, 29, 75.92, 0x0000000000000001\n"
)
L4 = "NVIDIA L4, GPU-c4f5b2aa-0d11-47c8-a32b-6f7c0c2f9b11, 72.00, 855, 2040, 84, 71.60, 0x0000000000000024\n"
NO_SENSOR = "NVIDIA GeForce MX450, GPU-00000000-1111-2222-3333-444444444444, [N/A], 1395, 1575, 62, [N/A], [N/A]\n"

_CHIPS = "sys/bus/i2c/drivers/ina3221"
_NANO_CHIP, _AGX_CHIP = f"{_CHIPS}/1-0040/hwmon/hwmon1", f"{_CHIPS}/1-0040/hwmon/hwmon3"
_AGX_SECOND = f"{_CHIPS}/1-0041/hwmon/hwmon4"
_BOARD = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "624750000\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "624750000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "50125\n",
    "sys/class/thermal/thermal_zone1/type": "cv0-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "-256000\n",
    "sys/class/thermal/thermal_zone2/type": "gpu-thermal\n",  # a GPU at rest: its file cannot be read
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "2\n",
    "sys/class/thermal/cooling_device8/type": "gpu-throttle-alert\n",
    "sys/class/thermal/cooling_device8/cur_state": "0\n",
    "sys/class/thermal/cooling_device9/type": "hot-surface-alert\n",
    "sys/class/thermal/cooling_device9/cur_state": "0\n",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
    "sys/class/hwmon/hwmon3/oc3_event_cnt": "37\n",
}
ORIN_NANO_FILES = {
    **_BOARD,
    f"{_NANO_CHIP}/in1_label": "VDD_IN\n",
    f"{_NANO_CHIP}/in1_input": "4984\n",
    f"{_NANO_CHIP}/curr1_input": "1000\n",
    f"{_NANO_CHIP}/in2_label": "VDD_CPU_GPU_CV\n",
    f"{_NANO_CHIP}/in2_input": "4976\n",
    f"{_NANO_CHIP}/curr2_input": "248\n",
    f"{_NANO_CHIP}/in3_label": "VDD_SOC\n",
    f"{_NANO_CHIP}/in3_input": "4976\n",
    f"{_NANO_CHIP}/curr3_input": "480\n",
    f"{_NANO_CHIP}/in7_label": "sum of shunt voltages\n",
    f"{_NANO_CHIP}/in7_input": "8\n",
}
AGX_ORIN_FILES = {
    **_BOARD,
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    f"{_AGX_CHIP}/in1_label": "VDD_GPU_SOC\n",
    f"{_AGX_CHIP}/in1_input": "19832\n",
    f"{_AGX_CHIP}/curr1_input": "160\n",
    f"{_AGX_CHIP}/in2_label": "VDD_CPU_CV\n",
    f"{_AGX_CHIP}/in2_input": "19832\n",
    f"{_AGX_CHIP}/curr2_input": "40\n",
    f"{_AGX_CHIP}/in3_label": "VIN_SYS_5V0\n",
    f"{_AGX_CHIP}/in3_input": "4968\n",
    f"{_AGX_CHIP}/curr3_input": "750\n",
    f"{_AGX_SECOND}/in1_label": "NC\n",
    f"{_AGX_SECOND}/in2_label": "VDDQ_VDD2_1V8AO\n",
    f"{_AGX_SECOND}/in2_input": "4968\n",
    f"{_AGX_SECOND}/curr2_input": "80\n",
}


def lay_out(root: Path, files: Mapping[str, str]) -> Path:
    """The files below ``root``."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def draw(root: Path, milliamperes: int) -> None:
    """Let an Orin Nano draw another current."""
    (root / _NANO_CHIP / "curr1_input").write_text(f"{milliamperes}\n")
