"""A plan file, and all that must hold before it is deserialised: it was built from this graph, for this machine, here.

TensorRT checks little of this itself and cannot be asked without running the plan's code, so everything is compared
with what ``build.json`` recorded. Knows files and facts; what a plan does is ``trt``'s business.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from edgeprune.bundle.build import FOLDER, NAME, Build, Plan
from edgeprune.bundle.manifest import Graph
from edgeprune.errors import BackendError
from edgeprune.local import is_open
from edgeprune.nvidia.cuda import Device
from edgeprune.nvidia.library import Library, parse_version
from edgeprune.runtime import trusted


def this_platform() -> str:
    """Operating system and processor, as ``build.json`` has them: "linux-aarch64"."""
    return f"{sys.platform}-{platform.machine().lower()}"


@dataclass(frozen=True)
class Plans:
    """The plans of a build, for one machine.

    Attributes:
        build: what ``build.json`` says.
        folder: where it lies.
        library: the TensorRT that is to run them.
        device: the GPU.
        trust: run plans that were not built on this machine, too.
        gpus: how many GPUs CUDA sees here; for the message.
    """

    build: Build
    folder: Path
    library: Library
    device: Device
    trust: bool
    gpus: int = 1

    def __post_init__(self) -> None:
        build, library, device = self.build, self.library, self.device
        if library.flavour != build.flavour or library.version != parse_version(build.version):
            raise BackendError(
                f"the plans of {build.key} were built with {build.flavour} {build.version} and {library.name} is "
                f"installed; plans run on the very version that built them: {self.again}"
            )
        if this_platform() != build.platform:
            raise BackendError(
                f"the plans of {build.key} were built for {build.platform} and this is {this_platform()}: {self.again}"
            )
        if device.capability not in build.capabilities:
            several = f" (none of {self.gpus} GPUs suits; CUDA_VISIBLE_DEVICES says which are seen)"
            others = several if self.gpus > 1 else ""
            raise BackendError(
                f"the plans of {build.key} are for compute capability {' or '.join(build.capabilities)} and "
                f"{device.name} has {device.capability}{others}; give the target of this GPU: edgeprune build "
                f"{self._bundle} --target NAME"
            )

    @property
    def again(self) -> str:
        """The command that builds the plans again."""
        return f"edgeprune build {self._bundle} --target {self.build.key}"

    @property
    def _bundle(self) -> str:
        """The bundle's folder, if ours is its ``engines/<key>``."""
        return str(self.folder.parent.parent) if self.folder.parent.name == FOLDER else "BUNDLE"

    def find(self, graph: Graph) -> Plan:
        """The plan of a graph.

        Raises:
            BackendError: there is none, or it was built from another export of the graph.
        """
        plan = self.build.plan(graph.name)
        if plan is None:
            raise BackendError(f"the plans of {self.build.key} have none of graph {graph.name}: {self.again}")
        data = graph.data.sha256 if graph.data else None
        for what, recorded, now in (
            ("graph", plan.key.get("graph"), graph.file.sha256),
            ("weights", plan.key.get("data") or None, data),
        ):
            if recorded != now:
                raise BackendError(
                    f"the plan of graph {graph.name} was built from another export: its {what} had sha256 "
                    f"{_short(recorded)}, now {_short(now)}: {self.again}"
                )
        return plan

    def read(self, plan: Plan) -> mmap.mmap:
        """The content of a plan's file, mapped and not read, once it may be deserialised.

        What is hashed is the mapping that is returned: a file put in its place meanwhile is not what runs. But a
        mapping shows what is written into its file later. So the file must belong to this user or to root, and neither
        its group nor others may write to it.

        Raises:
            BackendError: it was not built on this machine and is not trusted, other users can change it, or the file is
                not the one that was built.
        """
        path = self.folder / plan.file.path
        if not self.trust and not trusted.is_known(plan.file.sha256):
            raise BackendError(
                f"{path} was not built on this machine, and a plan is native code: build it here ({self.again}) or, "
                f"if you trust where it came from, give --trust-plans {self.folder}"
            )
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.folder)):
            raise BackendError(
                f"{path} is not inside {self.folder}; {NAME} names files of its own folder: {self.again}"
            )
        try:
            with path.open("rb") as stream:
                facts = os.fstat(stream.fileno())
                _check_writers(path, facts)
                size = facts.st_size
                if size != plan.file.bytes or not size:  # an empty file cannot be mapped
                    raise BackendError(
                        f"{path} has {size:,} bytes; {NAME} says {plan.file.bytes:,}: it was cut short or changed: "
                        f"{self.again}"
                    )
                content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise BackendError(f"{path} cannot be read: {error.strerror or error}: {self.again}") from error
        digest = hashlib.sha256(content).hexdigest()
        if digest != plan.file.sha256:
            content.close()
            raise BackendError(
                f"{path} was changed or damaged: sha256 {digest[:12]}..., {NAME} says {plan.file.sha256[:12]}...: "
                f"{self.again}"
            )
        return content


def _check_writers(path: Path, facts: os.stat_result) -> None:
    """Refuse a file that other users could change while its plan is loaded."""
    if facts.st_uid not in (0, os.getuid()):
        raise BackendError(
            f"{path} belongs to user {facts.st_uid}, who could change it while it is loaded, and a plan is native "
            f"code: chown {os.getuid()} {path}"
        )
    if is_open(facts):
        raise BackendError(
            f"{path} can be changed by other users while it is loaded, and a plan is native code: chmod go-w {path}"
        )


def _short(sha256: str | None) -> str:
    return f"{sha256[:12]}..." if sha256 else "none"
