"""A bundle's graphs to TensorRT plans for one target: lint, profile, memory, then one graph after another.

Every finished plan is listed in ``build.json`` at once, so that a build that was stopped goes on where it was, and a
file that is not whole is listed nowhere. Which library and which target is decided by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from edgeprune.bundle.build import NAME, SCHEMA, Build, Plan
from edgeprune.bundle.manifest import File, Graph
from edgeprune.bundle.plans import plan_folder, plan_path, read_build, write_build, write_whole
from edgeprune.bundle.store import Bundle, sha256
from edgeprune.engines.builder import build_plan
from edgeprune.engines.choose import Choice
from edgeprune.engines.key import Conditions, differences, make_key
from edgeprune.engines.memory import RunNeed, check_build, check_run, graph_weights, scratch_bytes
from edgeprune.engines.monitor import Progress, Silent
from edgeprune.engines.profile import Profile, fit_shapes, make_profile
from edgeprune.errors import BackendError, BundleError, UsageError
from edgeprune.lint.lint import Finding, lint
from edgeprune.recipes.target import Flavour, Shapes, Stack, Target
from edgeprune.runtime.plan import this_platform
from edgeprune.runtime.trusted import remember

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

    @property
    def largest(self) -> Graph:
        """The graph whose build takes most memory."""
        return max((found.graph for found in self.graphs), key=graph_weights)


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
    return Examined(graph, path, profile, lint(model, profile, *library), scratch_bytes(model, profile))


def _load(path: Path) -> onnx.ModelProto:
    """A graph without the weights outside of it."""
    try:
        import onnx
    except ImportError as error:
        from edgeprune.errors import MissingExtra

        raise MissingExtra("onnx", "tensorrt", "reading graphs") from error
    return onnx.load(str(path), load_external_data=False)


def build_bundle(
    bundle: Bundle,
    request: Request,
    choice: Choice,
    available: int,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> Build:
    """Build every plan that is not there yet.

    Args:
        bundle: opened.
        request: what to build for.
        choice: what builds; it must serve the request's stack.
        available: bytes of memory free on this machine.
        progress: told about every graph.
        tell: told, in words, what was found and why a plan is built again.

    Raises:
        UsageError: bundle and target do not suit each other.
        BackendError: the lint or TensorRT refuses a graph, or memory is too small.
        OutputError: a plan cannot be written.
    """
    progress, tell = progress or Silent(), tell or (lambda text: None)
    examination = examine(bundle, request, choice.library.version)
    refuse(examination)
    check_build(examination.largest, available, choice.device_free)
    conditions = Conditions(
        library=choice.library,
        capabilities=request.target.capabilities,
        device=choice.device,
        precision=request.precision,
        workspace=request.target.workspace,
    )
    folder = plan_folder(bundle.root, request.key)
    build = _started(folder, bundle, request, conditions, tell)
    count = len(examination.graphs)
    for index, found in enumerate(examination.graphs):
        key = make_key(found.graph, found.profile, conditions)
        old = build.plan(found.graph.name)
        reason = _reason(folder, old, key)
        progress.start(found.graph.name, index, count)
        if reason is None:
            progress.finish("as it was")
            continue
        if old is not None:
            tell(f"{found.graph.name} is built again: {reason}")
        plan = _build_one(found, folder, key, conditions, progress)
        build = replace(build, plans=_ordered((*(p for p in build.plans if p.graph != plan.graph), plan), bundle))
        write_build(folder, build)
        progress.finish("built")
    return build


def refuse(examination: Examination) -> None:
    """Raise if the lint found anything.

    Raises:
        BackendError: the first finding, and how many there are.
    """
    if examination.findings:
        graph, finding = examination.findings[0]
        more = f" (and {len(examination.findings) - 1} more: --dry-run lists all)" if examination.findings[1:] else ""
        raise BackendError(f"graph {graph.name}: {finding.message}{more}")


def _started(
    folder: Path, bundle: Bundle, request: Request, conditions: Conditions, tell: Callable[[str], None]
) -> Build:
    """The build as far as it got before, for graphs that the bundle still has; else an empty one."""
    manifest, library = bundle.manifest, conditions.library
    build = Build(
        schema=SCHEMA,
        target=request.target.name,
        stack=request.stack.name,
        flavour=library.flavour,
        version=".".join(map(str, library.version)),
        capabilities=request.target.capabilities,
        platform=this_platform(),
        device=conditions.device,
        dtype=manifest.dtype,
        dialect=manifest.dialect,
        plans=(),
    )
    if not (folder / NAME).is_file():
        return build
    try:
        old = read_build(folder)
    except BundleError as error:
        tell(f"everything is built again: {error}")
        return build
    known = {graph.name for graph in manifest.graphs}
    return replace(build, plans=_ordered(tuple(plan for plan in old.plans if plan.graph in known), bundle))


def _reason(folder: Path, old: Plan | None, key: dict[str, str]) -> str | None:
    """Why a plan must be built, in words; None if it is there and as it should be."""
    if old is None:
        return "there is none"
    changed = differences(old.key, key)
    if changed:
        return "; ".join(changed)
    path = plan_path(folder, old)
    if not path.is_file():
        return f"{path.name} is gone"
    if path.stat().st_size != old.file.bytes or sha256(path) != old.file.sha256:
        return f"{path.name} was changed"
    return None


def _build_one(found: Examined, folder: Path, key: dict[str, str], conditions: Conditions, progress: Progress) -> Plan:
    start = perf_counter()
    built = build_plan(found.graph, found.path, found.profile, conditions, progress)
    path = folder / f"{found.graph.name}.plan"
    write_whole(path, partial(_write, built.data))
    digest = sha256(path)
    remember(digest)
    return Plan(
        graph=found.graph.name,
        file=File(path.name, path.stat().st_size, digest),
        key=key,
        inputs=found.profile,
        outputs=built.outputs,
        precisions=built.precisions,
        seconds=round(perf_counter() - start, 3),
    )


def _write(data: Sequence[int], path: Path) -> None:
    with path.open("wb") as stream:
        stream.write(memoryview(data))  # type: ignore[arg-type]


def _ordered(plans: tuple[Plan, ...], bundle: Bundle) -> tuple[Plan, ...]:
    order = [graph.name for graph in bundle.manifest.graphs]
    return tuple(sorted(plans, key=lambda plan: order.index(plan.graph)))
