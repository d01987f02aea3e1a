"""A benchmark from beginning to end: what to compare, in which order, and what the counts say about it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgeprune.bench.host import Host, available_cores, measure_host
from edgeprune.bench.measure import (
    ChainRunner,
    EagerRunner,
    Metered,
    Runner,
    Samples,
    Task,
    check_same_prompt,
    load_eager,
    measure,
)
from edgeprune.bench.picture import Visual, look, task_picture
from edgeprune.bench.predict import Rates
from edgeprune.bench.question import make_question
from edgeprune.bench.report import BenchReport, Conditions, Memory, Variant
from edgeprune.bench.rss import chain_memory, eager_memory
from edgeprune.bench.targets import judge
from edgeprune.bench.variants import Counts, PromptSize, compare, make_variant
from edgeprune.bundle.manifest import Manifest, MethodEntry
from edgeprune.bundle.store import Bundle, open_bundle
from edgeprune.errors import UsageError
from edgeprune.estimate.device import CPU
from edgeprune.power.device import Device, open_device
from edgeprune.power.meter import Meter
from edgeprune.power.state import DeviceState
from edgeprune.runtime.backends import BackendChoice
from edgeprune.runtime.vlm import VLM, open_vlm

_PREFILL = "prefill is all that follows the projector, by the wall, the cuts between decoder layers included"
_NO_BF16 = "bf16: this CPU has no bf16 arithmetic, not run"


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        threads: per operator, in both engines; None means one per core.
        warmup, repeats: rounds that do not count, and that count.
        text_tokens: of the prompt, template included.
        new_tokens: of the answer, at least 2; an end token does not end it.
        memory: also measure peak memory, in processes of their own.
        progress: draw a bar on stderr.
        host_size: (edge, megabytes) of what this machine's peak is measured with.
        eager_dtypes: what eager runs in; None is fp32, and bf16 where the CPU has it.
        predict: also say what the counts predict; measures the CPU's rates between the rounds.
    """

    threads: int | None = None
    warmup: int = 1
    repeats: int = 5
    text_tokens: int = 60
    new_tokens: int = 16
    memory: bool = True
    progress: bool = True
    host_size: tuple[int, int] = (1536, 256)
    eager_dtypes: tuple[str, ...] | None = None
    predict: bool = True

    def __post_init__(self) -> None:
        least = {"threads": 1, "warmup": 0, "repeats": 1, "text_tokens": 1, "new_tokens": 2}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise UsageError(f"--{name.replace('_', '-')} is {value}, expected {low} or more")


def run_bench(
    bundle: str | Path,
    checkpoint: Path | None = None,
    keeps: Sequence[str | int] = ("all",),
    against: Literal["eager"] | None = None,
    methods: Sequence[str] | None = None,
    image: Path | None = None,
    settings: Settings | None = None,
    check_hashes: bool = True,
    backend: BackendChoice | None = None,
) -> BenchReport:
    """Measure a bundle at several budgets, and Hugging Face's model beside it.

    Args:
        bundle: its folder.
        checkpoint: folder of the checkpoint it was exported from; needed with ``against``.
        keeps: budgets, as for ``run``; "all" is the unpruned model on the same graphs.
        against: "eager" also runs the checkpoint in PyTorch: fp32, and bf16 where this CPU has it.
        methods: pruning methods, each at every budget; None takes the bundle's only one.
        image: a picture, or for a bundle that takes video a video; None makes one, of the largest shape that the model
            has tiles or frames for.
        settings: how to measure.
        check_hashes: compare every file with its recorded hash first.
        backend: what runs the bundle; None is ONNX Runtime on the CPU. Elsewhere there are neither ceilings nor peak
            memory, which are the CPU's, and no eager beside it.

    Raises:
        UsageError: an argument is malformed or out of range, or has no effect with ``backend``.
        BackendError: the backend cannot run here.
        CheckFailed: the checkpoint's prompt is not the bundle's.
        MissingExtra: ``against`` needs PyTorch and Transformers.
    """
    settings = settings or Settings()
    if against is not None and checkpoint is None:
        raise UsageError("--against eager needs the checkpoint the bundle was exported from: give it with --model")
    if not keeps or len({str(keep) for keep in keeps}) != len(keeps):
        raise UsageError(f"--keep {','.join(map(str, keeps))}: expected one budget or several that differ")
    if methods is not None and len(set(methods)) != len(methods):
        raise UsageError(f"--method {','.join(methods)} names a method twice")
    threads, choice = settings.threads or available_cores(), backend or BackendChoice()
    on_cpu = choice.name == "onnxruntime" and choice.provider in (None, "cpu")
    if against and not on_cpu:
        raise UsageError("--against eager runs on the CPU: it has no effect on a GPU's backend")
    if on_cpu or settings.threads is not None:
        choice = replace(choice, threads=threads)
    if settings.eager_dtypes and not against:
        raise UsageError(
            f"--dtype {','.join(settings.eager_dtypes)} is eager's: it has no effect without --against eager"
        )
    eager = checkpoint if against else None
    opened = open_bundle(bundle, check_hashes)
    _refuse_native_video(opened.manifest, against)
    with task_picture(image, opened.manifest.image) as picture:
        with open_vlm(bundle, None, False, choice) as vlm:
            timed = _time(vlm, keeps, methods, eager, picture, threads, settings)
        # Only now: every run whose memory is measured loads a model, and those above are gone.
        memory = _memories(timed, eager, threads) if settings.memory and timed.backend == CPU else ()
    facts = timed.bundle.manifest
    made = make_conditions(facts, timed.backend, timed.prompt, timed.host, threads, settings)
    conditions = replace(made, device=timed.device)
    notes = [_PREFILL, *timed.notes]
    if against and settings.eager_dtypes is None and not timed.host.bf16:
        notes.append(_NO_BF16)
    if timed.backend != CPU:
        notes.append(f"ceilings and peak memory are not measured with {timed.backend}")
    elif conditions.dtype != "fp32":
        notes.append(f"ceilings: this machine's peak was measured in fp32, the bundle is in {conditions.dtype}")
    comparisons = compare(timed.variants)
    targets = judge(timed.variants, comparisons, memory)
    return BenchReport(conditions, timed.variants, comparisons, memory, targets, tuple(notes))


def _refuse_native_video(facts: Manifest, against: str | None) -> None:
    if against and facts.image.native is not None and facts.image.native.video is not None:
        raise UsageError(
            "--against eager does not take videos of native resolution, which Hugging Face's processor prepares with "
            "torchvision; bench the bundle alone, or one for pictures (export --input image)"
        )


@dataclass(frozen=True)
class _Timed:
    """What is left of the timed part, models excluded.

    Attributes:
        bundle: opened.
        backend: its name.
        host: this machine, measured before the clock started.
        task: what every variant was given.
        prompt: how many tokens of which kind it has.
        budgets: per chain variant its name, its ``--keep`` and its method.
        eager_bytes: per eager dtype the bytes of its tensors.
        variants: the times.
        device: its state before the clock started; None where there is nothing to tell.
        notes: on predictions, energy and throttling.
    """

    bundle: Bundle
    backend: str
    host: Host
    task: Task
    prompt: PromptSize
    budgets: tuple[tuple[str, str, MethodEntry | None], ...]
    eager_bytes: dict[str, int]
    variants: tuple[Variant, ...]
    device: DeviceState | None
    notes: tuple[str, ...]


def _time(
    vlm: VLM,
    keeps: Sequence[str | int],
    methods: Sequence[str] | None,
    checkpoint: Path | None,
    picture: Path,
    threads: int,
    settings: Settings,
) -> _Timed:
    """Load every variant, run them in turn, and put the counts beside the times."""
    facts = vlm.manifest
    visual = look(picture, facts)
    chains = _chains(vlm, keeps, methods, visual)
    task = make_task(vlm, picture, visual.tokens, settings)
    encoded = vlm.prompt.encode(task.question)
    size = PromptSize(len(encoded.before), encoded.text_tokens - len(encoded.before), visual.tokens, visual.runs)
    host = measure_host(threads, edge=settings.host_size[0], megabytes=settings.host_size[1])
    backend, machine, notes = vlm.backend.name, None, []
    rates = Rates(backend, threads, facts.dtype) if settings.predict else None
    dtypes = _eager_dtypes(settings, host)
    eagers = [load_eager(checkpoint, dtype, threads) for dtype in dtypes] if checkpoint else []
    for eager in eagers:
        check_same_prompt(eager, task, sum(encoded.parts, ()), size.visual)
    samples, state = _measure([*chains, *eagers], task, settings, open_device(on_gpu=backend != CPU), rates)
    if rates is not None:
        machine, note = rates.machine()
        notes.append(note)
    notes += device_notes(state, samples)
    unpruned = Counts.of(facts, size, None, None, settings.new_tokens, vlm.backend.chunk)
    variants = []
    for chain, sample in zip(chains, samples, strict=False):
        counts = Counts.of(facts, size, chain.method, chain.schedule, settings.new_tokens, vlm.backend.chunk)
        variants.append(make_variant(sample, "chain", facts.dtype, counts, host if backend == CPU else None, machine))
    for dtype, sample in zip(dtypes, samples[len(chains) :], strict=False):
        variants.append(make_variant(sample, "eager", dtype, unpruned, host))
    return _Timed(
        bundle=vlm.bundle,
        backend=backend,
        host=host,
        task=task,
        prompt=size,
        budgets=tuple((c.name, str(c.schedule.asked) if c.schedule else "all", c.method) for c in chains),
        eager_bytes={dtype: _tensor_bytes(eager) for dtype, eager in zip(dtypes, eagers, strict=False)},
        variants=tuple(variants),
        device=state,
        notes=tuple(notes),
    )


def _measure(
    runners: Sequence[Runner], task: Task, settings: Settings, device: Device | None, rates: Rates | None
) -> tuple[list[Samples], DeviceState | None]:
    """The times, and the device's state before them; where its power can be measured, energy with them."""
    between = rates.take if rates is not None else lambda: None
    counts = (settings.warmup, settings.repeats, settings.progress)
    if device is None:
        return measure(runners, task, *counts, between), None
    with contextlib.closing(device):
        state, meter = device.state(), Meter(device)
        metered = [Metered(runner, meter) for runner in runners]
        return measure(metered, task, *counts, between), state


def device_notes(state: DeviceState | None, samples: Sequence[Samples]) -> list[str]:
    """What a reader of the times must know of the device."""
    if state is None:
        return []
    notes = []
    if any(run.joules is not None for sample in samples for run in sample.runs):
        notes.append(f"energy: {state.sensor}, from the picture as a file to the last token, nothing subtracted")
    if state.locked is False:
        notes.append("the GPU's clock is not locked, so times may vary: sudo jetson_clocks")
    reasons = (*state.throttled, *(reason for sample in samples for reason in sample.throttled))
    if reasons:
        notes.append(f"throttled ({', '.join(dict.fromkeys(reasons))}): the times are of a device that was slowed down")
    return notes


def _eager_dtypes(settings: Settings, host: Host) -> tuple[str, ...]:
    """What eager runs in.

    Raises:
        UsageError: bf16 was asked for on a CPU without it.
    """
    if settings.eager_dtypes is None:
        return ("fp32", "bf16") if host.bf16 else ("fp32",)
    if "bf16" in settings.eager_dtypes and not host.bf16:
        raise UsageError(f"--dtype bf16: this CPU ({host.cpu}) has no bf16 arithmetic; use --dtype fp32")
    return settings.eager_dtypes


def _chains(vlm: VLM, keeps: Sequence[str | int], methods: Sequence[str] | None, visual: Visual) -> list[ChainRunner]:
    """Every method at every budget; all tokens once."""
    found: list[ChainRunner] = []
    for name in methods or (None,):
        for keep in keeps:
            entry, schedule = vlm.plan(keep, name, visual.tokens, visual.runs)
            if entry is not None:
                vlm.chain.open_method(entry)
            many = methods is not None and len(methods) > 1 and entry is not None
            runner = ChainRunner(
                f"{entry.name} keep={keep}" if many and entry else f"keep={keep}", vlm, entry, schedule
            )
            if entry is not None or all(other.method is not None for other in found):
                found.append(runner)
    if methods and all(chain.method is None for chain in found):
        raise UsageError(f"--method {','.join(methods)} has no effect at --keep all: give --keep below all")
    return found


def make_task(vlm: VLM, picture: Path, visual_tokens: int, settings: Settings) -> Task:
    """What every variant is given: a prompt with the text tokens that were asked for.

    Raises:
        UsageError: no prompt has so many, or they and the answer exceed the context.
    """
    question = make_question(settings.text_tokens, lambda text: vlm.prompt.encode(text).text_tokens)
    vlm.prompt.check_length(settings.text_tokens, visual_tokens, settings.new_tokens)
    return Task(picture, question, settings.new_tokens, vlm.manifest.image.frames)


def _tensor_bytes(eager: EagerRunner) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in eager.model.model.parameters())


def _memories(timed: _Timed, checkpoint: Path | None, threads: int) -> tuple[Memory, ...]:
    memory = [
        chain_memory(name, timed.bundle, method, keep, timed.task, threads) for name, keep, method in timed.budgets
    ]
    if checkpoint is not None:
        memory += [
            eager_memory(checkpoint, dtype, timed.task, threads, weights)
            for dtype, weights in timed.eager_bytes.items()
        ]
    return tuple(memory)


def make_conditions(
    facts: Manifest, backend: str, prompt: PromptSize, host: Host, threads: int, settings: Settings
) -> Conditions:
    """What every number is measured under; ``threads`` are those in use."""
    return Conditions(
        model=facts.model.id,
        revision=facts.model.revision,
        dtype=facts.dtype,
        dialect=facts.dialect,
        backend=backend,
        threads=threads,
        text_tokens=prompt.text,
        visual_tokens=prompt.visual,
        new_tokens=settings.new_tokens,
        warmup=settings.warmup,
        repeats=settings.repeats,
        host=host,
        runs=prompt.runs,
        medium=facts.prompt.medium,
    )
