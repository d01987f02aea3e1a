"""``engines/<key>/build.json`` as frozen values: which plans were built from a bundle's graphs, for what, by what.

A TensorRT plan is native code and cannot be inspected without a GPU, so all that a reader must know of one before it
loads it is written here when it is built. ``edgeprune/bundle/README.md`` is the specification.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from edgeprune.bundle.codec import decode, encode
from edgeprune.bundle.manifest import File
from edgeprune.errors import BundleError

SCHEMA = 1
NAME = "build.json"
FOLDER = "engines"
"""Folder of the bundle that holds one folder per target, named by its key."""


@dataclass(frozen=True)
class Bounds:
    """What an input may be at run time, in the words of a TensorRT optimization profile.

    Attributes:
        name: of the input.
        dtype: "fp32", "fp16" or "int64".
        kind: whether the three are its shape, or the values of a scalar that other shapes depend on.
        least, usual, most: kMIN, kOPT and kMAX.
    """

    name: str
    dtype: str
    kind: Literal["shape", "values"]
    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.least) == len(self.usual) == len(self.most):
            raise BundleError(f"{NAME}: bounds of {self.name!r} have different lengths")
        if any(not 0 <= a <= b <= c for a, b, c in zip(self.least, self.usual, self.most, strict=True)):
            raise BundleError(f"{NAME}: bounds of {self.name!r} do not rise: {self.least} {self.usual} {self.most}")


@dataclass(frozen=True)
class Output:
    """An output: its name, element type, and axes, -1 where they vary."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """One built graph.

    Attributes:
        graph: its name in the manifest.
        file: the plan, path relative to the folder of ``build.json``.
        key: what the plan depends on, by name ("graph", "library", "profile hidden", ...): a hash or a word each.
            The plan is built again when any differs, and the differing names are the reason that is printed.
        inputs, outputs: as TensorRT took them.
        precisions: per element type the number of layers that compute in it.
        seconds: that building took.
    """

    graph: str
    file: File
    key: dict[str, str]
    inputs: tuple[Bounds, ...]
    outputs: tuple[Output, ...]
    precisions: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class Build:
    """The whole of ``build.json``.

    Attributes:
        schema: of this file.
        target, stack: names of what it was built for.
        flavour: "tensorrt" or "tensorrt-rtx".
        version: of that library, "10.3.0".
        capabilities: CUDA compute capabilities that the plans run on, "8.7".
        platform: operating system and processor, "linux-aarch64".
        device: the GPU it was built on; null where it was built without one.
        dtype, dialect: of the bundle.
        plans: one per graph, in order of execution.
    """

    schema: int
    target: str
    stack: str
    flavour: Literal["tensorrt", "tensorrt-rtx"]
    version: str
    capabilities: tuple[str, ...]
    platform: str
    device: str | None
    dtype: str
    dialect: str
    plans: tuple[Plan, ...]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+(\.\d+){1,3}", self.version):
            raise BundleError(f"{NAME}: version {self.version!r}; expected numbers with dots")
        seen = [plan.graph for plan in self.plans]
        if len(set(seen)) != len(seen):
            raise BundleError(f"{NAME}: two plans are of one graph")

    @property
    def key(self) -> str:
        """Name of the folder it lies in."""
        return f"{self.target}@{self.stack}"

    def plan(self, graph: str) -> Plan | None:
        """The plan of a graph, if there is one."""
        return next((plan for plan in self.plans if plan.graph == graph), None)

    def to_json(self) -> str:
        """The text of ``build.json``."""
        return json.dumps(encode(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Build:
        """Read ``build.json``.

        Raises:
            BundleError: it is no JSON, of a newer schema, or breaks the specification.
        """
        try:
            value: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{NAME} is no valid JSON: {error}") from error
        schema = value.get("schema") if isinstance(value, dict) else None
        if schema != SCHEMA or isinstance(schema, bool):
            raise BundleError(f"{NAME}: schema {schema!r}; expected {SCHEMA}: build again with edgeprune build")
        return decode(cls, value, NAME)
