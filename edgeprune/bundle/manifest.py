"""``edgeprune.json`` as frozen values: what a bundle says about itself.

``edgeprune/bundle/README.md`` is the specification; this file is its types. It reads no file but the text it is
given: ``store`` checks what lies on disk.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from edgeprune.bundle.codec import decode, encode
from edgeprune.bundle.image import ImageProcessing
from edgeprune.bundle.prompt import PromptFacts
from edgeprune.errors import BundleError

SCHEMA = 1
NAME = "edgeprune.json"
OPSET = {"base": 18, "fused": 23}

Dtype = Literal["fp32", "fp16"]
Dialect = Literal["base", "fused"]
Role = Literal["vision", "prune", "project", "assemble", "segment"]


@dataclass(frozen=True)
class File:
    """A file of the bundle: path relative to the bundle with forward slashes, size in bytes, sha256 in hex."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Tensor:
    """An input or output: name, element type ("fp32", "fp16", "int64"), and its axes, fixed or named."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Graph:
    """One ONNX graph.

    Attributes:
        name: unique within the bundle.
        role: which station of the chain it is.
        file: the graph; ``data`` holds its weights, null where it has none outside the graph.
        layers: of a segment, the decoder layers it runs, half open; null elsewhere.
    """

    name: str
    role: Role
    file: File
    data: File | None
    layers: tuple[int, int] | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        if (self.role == "segment") != (self.layers is not None):
            raise BundleError(f"graph {self.name!r}: a segment has layers, any other role has null")


@dataclass(frozen=True)
class Cut:
    """Where a method prunes: ``at`` is "vision" or a decoder layer; ``graph`` names the prune graph."""

    at: Literal["vision"] | int
    graph: str


@dataclass(frozen=True)
class MethodEntry:
    """A pruning method of the bundle.

    Attributes:
        name: also the name of its budget rule.
        positions: position ids after a cut, "repack" (0..S'-1) or "keep" (original).
        cuts: in order of execution.
    """

    name: str
    positions: Literal["repack", "keep"]
    cuts: tuple[Cut, ...]

    @property
    def decoder_cuts(self) -> tuple[int, ...]:
        """The decoder layers before which it prunes."""
        return tuple(cut.at for cut in self.cuts if isinstance(cut.at, int))


@dataclass(frozen=True)
class Model:
    """The checkpoint the bundle was made from; ``revision`` is null for a local directory."""

    id: str
    revision: str | None
    architecture: str
    family: str


@dataclass(frozen=True)
class Vision:
    """The encoder: patch ``grid`` (rows, columns) and feature width."""

    grid: tuple[int, int]
    width: int

    @property
    def tokens(self) -> int:
        """Patches of one image, which are its visual tokens without pruning."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class Decoder:
    """Sizes of the language model; ``context`` is the longest sequence it has positions for."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    context: int


@dataclass(frozen=True)
class Manifest:
    """The whole of ``edgeprune.json``; ``graphs`` are in order of execution, ``tools`` maps package to version."""

    schema: int
    model: Model
    dtype: Dtype
    dialect: Dialect
    opset: int
    vision: Vision
    decoder: Decoder
    image: ImageProcessing
    prompt: PromptFacts
    tokenizer: File
    embedding: File
    graphs: tuple[Graph, ...]
    methods: tuple[MethodEntry, ...]
    tools: dict[str, str]

    def __post_init__(self) -> None:
        names = [graph.name for graph in self.graphs]
        for name in names:
            if names.count(name) > 1:
                raise BundleError(f"{NAME}: two graphs are named {name!r}")
        for method in self.methods:
            for cut in method.cuts:
                if cut.graph not in names:
                    raise BundleError(f"{NAME}: method {method.name!r} names graph {cut.graph!r}, which is not there")
        edges = [graph.layers for graph in self.graphs if graph.layers is not None]
        ends = [0, *(last for _, last in edges)]
        if [first for first, _ in edges] != ends[:-1] or ends[-1] != self.decoder.layers:
            raise BundleError(f"{NAME}: segments {edges} do not cover decoder layers 0..{self.decoder.layers}")

    def graph(self, name: str) -> Graph:
        """The graph of that name."""
        return next(graph for graph in self.graphs if graph.name == name)

    def by_role(self, role: Role) -> tuple[Graph, ...]:
        """Graphs of a role, in order of execution."""
        return tuple(graph for graph in self.graphs if graph.role == role)

    def method(self, name: str) -> MethodEntry | None:
        """The method of that name, if the bundle has it."""
        return next((method for method in self.methods if method.name == name), None)

    @property
    def files(self) -> tuple[File, ...]:
        """Every file the manifest vouches for."""
        graphs = [file for graph in self.graphs for file in (graph.file, graph.data) if file is not None]
        return (self.tokenizer, self.embedding, *graphs)

    def to_json(self) -> str:
        """The text of ``edgeprune.json``."""
        return json.dumps(encode(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read ``edgeprune.json``.

        Raises:
            BundleError: it is no JSON, of a newer schema, or breaks the specification.
        """
        try:
            value: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise BundleError(f"{NAME} is no valid JSON: {error}") from error
        schema = value.get("schema") if isinstance(value, dict) else None
        if not isinstance(schema, int):
            raise BundleError(f"{NAME}: key 'schema' is missing or no number; this is no edgeprune bundle")
        if schema > SCHEMA:
            raise BundleError(f"{NAME}: schema {schema} is newer than {SCHEMA}, the newest known; upgrade edgeprune")
        if schema < 1:
            raise BundleError(f"{NAME}: schema {schema} does not exist; expected {SCHEMA}")
        return decode(cls, value, NAME)
