"""A bundle's graphs to TensorRT plans for one target, one graph after another.

Every finished plan is listed in ``build.json`` at once, so that a build that was stopped goes on where it was, and a
file that is not whole is listed nowhere. Which library and which target is decided by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter

from edgeprune.bundle.build import NAME, SCHEMA, Build, Plan
from edgeprune.bundle.manifest import File
from edgeprune.bundle.plans import plan_folder, plan_path, read_build, write_build, write_whole
from edgeprune.bundle.store import Bundle, sha256
from edgeprune.engines.builder import build_plan
from edgeprune.engines.choose import Choice
from edgeprune.engines.examine import Examined, Request, examine, refuse
from edgeprune.engines.key import Conditions, differences, make_key
from edgeprune.engines.memory import check_build
from edgeprune.engines.monitor import Progress, Silent
from edgeprune.errors import BundleError
from edgeprune.runtime.plan import this_platform
from edgeprune.runtime.trusted import is_known, remember


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
    conditions = Conditions(
        library=choice.library,
        capabilities=request.target.capabilities,
        device=choice.device,
        precision=request.precision,
        workspace=request.target.workspace,
    )
    folder = plan_folder(bundle.root, request.key)
    old = _old_plans(folder, tell)
    tasks = [_task(found, folder, old.get(found.graph.name), conditions) for found in examination.graphs]
    todo = [(task.found.graph, task.found.scratch) for task in tasks if task.reason is not None]
    check_build(todo, request.target.workspace, available, choice.device_free)
    # Only what is still right goes on: a build that is stopped must not vouch for the rest of an older one.
    build = _empty(bundle, request, conditions)
    build = replace(build, plans=tuple(task.old for task in tasks if task.old and task.reason is None))
    for index, task in enumerate(tasks):
        name = task.found.graph.name
        progress.start(name, index, len(tasks))
        if task.reason is None:
            progress.finish("as it was")
            continue
        if task.old is not None:
            tell(f"{name} is built again: {task.reason}")
        plan = _build_one(task, folder, conditions, progress)
        build = replace(build, plans=_ordered((*build.plans, plan), bundle))
        write_build(folder, build)
        progress.finish("built")
    return build


@dataclass(frozen=True)
class _Task:
    """One graph: what it is, the plan there was, what a plan depends on now, and why to build it, None if not."""

    found: Examined
    old: Plan | None
    key: dict[str, str]
    reason: str | None


def _task(found: Examined, folder: Path, old: Plan | None, conditions: Conditions) -> _Task:
    key = make_key(found.graph, found.profile, conditions)
    return _Task(found, old, key, _reason(folder, old, key))


def _old_plans(folder: Path, tell: Callable[[str], None]) -> dict[str, Plan]:
    """What was built before, by graph."""
    if not (folder / NAME).is_file():
        return {}
    try:
        return {plan.graph: plan for plan in read_build(folder).plans}
    except BundleError as error:
        tell(f"everything is built again: {error}")
        return {}


def _empty(bundle: Bundle, request: Request, conditions: Conditions) -> Build:
    library = conditions.library
    return Build(
        schema=SCHEMA,
        target=request.target.name,
        stack=request.stack.name,
        flavour=library.flavour,
        version=".".join(map(str, library.version)),
        capabilities=request.target.capabilities,
        platform=this_platform(),
        device=conditions.device,
        dtype=bundle.manifest.dtype,
        dialect=bundle.manifest.dialect,
        plans=(),
    )


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
    if not is_known(old.file.sha256):
        return f"{path.name} was not built on this machine"
    return None


def _build_one(task: _Task, folder: Path, conditions: Conditions, progress: Progress) -> Plan:
    found, start = task.found, perf_counter()
    built = build_plan(found.graph, found.path, found.profile, conditions, progress)
    path = folder / f"{found.graph.name}.plan"
    write_whole(path, partial(_write, built.data))
    digest = sha256(path)
    remember(digest)
    return Plan(
        graph=found.graph.name,
        file=File(path.name, path.stat().st_size, digest),
        key=task.key,
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
