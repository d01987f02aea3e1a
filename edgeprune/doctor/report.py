"""What the doctor found, for people and for machines.

The table puts facts first and findings after them; the JSON holds the same, with the fields of the classes it was made
from.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable

from edgeprune.doctor.checks import gigabytes
from edgeprune.doctor.finding import Finding
from edgeprune.doctor.gpu import Gpu
from edgeprune.doctor.machine import Machine
from edgeprune.errors import CheckFailed


@dataclasses.dataclass(frozen=True)
class Report:
    """A machine and what is to be said about it.

    Attributes:
        machine: the facts.
        findings: about the machine.
        backends: what could run a bundle on it.
        target: name of the target asked for, "orin-agx-64gb@jetpack-6.2"; None without.
        suitability: findings about that target.
    """

    machine: Machine
    findings: tuple[Finding, ...]
    backends: tuple[str, ...]
    target: str | None = None
    suitability: tuple[Finding, ...] = ()

    @property
    def failure(self) -> CheckFailed | None:
        """What the command fails with: the target cannot run here; without one, no bundle can."""
        if self.target is None and self.backends:
            return None
        lacks = (
            self.suitability
            if self.target
            else [f for f in self.findings if f.subject in ("run", "onnxruntime", "providers")]
        )
        first = next((finding for finding in lacks if finding.level == "missing"), None)
        what = f"{self.target} cannot run here" if self.target else "nothing here can run a bundle"
        if first is not None:
            return CheckFailed(f"{what}: {first.subject}: {first.found}; {first.mend}")
        return None if self.target else CheckFailed(f"{what}; see the findings")

    def table(self) -> str:
        """Facts, findings and verdict, aligned."""
        lines = [*_aligned(_facts(self.machine)), "", *_lines(self.findings)]
        if self.target:
            lines += ["", f"for {self.target}", *_lines(self.suitability)]
        lines += ["", f"runs bundles with: {', '.join(self.backends) or 'nothing'}"]
        return "\n".join(lines)

    def to_json(self) -> str:
        """The same as one line."""
        machine = dataclasses.asdict(self.machine)
        if self.machine.jetson:
            pack = self.machine.jetson.jetpack
            machine["jetson"]["jetpack"] = pack.name if pack else None
        told = {
            "machine": machine,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "backends": self.backends,
            "target": self.target,
            "suitability": [dataclasses.asdict(finding) for finding in self.suitability],
            "passed": self.failure is None,
        }
        return json.dumps(told, ensure_ascii=False)


def _facts(machine: Machine) -> list[tuple[str, str]]:
    python, nvidia, board = machine.python, machine.nvidia, machine.jetson
    swap = ", ".join(f"{gigabytes(swap.size_bytes)} {swap.device}" for swap in machine.swaps[:2])
    more = f" and {len(machine.swaps) - 2} more" if len(machine.swaps) > 2 else ""
    facts = [
        ("system", f"{machine.system}, {python.architecture}, glibc {python.glibc or 'none'}"),
        ("python", f"{python.version} in {python.prefix}"),
        ("cpu", f"{machine.cpu}, {python.cores} cores"),
        ("memory", f"{gigabytes(machine.memory_bytes)}, {gigabytes(machine.available_bytes)} free"),
        ("swap", f"{swap}{more}" if swap else "none"),
        ("disk", f"{gigabytes(machine.free_bytes)} free in {machine.folder}"),
    ]
    if board:
        pack = f"JetPack {board.jetpack.name}" if board.jetpack else "unknown JetPack"
        facts += [
            ("board", board.model),
            ("L4T", f"{board.l4t or 'unknown'} ({pack})"),
            ("power", _joined(board.power_mode, _clock(board.gpu_clock_mhz, board.gpu_most_mhz)) or "unknown"),
        ]
    facts.append(("driver", nvidia.driver or "none"))
    facts += [(f"gpu {index}", _gpu(gpu)) for index, gpu in enumerate(nvidia.gpus)]
    toolkits = f"toolkit {', '.join(nvidia.toolkits)}" if nvidia.toolkits else None
    runtime = f"cuda-python brings {nvidia.runtime}" if nvidia.runtime else None
    runs = f"driver runs {nvidia.cuda}" if nvidia.cuda else None
    facts.append(("CUDA", _joined(runs, runtime, toolkits) or "none"))
    libraries = [found.label if found.version else f"{found.flavour} (broken)" for found in machine.tensorrts]
    facts.append(("TensorRT", ", ".join(libraries) or "none"))
    facts.append(("packages", ", ".join(f"{found.name} {found.version}" for found in machine.packages)))
    return facts


def _gpu(gpu: Gpu) -> str:
    memory = gigabytes(gpu.memory_bytes) if gpu.memory_bytes else None
    free = f"{gigabytes(gpu.free_bytes)} free" if gpu.free_bytes else None
    power = f"{gpu.power_limit_watts:.0f} W" if gpu.power_limit_watts else None
    capability = f"compute capability {gpu.capability}" if gpu.capability else None
    return _joined(gpu.name, capability, memory, free, power, _clock(gpu.clock_mhz, gpu.clock_most_mhz))


def _clock(now: float | None, most: float | None) -> str | None:
    if not most:
        return None
    return f"GPU at {now:.0f} of {most:.0f} MHz" if now else f"GPU up to {most:.0f} MHz"


def _joined(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)


def _lines(findings: Iterable[Finding]) -> list[str]:
    found = tuple(findings)
    width = max((len(finding.subject) for finding in found), default=0)
    lines = []
    for finding in found:
        lines.append(f"{finding.level:<7}  {finding.subject:<{width}}  {finding.found}")
        if finding.mend and finding.level != "ok":
            lines.append(f"{'':7}  {'':{width}}  mend: {finding.mend}")
    return lines


def _aligned(rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]
