"""What is known of a build before anything is built: lint, profiles and memory of every graph. Needs no TensorRT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.bundle.manifest import Graph
from edgeprune.bundle.store import Bundle
from edgeprune.engines.memory import RunNeed, check_run, scratch_bytes
from edgeprune.engines.profile import Profile, fit_shapes, make_profile
from edgeprune.errors import BackendError, MissingExtra, UsageError
from edgeprune.lint.finding import Finding
from edgeprune.lint.lint import lint
from edgeprune.nvidia.library import extra_for
from edgeprune.recipes.target import Flavour, Shapes, Stack, Target

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Request:
    """What to build for.

    Attributes:
        target: the device.
        stack: the TensorRT of it.
        precision: element type that the engines shall compute in; the bundle must have it.
        shapes: ranges of the engines; None takes the target's, no wider than the model needs.
    """

    target: Target
    stack: Stack
    precision: str
    shapes: Shapes | None = None

    @property
    def key(self) -> str:
        """Name of the folder of plans."""
        return f"{self.target.name}@{self.stack.name}"


@dataclass(frozen=True)
class Examined:
    """A graph before it is built.

    Attributes:
        graph: of the bundle.
        path: of its .onnx file.
        profile: bounds of its inputs.
        findings: of the lint.
        scratch: bytes between its layers at the most.
    """

    graph: Graph
    path: Path
    profile: Profile
    findings: tuple[Finding, ...]
    scratch: int


@dataclass(frozen=True)
class Examination:
    """What is known before anything is built.

    Attributes:
        graphs: in order of execution.
        shapes: the ranges they are built for.
        need: bytes that running will take.
    """

    graphs: tuple[Examined, ...]
    shapes: Shapes
    need: RunNeed

    @property
    def findings(self) -> tuple[tuple[Graph, Finding], ...]:
        """Everything the lint refuses."""
        return tuple((found.graph, finding) for found in self.graphs for finding in found.findings)


def examine(
    bundle: Bundle, request: Request, version: tuple[int, ...] | None = None, tell: Callable[[str], None] | None = None
) -> Examination:
    """Lint every graph, derive its profile and estimate memory; needs no TensorRT.

    Args:
        bundle: opened.
        request: what to build for.
        version: of the installed TensorRT; None takes the oldest that the stack allows.
        tell: told the name of every graph.

    Raises:
        UsageError: the bundle's dialect or element type is not the target's.
        BackendError: the built bundle would not fit into the target's memory.
        MissingExtra: onnx is not installed.
    """
    manifest, stack = bundle.manifest, request.stack
    if manifest.dialect not in stack.dialects:
        raise UsageError(
            f"the bundle's dialect is {manifest.dialect}; {request.key} ({stack.versions}) takes "
            f"{' or '.join(stack.dialects)}: export again with --dialect {stack.dialects[0]}"
        )
    if manifest.dtype != request.precision:
        raise UsageError(
            f"the bundle is in {manifest.dtype}, and {request.target.name} is to compute in {request.precision}: "
            f"export again with --dtype {request.precision}, or build with --precision {manifest.dtype}"
        )
    shapes = request.shapes or fit_shapes(request.target.shapes, manifest)
    graphs = []
    for graph in manifest.graphs:
        if tell is not None:
            tell(graph.name)
        path = bundle.path(graph.file)
        graphs.append(_examine(graph, path, bundle, shapes, (stack.flavour, version or stack.least)))
    scratch = max(found.scratch for found in graphs)
    return Examination(tuple(graphs), shapes, check_run(manifest, request.target, shapes, scratch))


def _examine(
    graph: Graph, path: Path, bundle: Bundle, shapes: Shapes, library: tuple[Flavour, tuple[int, ...]]
) -> Examined:
    model = _load(path)
    profile = make_profile(graph, bundle.manifest, shapes)
    return Examined(
        graph, path, profile, lint(model, profile, *library), scratch_bytes(model, profile, shapes.batch.usual)
    )


def _load(path: Path) -> onnx.ModelProto:
    """A graph without the weights outside of it."""
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("onnx", extra_for("tensorrt"), "reading graphs") from error
    return onnx.load(str(path), load_external_data=False)


def refuse(examination: Examination) -> None:
    """Raise if the lint found anything.

    Raises:
        BackendError: the first finding, and how many there are.
    """
    if examination.findings:
        graph, finding = examination.findings[0]
        more = f" (and {len(examination.findings) - 1} more: --dry-run lists all)" if examination.findings[1:] else ""
        raise BackendError(f"graph {graph.name}: {finding.message}{more}")
