"""``edgeprune.json`` as frozen values: what a bundle says about itself.

``edgeprune/bundle/README.md`` is the specification; this file is its types. It reads no file but the text it is
given: ``store`` checks what lies on disk.
"""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import dataclass
from typing import Any, Literal

from edgeprune.bundle.codec import decode, encode
from edgeprune.bundle.extent import most_tokens
from edgeprune.bundle.image import ImageProcessing
from edgeprune.bundle.layout import Layout
from edgeprune.bundle.native import TABLES
from edgeprune.bundle.prompt import PromptFacts
from edgeprune.bundle.sizes import Decoder, TextTower, Vision
from edgeprune.errors import BundleError

SCHEMA = 4
NAME = "edgeprune.json"
OPSET = {"base": 18, "fused": 23}
SIDE_LIMIT = 8192
"""Pixels; a prepared picture of a larger side would not fit a device's memory."""

Dtype = Literal["fp32", "fp16"]
Dialect = Literal["base", "fused"]
Role = Literal["vision", "encoder", "kernel", "prune", "project", "prepare", "assemble", "segment"]
Place = Literal["encoder", "vision", "projected"]
Sampler = Literal["dpp", "repulsion"]
PLACES: tuple[Place, ...] = ("encoder", "vision", "projected")
"""Where a cut can lie before the decoder; a method has one of them at most."""
Order = Literal["runs", "mosaic"]
"""How the rows of several encoder runs follow each other once some are gone: run by run, or as VisionZip has them."""
_PLACE_WORDS = {"encoder": "inside the encoder", "vision": "after the encoder", "projected": "after the projector"}


@dataclass(frozen=True)
class File:
    """A file of the bundle: path relative to the bundle with forward slashes, size in bytes, sha256 in hex."""

    path: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if not self.path or not self.path.isprintable():
            raise BundleError(f"{NAME}: path {self.path!r} is empty or holds a character that cannot be printed")
        if self.bytes < 0:
            raise BundleError(f"{NAME}: file {self.path!r} has bytes {self.bytes}; expected 0 or more")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise BundleError(f"{NAME}: file {self.path!r} has sha256 {self.sha256[:70]!r}; expected 64 hex digits")


@dataclass(frozen=True)
class Tensor:
    """An input or output: name, element type ("fp32", "fp16", "int64"), and its axes, fixed or named."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __post_init__(self) -> None:
        if self.dtype not in ("fp32", "fp16", "int64"):
            raise BundleError(f"{NAME}: tensor {self.name!r} has dtype {self.dtype!r}; expected fp32, fp16 or int64")
        if any(isinstance(axis, int) and axis < 1 for axis in self.shape):
            raise BundleError(f"{NAME}: tensor {self.name!r} has shape {self.shape}; fixed axes are 1 or more")


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
        if self.data and posixpath.dirname(self.data.path) != posixpath.dirname(self.file.path):
            raise BundleError(f"graph {self.name!r}: data {self.data.path!r} does not lie beside {self.file.path!r}")


def spell_place(at: Place | int) -> str:
    """Where a cut lies, in words."""
    return f"before layer {at}" if isinstance(at, int) else _PLACE_WORDS[at]


@dataclass(frozen=True)
class Cut:
    """Where a method prunes.

    Attributes:
        at: inside the encoder, after it, after the projector, or the decoder layer before which the cut lies.
        graph: what gives the rows that are left.
        kernel: a graph that runs before it, from whose outputs ``sampler`` chooses rows on the host; null with it.
    """

    at: Place | int
    graph: str
    kernel: str | None = None
    sampler: Sampler | None = None

    def __post_init__(self) -> None:
        if (self.kernel is None) != (self.sampler is None):
            raise BundleError(f"{NAME}: cut {self.graph!r} has a kernel or a sampler; expected both or neither")


@dataclass(frozen=True)
class MethodEntry:
    """A pruning method of the bundle.

    Attributes:
        name: of its card, which names its budget rule.
        positions: position ids after a cut, "repack" (0..S'-1) or "keep" (original).
        order: of the rows that a cut before the decoder leaves of several runs.
        prepare: graphs that run once: one that reads ``hidden`` after the prompt was assembled, others before a cut
            after the projector.
        cuts: in order of execution.
    """

    name: str
    positions: Literal["repack", "keep"]
    order: Order
    prepare: tuple[str, ...]
    cuts: tuple[Cut, ...]

    @property
    def places(self) -> tuple[Place | int, ...]:
        """Where it prunes, in order of execution."""
        return tuple(cut.at for cut in self.cuts)

    @property
    def early(self) -> Cut | None:
        """The cut before the decoder, if there is one."""
        return next((cut for cut in self.cuts if not isinstance(cut.at, int)), None)

    @property
    def decoder_cuts(self) -> tuple[int, ...]:
        """The decoder layers before which it prunes."""
        return tuple(cut.at for cut in self.cuts if isinstance(cut.at, int))

    @property
    def graphs(self) -> tuple[str, ...]:
        """Every graph of its own, in order of execution within each cut."""
        names = [name for cut in self.cuts for name in (cut.kernel, cut.graph) if name is not None]
        return (*self.prepare, *names)


@dataclass(frozen=True)
class Model:
    """The checkpoint the bundle was made from; ``revision`` is null for a local directory."""

    id: str
    revision: str | None
    architecture: str
    family: str


@dataclass(frozen=True)
class TextFacts:
    """How the question is tokenised for CLIP's text tower, and the CLIP checkpoint that the tower is from.

    Attributes:
        id, revision: of the checkpoint, as of the model's.
        tokenizer: tokenizers library format.
        length: tokens of a text: start token, the question's, end token, padding; what is longer is cut.
        start_id, end_id, pad_id: of these tokens.
        tower: its sizes.
    """

    id: str
    revision: str | None
    tokenizer: File
    length: int
    start_id: int
    end_id: int
    pad_id: int
    tower: TextTower

    def __post_init__(self) -> None:
        if self.length < 3:
            raise BundleError(f"{NAME}: text has length {self.length}; expected 3 or more")
        if min(self.start_id, self.end_id, self.pad_id) < 0:
            ids = [self.start_id, self.end_id, self.pad_id]
            raise BundleError(f"{NAME}: text has the token ids {ids}; expected 0 or more")


@dataclass(frozen=True)
class Manifest:
    """The whole of ``edgeprune.json``; ``graphs`` are in order of execution, ``tools`` maps package to version.

    ``text`` is null where no graph takes ``text_ids``.
    """

    schema: int
    model: Model
    dtype: Dtype
    dialect: Dialect
    opset: int
    vision: Vision
    decoder: Decoder
    image: ImageProcessing
    layout: Layout
    prompt: PromptFacts
    tokenizer: File
    embedding: File
    graphs: tuple[Graph, ...]
    methods: tuple[MethodEntry, ...]
    tools: dict[str, str]
    text: TextFacts | None = None

    def __post_init__(self) -> None:
        if self.opset != OPSET[self.dialect]:
            raise BundleError(f"{NAME}: opset {self.opset}; dialect {self.dialect!r} has {OPSET[self.dialect]}")
        if self.image.kind != "native" and max(self.image.size) > SIDE_LIMIT:
            raise BundleError(f"{NAME}: image of {self.image.size} pixels; expected at most {SIDE_LIMIT} a side")
        if self.prompt.context != self.decoder.context:
            raise BundleError(
                f"{NAME}: prompt.context {self.prompt.context} and decoder.context {self.decoder.context} differ"
            )
        if (self.vision.grid is None) != (self.image.kind == "native"):
            raise BundleError(f"{NAME}: vision.grid is {self.vision.grid} and image.kind {self.image.kind!r}")
        if self.decoder.axes > 1 and self.image.kind != "native":
            axes, kind = self.decoder.axes, self.image.kind
            raise BundleError(f"{NAME}: decoder.axes is {axes} and image.kind {kind!r}; expected 1, or 'native'")
        self._check_graphs()
        self._check_text()
        self._check_methods()

    def _check_graphs(self) -> None:
        _unique("graphs", [graph.name for graph in self.graphs])
        for role in ("vision", "project", "assemble"):
            found = sum(graph.role == role for graph in self.graphs)
            if found != 1:
                raise BundleError(f"{NAME}: {found} graphs have the role {role!r}; expected one")
        edges = [graph.layers for graph in self.graphs if graph.layers is not None]
        ends = [0, *(last for _, last in edges)]
        rising = all(first < last for first, last in edges)
        if not rising or [first for first, _ in edges] != ends[:-1] or ends[-1] != self.decoder.layers:
            raise BundleError(f"{NAME}: segments {edges} do not cover decoder layers 0..{self.decoder.layers}")

    def _check_text(self) -> None:
        takers = [tensor for graph in self.graphs for tensor in graph.inputs if tensor.name == "text_ids"]
        if (self.text is not None) != bool(takers):
            said = "null" if self.text is None else "given"
            raise BundleError(f"{NAME}: text is {said}, and {len(takers)} graphs take 'text_ids'")
        if self.text is not None and any((t.dtype, t.shape) != ("int64", (1, self.text.length)) for t in takers):
            raise BundleError(f"{NAME}: a graph takes 'text_ids' otherwise than as int64 [1, {self.text.length}]")

    def _check_methods(self) -> None:
        if not self.methods:
            raise BundleError(f"{NAME}: methods is empty; a bundle has at least one")
        _unique("methods", [method.name for method in self.methods])
        for method in self.methods:
            for name in method.prepare:
                self._check_role(method, name, "prepare")
            for cut in method.cuts:
                self._check_role(method, cut.graph, "encoder" if cut.at == "encoder" else "prune")
                if cut.kernel is not None:
                    self._check_role(method, cut.kernel, "kernel")
            self._check_places(method)

    def _check_role(self, method: MethodEntry, name: str, role: Role) -> None:
        found = next((graph.role for graph in self.graphs if graph.name == name), None)
        if found is None:
            raise BundleError(f"{NAME}: method {method.name!r} names graph {name!r}, which is not there")
        if found != role:
            raise BundleError(
                f"{NAME}: method {method.name!r} names graph {name!r} of role {found!r}; expected {role!r}"
            )

    def _check_places(self, method: MethodEntry) -> None:
        starts = [graph.layers[0] for graph in self.graphs if graph.layers is not None][1:]
        cuts = list(method.decoder_cuts)
        early = [] if method.early is None else [method.early.at]
        if not method.cuts or list(method.places) != [*early, *cuts]:
            raise BundleError(
                f"{NAME}: method {method.name!r} cuts at {list(method.places)}; expected one or more, first one of "
                f"{', '.join(PLACES)} at most, and then decoder layers"
            )
        if cuts != sorted(set(cuts)) or not set(cuts) <= set(starts):
            raise BundleError(
                f"{NAME}: method {method.name!r} cuts at {cuts}; expected rising layers, each where a segment "
                f"after the first starts: {starts}"
            )

    def check_names(self) -> None:
        """Walk the chain by names, without a method and with each: every input must be given by something before it.

        Raises:
            BundleError: an input is given by nothing, or an output that the reader takes is missing.
        """
        for method in (None, *self.methods):
            at = {cut.at: cut for cut in method.cuts} if method else {}
            there = {"pixel_values", *(TABLES if self.image.kind == "native" else ()), "seed", "runs", "question"}
            there |= {"text_ids"} if self.text is not None else set()
            inner = at.get("encoder")
            there = self._cut(inner, there) if inner else _run(self.by_role("vision")[0], there)
            there = self._cut(at.get("vision"), there)
            there = _run(self.by_role("project")[0], there)
            for graph in self.prepares(method, late=False):
                there = _run(graph, there)
            there = self._cut(at.get("projected"), there) | {"text", "order"}
            there |= {"weight"} if self.layout.taps > 1 else set()
            there = _run(self.by_role("assemble")[0], there) | {"position_ids", "visual_rows", "text_after"}
            for graph in self.prepares(method, late=True):
                there = _run(graph, there)
            for segment in self.by_role("segment"):
                first, last = segment.layers or (0, 0)
                there = self._cut(at.get(first), there)
                past = {t.name for t in segment.inputs if t.name.startswith("past_")}
                there |= _run(segment, {"hidden", "position_ids"} & there | past) - past
                result = "logits" if last == self.decoder.layers else "hidden_out"
                _give(segment, {result, *(name.replace("past_", "present_", 1) for name in past)})

    def _cut(self, cut: Cut | None, there: set[str]) -> set[str]:
        """The names after a cut."""
        if cut is None:
            return there
        scalars = {"keep", "merge"}
        if cut.kernel is not None:
            _give(self.graph(cut.kernel), {"kernel", "start"} if cut.sampler == "repulsion" else {"kernel"})
            there = _run(self.graph(cut.kernel), there | scalars) | {"chosen"}
        inside = {"hidden_out", "position_ids_out", "visual_rows_out"} if isinstance(cut.at, int) else set[str]()
        _give(self.graph(cut.graph), {"kept", *inside})
        return _run(self.graph(cut.graph), there | scalars)

    def prepares(self, method: MethodEntry | None, late: bool) -> tuple[Graph, ...]:
        """The graphs of a method that run once: those that read the assembled prompt, or those that do not."""
        graphs = (self.graph(name) for name in (method.prepare if method else ()))
        return tuple(graph for graph in graphs if late == any(t.name == "hidden" for t in graph.inputs))

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
    def most_tokens(self) -> int:
        """Visual tokens of the largest picture, or of a video, without pruning."""
        return most_tokens(self.vision, self.image, self.layout)

    @property
    def files(self) -> tuple[File, ...]:
        """Every file the manifest vouches for."""
        graphs = [file for graph in self.graphs for file in (graph.file, graph.data) if file is not None]
        texts = () if self.text is None else (self.text.tokenizer,)
        return (self.tokenizer, *texts, self.embedding, *graphs)

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
        except ValueError as error:  # a number of thousands of digits among them
            raise BundleError(f"{NAME} is no valid JSON: {error}") from error
        except RecursionError as error:
            raise BundleError(f"{NAME} is nested too deep") from error
        schema = value.get("schema") if isinstance(value, dict) else None
        if not isinstance(schema, int):
            raise BundleError(f"{NAME}: key 'schema' is missing or no number; this is no edgeprune bundle")
        if schema > SCHEMA:
            raise BundleError(f"{NAME}: schema {schema} is newer than {SCHEMA}, the newest known; upgrade edgeprune")
        if schema < SCHEMA:
            raise BundleError(f"{NAME}: schema {schema} is no longer read; expected {SCHEMA}: export the model again")
        try:
            manifest = decode(cls, value, NAME)
        except BundleError as error:  # sizes do not know which file they are read from
            raise BundleError(str(error) if NAME in str(error) else f"{NAME}: {error}") from error
        except RecursionError as error:
            raise BundleError(f"{NAME} is nested too deep") from error
        manifest.check_names()
        return manifest


def _unique(what: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BundleError(f"{NAME}: two {what} are named {name!r}")
        seen.add(name)


def _run(graph: Graph, there: set[str]) -> set[str]:
    """The names that are there after a graph has run on those before it."""
    for tensor in graph.inputs:
        if tensor.name not in there:
            raise BundleError(f"{NAME}: graph {graph.name!r} takes {tensor.name!r}, which nothing before it gives")
    return there | {tensor.name.removesuffix("_out") for tensor in graph.outputs}


def _give(graph: Graph, names: set[str]) -> None:
    missing = sorted(names - {tensor.name for tensor in graph.outputs})
    if missing:
        raise BundleError(f"{NAME}: graph {graph.name!r} gives no {missing[0]!r}")
