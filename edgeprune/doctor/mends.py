"""The commands that mend what is missing: which one depends on the machine.

On a Jetson TensorRT comes with JetPack, for the system's Python; pip's TensorRT is made for other machines. Everywhere
else it comes from pip.
"""

from __future__ import annotations

from edgeprune.doctor.machine import Machine
from edgeprune.doctor.tensorrt import TensorRT
from edgeprune.power.command import NO_ANSWER
from edgeprune.recipes.target import Flavour, Stack

AGAIN = "edgeprune doctor"
"""Once more: what was slow to load may lie in memory by now."""
EXTRAS = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}
_LEAST = {"tensorrt": "10.3", "tensorrt-rtx": "1.7"}  # as the extras of pyproject.toml
_GUIDE = "https://docs.nvidia.com/datacenter/tesla/driver-installation-guide"
_SDK_MANAGER = "https://developer.nvidia.com/sdk-manager"
_CUDA_13_DRIVER = 580  # the first driver branch that runs CUDA 13


def extra(name: str) -> str:
    """Installs an optional extra of edgeprune."""
    return f"pip install 'edgeprune[{name}]'"


def driver(machine: Machine) -> str:
    """Installs NVIDIA's driver, or lets a container see the host's."""
    problem = machine.nvidia.smi_problem or ""
    if problem.startswith(NO_ANSWER):
        return "nvidia-smi; sudo dmesg | grep -i -e nvrm -e xid"  # what it waits for; a restart might not end that
    if "mismatch" in problem:  # an update without a restart
        return "sudo reboot"
    if machine.jetson:
        again = "sudo apt install --reinstall nvidia-l4t-cuda"
        return f"docker run --runtime nvidia IMAGE (in a container), {again} (outside)"
    if machine.nvidia.driver:  # the kernel has it: this is a container, or half of a driver
        return f"docker run --gpus all IMAGE (in a container), or install the driver again: {_GUIDE}"
    if "ubuntu" in machine.system_ids:
        return "sudo ubuntu-drivers install"
    if "debian" in machine.system_ids:
        return "sudo apt install nvidia-driver"
    return f"install the driver: {_GUIDE}"


def cuda_python(machine: Machine) -> str:
    """Installs the bindings of CUDA that the driver can run."""
    if (machine.nvidia.cuda_problem or "").startswith(NO_ANSWER):
        return AGAIN
    major = cuda_major(machine)
    return f"pip install 'cuda-python>={'12.6' if major == 12 else major},<{major + 1}'"


def build_tools(machine: Machine) -> str:
    """Installs what building engines needs beside TensorRT itself."""
    return f"{cuda_python(machine)} polygraphy onnx"


def tensorrt(machine: Machine, flavour: Flavour = "tensorrt", stack: Stack | None = None) -> str:
    """Makes a TensorRT importable, of the versions of ``stack`` where one is given."""
    if flavour == "tensorrt" and machine.jetson:
        pack = machine.jetson.jetpack
        if stack is not None and pack is not None and not stack.serves("tensorrt", pack.tensorrt):
            return f"install the JetPack that has {stack.versions}: {_SDK_MANAGER}"
        return show_system_tensorrt(machine) if machine.system_tensorrt else "sudo apt install python3-libnvinfer"
    # A package without CUDA's version in its name is the one for the newest, 13.
    name = f"{flavour}-cu12" if cuda_major(machine) == 12 else flavour
    if stack is None:
        return extra(EXTRAS[flavour]) if name == flavour else f"{build_tools(machine)} tqdm '{name}>={_LEAST[flavour]}'"
    least, below = (".".join(map(str, version)) for version in (stack.least, stack.below))
    return f"pip install '{name}>={least},<{below}'"


def show_system_tensorrt(machine: Machine) -> str:
    """Lets this Python see the TensorRT of the system's, or makes an environment that does."""
    found, python = machine.system_tensorrt, machine.python
    if found and python.prefix != python.base and python.base == "/usr" and python.minor == found.python:
        return f"sed -i 's/^include-system-site-packages = .*/include-system-site-packages = true/' {_config(machine)}"
    version = (found.python if found else None) or "3"
    return f"/usr/bin/python{version} -m venv --system-site-packages edge && edge/bin/pip install 'edgeprune[cpu]'"


def replace_wheel(machine: Machine, found: TensorRT) -> str:
    """Takes pip's TensorRT away; on a Jetson the system's is shown instead, elsewhere the driver's CUDA decides."""
    names = [package.name for package in machine.packages if _is_tensorrt(package.name, found.flavour)]
    if machine.jetson is None and found.version is not None:
        release = ".".join(map(str, found.version[:3]))
        wheel = f"{found.flavour}-cu{cuda_major(machine)}=={release}.*"
        return f"pip uninstall -y {' '.join(names)} && pip install '{wheel}'"
    after = show_system_tensorrt(machine) if machine.system_tensorrt else "sudo apt install python3-libnvinfer"
    return f"pip uninstall -y {' '.join(names) or 'tensorrt'} && {after}"


def broken_tensorrt(machine: Machine, found: TensorRT) -> str:
    """Repairs a TensorRT that is there but does not load."""
    problem = found.problem or ""
    if "libnvdla_compiler" in problem and machine.jetson and (machine.jetson.l4t or "").startswith("36."):
        return "sudo apt install nvidia-l4t-dla-compiler"  # some boards come without it
    if problem.startswith(NO_ANSWER):
        return AGAIN
    if "libcuda.so" in problem:
        return driver(machine)
    if found.wheel and machine.jetson and found.flavour == "tensorrt":
        return replace_wheel(machine, found)
    if not found.wheel:
        return "sudo apt install --reinstall python3-libnvinfer"
    return f"pip install --force-reinstall {found.flavour}"


def one_onnxruntime(machine: Machine) -> str:
    """Leaves one of several packages of ONNX Runtime."""
    names = [package.name for package in machine.onnxruntime.packages] if machine.onnxruntime else []
    keep = "onnxruntime-gpu" if "onnxruntime-gpu" in names and machine.nvidia.gpus else "onnxruntime"
    return f"pip uninstall -y {' '.join(names)} && pip install {keep}"


def providers(machine: Machine, problem: str) -> str | None:
    """Gives ONNX Runtime's CUDA provider the libraries that ``problem`` says it lacks; None where that is unknown."""
    if problem.startswith(NO_ANSWER):
        return AGAIN
    if not problem.startswith("libcu"):
        return None
    if cuda_major(machine) == 12:  # 1.27 is the first for CUDA 13 alone
        return "pip install 'onnxruntime-gpu[cuda,cudnn]>=1.24,<1.27'"
    return "pip install 'onnxruntime-gpu[cuda,cudnn]'"


def cuda_major(machine: Machine) -> int:
    """The newest major version of CUDA that the driver runs; without a driver the newest there is."""
    nvidia = machine.nvidia
    if nvidia.cuda:
        return int(nvidia.cuda.split(".")[0])
    if machine.jetson:
        return 12 if (machine.jetson.l4t or "36.").startswith("36.") else 13
    branch = int((nvidia.driver or str(_CUDA_13_DRIVER)).split(".")[0])
    return 13 if branch >= _CUDA_13_DRIVER else 12


def _is_tensorrt(name: str, flavour: Flavour) -> bool:
    if flavour == "tensorrt-rtx":
        return name.startswith(flavour)
    return name == "tensorrt" or name.startswith(("tensorrt-cu", "tensorrt-lean", "tensorrt-dispatch"))


def _config(machine: Machine) -> str:
    return f"{machine.python.prefix}/pyvenv.cfg"
