"""Three machines as their files and commands describe them: a Jetson, a server with a GPU, a bare CPU.

What the texts were taken from:

- Jetson Orin Nano 8GB, L4T 36.4.3, 15 W, TensorRT 10.3.0.30, CUDA 12.6.68, Python 3.10.12, and both packages of ONNX
  Runtime, 1.20.1 and 1.19.2, side by side: doc/TESTENV.md of github.com/SnapDragonfly/jetson-fpv ("Tested Env1").
  The driver's file, the device tree's strings and nvpmodel's two lines are printed in github.com/lkk688/edgeAI,
  docs/curriculum/02a_linux_basics.md; L4T 39.2 in github.com/rbonghi/jetson_stats/issues/864.
- nvidia-smi: its manual page for the columns; 23034 MiB on an L4 from github.com/modal-labs/modal-client/pull/2797;
  "[N/A]" on Jetsons from github.com/micytao/vllm-playground/pull/11; the open module's "for x86_64" from
  github.com/nix-community/nixGL/issues/186.

Where no machine's own text is public (sizes in KiB, the fields of dpkg that are not read, clocks), the format is the
kernel's or dpkg's and the figure is a usual one. What the probes say is edgeprune's own format;
tests/doctor/test_probe.py runs the real ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeprune.doctor.interpreter import Interpreter
from edgeprune.doctor.machine import Machine
from edgeprune.power.command import Output

TEGRA = """\
# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025
# KERNEL_VARIANT: oot
TARGET_USERSPACE_LIB_DIR=nvidia
TARGET_USERSPACE_LIB_DIR_PATH=usr/lib/aarch64-linux-gnu/nvidia
"""
TEGRA_39 = (
    "# R39 (release), REVISION: 2.0, GCID: 45755727, BOARD: generic, EABI: aarch64, "
    "DATE: Mon Jun  1 09:28:48 PM UTC 2026\n"
)
DPKG = """\
Package: libnvinfer10
Status: install ok installed
Architecture: arm64
Version: 10.3.0.30-1+cuda12.5

Package: python3-libnvinfer
Status: install ok installed
Priority: optional
Section: python
Architecture: arm64
Version: 10.3.0.30-1+cuda12.5
Depends: python3 (>= 3.10), python3 (<< 3.11), libnvinfer10 (= 10.3.0.30-1+cuda12.5)
Description: Python 3 bindings for TensorRT

Package: vim
Status: deinstall ok config-files
Version: 2:8.2
"""
JETSON_FILES = {
    "etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nID=ubuntu\nID_LIKE=debian\n',
    "etc/nv_tegra_release": TEGRA,
    "etc/nvpmodel.conf": (
        "< PM_CONFIG DEFAULT=2 >\n< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n"
        "< POWER_MODEL ID=1 NAME=25W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"
    ),
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "proc/cpuinfo": (
        "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n"
    ),
    "proc/meminfo": "MemTotal:        7802676 kB\nMemFree:          191488 kB\nMemAvailable:    4910080 kB\n",
    "proc/swaps": (
        "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        "/dev/zram0                              partition\t650220\t\t0\t\t5\n"
        "/dev/zram1                              partition\t650220\t\t0\t\t5\n"
    ),
    "proc/driver/nvidia/version": (
        "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  "
        "(buildbrain@mobile-u64-6336-d8000)  Tue Jan  7 17:35:12 PST 2025\n"
    ),
    "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "624750000\n",
    "usr/local/cuda-12.6/version.json": '{"cuda" : {"name" : "CUDA SDK", "version" : "12.6.11"}}',
    "usr/lib/python3.10/dist-packages/tensorrt/__init__.py": "",
    "var/lib/dpkg/status": DPKG,
}
JETSON_COMMANDS = {
    "nvidia-smi": Output(0, "Orin (nvgpu), 8.7, 540.4.0, N/A, [N/A], [N/A], [N/A], [N/A], [N/A]\n"),
    "nvpmodel": Output(0, "NV Power Mode: 15W\n0\n", "NVPM ERROR: Error opening /sys/kernel/emc_iso_cap: 13\n"),
}
ORIN = {"name": "Orin", "capability": "8.7", "memory_bytes": 7_989_940_224, "bus": "00000000:00:00.0"}

SERVER_FILES = {
    "etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.1 LTS"\nID=ubuntu\nID_LIKE=debian\n',
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) CPU @ 2.20GHz\n",
    "proc/meminfo": "MemTotal:       49321512 kB\nMemFree:        44880004 kB\nMemAvailable:   47611796 kB\n",
    "proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
    "proc/driver/nvidia/version": (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  565.57.01  Release Build  "
        "(dvs-builder@U16-A24-9-2)  Thu Oct 10 12:15:00 UTC 2024\n"
    ),
    "sys/bus/pci/devices/0000:00:03.0/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:00:03.0/class": "0x030200\n",
}
L4 = "NVIDIA L4, 8.9, 570.86.15, 00000000:00:03.0, 23034, 22564, 72.00, 300, 2040\n"
L4_SEEN = {"name": "NVIDIA L4", "capability": "8.9", "memory_bytes": 23_580_639_232, "bus": "00000000:00:03.0"}

BARE_FILES = {
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: AMD EPYC\n",
    "proc/meminfo": "MemTotal:       24682416 kB\nMemFree:        23884540 kB\nMemAvailable:   24265796 kB\n",
    "proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
}
RUN_PACKAGES = {"numpy": "1.26.4", "pillow": "11.0.0", "tokenizers": "0.21.0", "Jinja2": "3.1.6", "click": "8.1.7"}


@dataclass
class Recorded:
    """A machine to be laid out in a folder.

    ``probes`` holds what each probe would say; ``packages`` is what this Python has installed.
    """

    root: Path
    files: Mapping[str, str]
    commands: dict[str, Output] = field(default_factory=dict)
    probes: dict[str, object] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=lambda: dict(RUN_PACKAGES))
    version: str = "3.10.12"
    architecture: str = "x86_64"
    prefix: str = "/home/nvidia/venv"
    base: str = "/usr"

    def read(self) -> Machine:
        for name, text in self.files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        site = self.root / "site-packages"
        for name, version in self.packages.items():
            folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        python = Interpreter(
            version=self.version,
            executable=f"{self.prefix}/bin/python",
            architecture=self.architecture,
            glibc="2.35",
            cores=6,
            prefix=self.prefix,
            base=self.base,
            paths=(str(site),),
        )
        return Machine.read(self.root, self.run, python, self.root)

    def run(self, command: Sequence[str]) -> Output | None:
        if command[0] in self.commands:
            return self.commands[command[0]]
        if "-m" in command:
            return Output(0, json.dumps(self.probes.get(command[-1], {"installed": False})) + "\n")
        return None


def jetson(root: Path) -> Recorded:
    """Everything as JetPack 6.2 has it, in the system's own Python."""
    return Recorded(
        root,
        dict(JETSON_FILES),
        dict(JETSON_COMMANDS),
        {
            "tensorrt": {
                "installed": True,
                "version": [10, 3, 0],
                "place": "/usr/lib/python3.10/dist-packages/tensorrt",
            },
            "onnxruntime": {
                "installed": True,
                "version": "1.23.0",
                "providers": ["CPUExecutionProvider"],
                "place": "/usr/local/lib/python3.10/dist-packages/onnxruntime",
            },
            "cuda": {"installed": True, "runtime": 12060, "driver": 12060, "gpus": [ORIN]},
        },
        {**RUN_PACKAGES, "onnxruntime": "1.23.0", "cuda-python": "12.6.0", "tensorrt": "10.3.0"},
        architecture="aarch64",
        prefix="/usr",
    )


def server(root: Path) -> Recorded:
    """An L4 with TensorRT 11.4 from pip."""
    return Recorded(
        root,
        dict(SERVER_FILES),
        {"nvidia-smi": Output(0, L4)},
        {
            "tensorrt": {"installed": True, "version": [11, 4, 0], "place": "/home/nvidia/venv/lib/tensorrt"},
            "cuda": {"installed": True, "runtime": 12080, "driver": 12080, "gpus": [L4_SEEN]},
        },
        {**RUN_PACKAGES, "cuda-python": "12.8.0", "tensorrt": "11.4.0", "tensorrt-cu12": "11.4.0"},
        version="3.12.3",
    )


def bare(root: Path) -> Recorded:
    """No GPU, no backend."""
    return Recorded(root, dict(BARE_FILES), base="/usr/local")
