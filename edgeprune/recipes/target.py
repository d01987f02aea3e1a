"""A target of ``engines/``: the device an engine is built for, and the TensorRT that builds it there.

Reads and checks the file alone; ``engines/README.md`` has the keys. What is installed on this machine, and whether it
suits the target, is for others to find out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from edgeprune.bundle.manifest import Dialect, Dtype
from edgeprune.errors import RecipeError, UsageError
from edgeprune.recipes import find, rules
from edgeprune.recipes.rules import Rule

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

Flavour = Literal["tensorrt", "tensorrt-rtx"]
Kind = Literal["jetson", "gpu", "portable"]

GIB = 2**30
"""Bytes in the "GB" of a memory's size. Rates count in thousands: GB/s is 1e9 bytes per second, TFLOPS 1e12."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)  # becomes part of a folder's name
_CAPABILITY = re.compile(r"[1-9]\d?\.\d", re.ASCII)
_VERSION = re.compile(r"\d{1,5}(\.\d{1,5}){1,3}", re.ASCII)


@dataclass(frozen=True)
class Range:
    """What a size may be at run time: the least, the one engines are tuned for, the most.

    Raises:
        RecipeError: they do not rise from 1 on.
    """

    least: int
    usual: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.usual <= self.most:
            raise RecipeError(f"[{self.least}, {self.usual}, {self.most}]; expected 1 <= least <= usual <= most")


@dataclass(frozen=True)
class Shapes:
    """The ranges of a target's engines.

    Attributes:
        batch: prompts at once.
        runs: of the encoder for one prompt: its pictures' tiles, or a video's frames.
        text: text tokens of a prompt, its template included.
        kept: visual rows of a prompt, before and after any cut; of pictures of native size those of all of them.
        context: the most rows a cache may hold.

    Raises:
        RecipeError: a prompt's text alone fills the context.
    """

    batch: Range = Range(1, 1, 1)
    text: Range = Range(2, 64, 512)
    kept: Range = Range(1, 192, 3328)
    context: int = 4096
    runs: Range = Range(1, 5, 13)

    def __post_init__(self) -> None:
        if self.context <= self.text.most:
            raise RecipeError(f"context = {self.context}; expected more than the {self.text.most} tokens of text")


RANGES = ("batch", "text", "kept", "runs")
"""Those of ``Shapes`` that are ranges."""


@dataclass(frozen=True)
class Stack:
    """A TensorRT that the device can have.

    Attributes:
        name: how people know it: "jetpack-6.2", "tensorrt-11", "tensorrt-rtx".
        flavour: which library.
        least: the first version that serves, inclusive.
        below: the first that does not any more.
        dialects: which bundles it builds, the preferred one first.

    Raises:
        RecipeError: a name that cannot be part of a folder's, no version in the range, or no dialect.
    """

    name: str
    flavour: Flavour
    least: tuple[int, ...]
    below: tuple[int, ...]
    dialects: tuple[Dialect, ...]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise RecipeError(f"stack name = {self.name!r}; expected letters, digits, dots and dashes")
        if _padded(self.least) >= _padded(self.below):
            least, below = _dotted(self.least), _dotted(self.below)
            raise RecipeError(f"stack {self.name}: least = {least!r}; expected less than below = {below!r}")
        if not self.dialects or len(set(self.dialects)) != len(self.dialects):
            raise RecipeError(f"stack {self.name}: dialects = {list(self.dialects)}; expected each once, at least one")

    def serves(self, flavour: str, version: tuple[int, ...]) -> bool:
        """Whether an installed library is this one; version (10, 3, 0) is that of TensorRT 10.3.0."""
        return flavour == self.flavour and _padded(self.least) <= _padded(version) < _padded(self.below)

    @property
    def versions(self) -> str:
        """For messages: "TensorRT >= 10.3, < 10.4"."""
        library = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}[self.flavour]
        return f"{library} >= {_dotted(self.least)}, < {_dotted(self.below)}"


@dataclass(frozen=True)
class Target:
    """A device.

    Attributes:
        name: of its file, without ``.toml``.
        device: as its maker calls it.
        kind: a Jetson (memory shared by CPU and GPU), a GPU with memory of its own, or "portable" (several GPUs).
        capabilities: CUDA compute capabilities that an engine must run on, "8.7"; one, unless portable.
        memory: bytes; None where portable.
        bandwidth: bytes per second from that memory at best; None where portable.
        flops: per element type the dense operations per second at best, two per multiply-accumulate; empty where
            portable.
        precision: element type that engines are built in.
        stacks: in order of preference.
        shapes: ranges of the engines.
        workspace: bytes of scratch that building one engine may take.
        sources: where the figures were found.
        notes: for people.

    Raises:
        RecipeError: values that do not fit each other, as the rules of ``engines/README.md`` have it.
    """

    name: str
    device: str
    kind: Kind
    capabilities: tuple[str, ...]
    memory: int | None
    bandwidth: float | None
    flops: Mapping[str, float]
    precision: Dtype
    stacks: tuple[Stack, ...]
    workspace: int
    shapes: Shapes = field(default_factory=Shapes)
    sources: tuple[str, ...] = ()
    notes: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise RecipeError(f"target name {self.name!r}; expected a file name of letters, digits, dots and dashes")
        names = [stack.name for stack in self.stacks]
        if not names or len(set(names)) != len(names):
            raise RecipeError(f"stacks are named {names}; expected at least one, each with a name of its own")
        if len(set(self.capabilities)) != len(self.capabilities):
            raise RecipeError(f"compute_capability = {list(self.capabilities)}; expected each once")
        if self.kind == "portable":
            self._check_portable()
        else:
            self._check_device()

    def _check_portable(self) -> None:
        """Several GPUs have no figures in common, and TensorRT proper builds for the GPU it runs on."""
        for key, value in (("memory_gb", self.memory), ("bandwidth_gbps", self.bandwidth), ("tflops", self.flops)):
            if value:
                raise RecipeError(f"{key} is given, and kind = 'portable' has none: it is several GPUs")
        for stack in self.stacks:
            if stack.flavour != "tensorrt-rtx":
                raise RecipeError(
                    f"stack {stack.name}: flavour = {stack.flavour!r}; kind = 'portable' needs tensorrt-rtx"
                )

    def _check_device(self) -> None:
        if len(self.capabilities) != 1:
            raise RecipeError(f"compute_capability = {list(self.capabilities)}; kind = {self.kind!r} needs exactly one")
        for key, value in (("memory_gb", self.memory), ("bandwidth_gbps", self.bandwidth)):
            if value is None:
                raise RecipeError(f"the key {key!r} is missing; kind = {self.kind!r} needs it")
        if self.precision not in self.flops:
            known = ", ".join(self.flops) or "nothing"
            raise RecipeError(f"precision = {self.precision!r}; expected one that [tflops] names, and it names {known}")
        if self.memory is not None and self.workspace >= self.memory:
            raise RecipeError(f"workspace_gb = {self.workspace / GIB:g}; expected less than memory_gb")

    def stack(self, name: str) -> Stack:
        """The stack of that name.

        Raises:
            UsageError: the target has none.
        """
        for stack in self.stacks:
            if stack.name == name:
                return stack
        known = tuple(stack.name for stack in self.stacks)
        raise UsageError(
            f"target {self.name} has no stack {name!r}; it has {', '.join(known)}{find.suggestion(name, known)}"
        )

    def choose(self, flavour: str, version: tuple[int, ...]) -> Stack | None:
        """The first stack that an installed library serves, None where there is none.

        Args:
            flavour: "tensorrt" or "tensorrt-rtx".
            version: of that library, (10, 3, 0).
        """
        return next((stack for stack in self.stacks if stack.serves(flavour, version)), None)


_NUMBER = "a number above 0 and below a million"
_THREE = Rule(
    rules.list_of(rules.is_count, 3, 3), "three whole numbers from 1 on: [least, usual, most]", required=False
)
_DIALECTS = get_args(Dialect)
_VERSION_RULE = Rule(rules.matches(_VERSION), 'a version as text, such as "10.3"')
_RULES: dict[str, dict[str, Rule]] = {
    "": {
        "device": Rule(rules.is_text, "a text that is not empty"),
        "kind": rules.one_of(get_args(Kind)),
        "compute_capability": Rule(rules.list_of(rules.matches(_CAPABILITY), 1), 'a list of texts such as ["8.7"]'),
        "memory_gb": Rule(rules.is_number, _NUMBER, required=False),
        "bandwidth_gbps": Rule(rules.is_number, _NUMBER, required=False),
        "precision": rules.one_of(get_args(Dtype)),
        "workspace_gb": Rule(rules.is_number, _NUMBER),
        "sources": Rule(rules.list_of(rules.is_text, 0), "a list of texts", required=False),
        "notes": Rule(lambda value: isinstance(value, str), "a text", required=False),
        "tflops": Rule(rules.is_table, "a table: [tflops]", required=False),
        "stacks": Rule(rules.list_of(rules.is_table, 1), "tables, at least one: [[stacks]]"),
        "shapes": Rule(rules.is_table, "a table: [shapes]", required=False),
    },
    "tflops": {key: Rule(rules.is_number, _NUMBER, required=False) for key in ("fp32", "fp16", "int8", "fp8", "fp4")},
    "stacks": {
        "name": Rule(rules.is_text, "a text that is not empty"),
        "flavour": rules.one_of(get_args(Flavour)),
        "least": _VERSION_RULE,
        "below": _VERSION_RULE,
        "dialects": Rule(rules.list_of(lambda value: value in _DIALECTS, 1), f"a list of {', '.join(_DIALECTS)}"),
    },
    "shapes": {
        "batch": _THREE,
        "text": _THREE,
        "kept": _THREE,
        "runs": _THREE,
        "context": Rule(rules.is_count, "a whole number from 1 on", required=False),
    },
}

KEYS = tuple(f"{part}.{key}" if part else key for part, keys in _RULES.items() for key in keys)
"""What a file may say: "device", "tflops.fp16", "stacks.name", "shapes.batch"."""


def names() -> tuple[str, ...]:
    """The targets that come with edgeprune, sorted."""
    return find.names("engines")


def load(name_or_path: str) -> Target:
    """Reads a target by its name (``"orin-agx-64gb"``) or by the path of its file.

    Raises:
        RecipeError: no such target, not TOML, an unknown or missing key, or a value out of range; the message names
            the file and the key.
    """
    path = find.find("engines", name_or_path)
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or nested beyond reason
        raise RecipeError(f"{path} is not TOML: {error}") from error
    try:
        return _target(path.stem, table)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def split(name: str) -> tuple[str, str | None]:
    """The target and the stack of ``"orin-agx-64gb@jetpack-7.2"``; the stack is None where none is named.

    An ``@`` in the folder of a path belongs to the path.

    Raises:
        UsageError: the target or the stack is empty.
    """
    target, at, stack = name.rpartition("@")
    if not at or "/" in stack or stack.endswith(".toml"):
        target, at, stack = name, "", ""
    if not target or (at and not stack):
        raise UsageError(f"target {name!r}; expected NAME or NAME@STACK, such as orin-agx-64gb@jetpack-7.2")
    return target, stack or None


def _target(name: str, table: Mapping[str, Any]) -> Target:
    rules.check(table, _RULES[""], "")
    flops = table.get("tflops", {})
    rules.check(flops, _RULES["tflops"], "tflops")
    memory = table.get("memory_gb")
    bandwidth = table.get("bandwidth_gbps")
    return Target(
        name=name,
        device=table["device"],
        kind=table["kind"],
        capabilities=tuple(table["compute_capability"]),
        memory=None if memory is None else round(memory * GIB),
        bandwidth=None if bandwidth is None else bandwidth * 1e9,
        flops={key: value * 1e12 for key, value in flops.items()},
        precision=table["precision"],
        stacks=tuple(_stack(index, stack) for index, stack in enumerate(table["stacks"])),
        workspace=round(table["workspace_gb"] * GIB),
        shapes=_shapes(table.get("shapes", {})),
        sources=tuple(table.get("sources", ())),
        notes=table.get("notes", ""),
    )


def _stack(index: int, table: Mapping[str, Any]) -> Stack:
    rules.check(table, _RULES["stacks"], f"stacks[{index}]")
    return Stack(
        name=table["name"],
        flavour=table["flavour"],
        least=_numbers(table["least"]),
        below=_numbers(table["below"]),
        dialects=tuple(table["dialects"]),
    )


def _shapes(table: Mapping[str, Any]) -> Shapes:
    rules.check(table, _RULES["shapes"], "shapes")
    values: dict[str, Any] = dict(table)
    for key in RANGES:
        if key in values:
            try:
                values[key] = Range(*values[key])
            except RecipeError as error:
                raise RecipeError(f"shapes.{key} = {error}") from error
    try:
        return Shapes(**values)
    except RecipeError as error:
        raise RecipeError(f"shapes.{error}") from error


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _padded(version: tuple[int, ...]) -> tuple[int, ...]:
    """10.3 and 10.3.0 are one version."""
    return (*version, 0, 0, 0, 0)[:4]


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
