"""Runs: one picture or video and one prompt through every variant in turn, with a clock on every stage.

It decides neither what to compare nor how to report: it returns the times of every repeat.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from edgeprune.budget.schedule import Schedule
from edgeprune.bundle.image import Frames
from edgeprune.bundle.manifest import MethodEntry
from edgeprune.errors import CheckFailed, MissingExtra
from edgeprune.power.meter import Meter
from edgeprune.runtime.chain import Clock, Text
from edgeprune.runtime.frames import evenly, load_frames
from edgeprune.runtime.pixels import prepare
from edgeprune.runtime.preprocess import load_image

if TYPE_CHECKING:
    from edgeprune.eager.model import EagerModel, Inputs
    from edgeprune.runtime.vlm import VLM


@dataclass(frozen=True)
class Task:
    """What every variant is given.

    Attributes:
        image: a picture file; or a video, as a file or a folder of pictures.
        question: its prompt has the number of text tokens that was asked for.
        new_tokens: tokens of the answer, the first one from the prompt; an end token does not end it.
        frames: how a video is sampled; None of a picture.
    """

    image: Path
    question: str
    new_tokens: int
    frames: Frames | None = None


@dataclass(frozen=True)
class Sample:
    """One run, in seconds.

    Attributes:
        stages: preprocess, vision, prune, project, prefill.
        ttft: from the file to the first token.
        steps: from one token to the next.
        prefill_overhead: of the chain's time on the prompt, what was spent outside graphs.
        decode_overhead: the same per step, on average.
        pruning: in all graphs of the method together, and in its choice on the host; None without a method.
        joules: of the whole answer; None where no sensor measured it.
        throttled: why the device was slowed down meanwhile.
    """

    stages: dict[str, float]
    ttft: float
    steps: tuple[float, ...]
    prefill_overhead: float | None = None
    decode_overhead: float | None = None
    pruning: float | None = None
    joules: float | None = None
    throttled: tuple[str, ...] = ()


class Runner(Protocol):
    """A variant that can be run."""

    @property
    def name(self) -> str:
        """What reports call it."""

    def run(self, task: Task) -> Sample:
        """Answer once."""


@dataclass(frozen=True)
class ChainRunner:
    """The bundle at one budget; ``method`` and ``schedule`` are None for all tokens."""

    name: str
    vlm: VLM
    method: MethodEntry | None
    schedule: Schedule | None

    def run(self, task: Task) -> Sample:
        """Answer once."""
        vlm, prompt_clock, step_clock = self.vlm, Clock(), Clock()
        start = perf_counter()
        encoded = vlm.prompt.encode(task.question)
        pixels = prepare([task.image], vlm.manifest.image)
        prepared = perf_counter()
        text = Text(encoded.parts, encoded.question, encoded.clip_ids)
        prefill = vlm.chain.prefill(pixels, text, self.method, self.schedule, prompt_clock)
        prefilled = perf_counter()
        token = prefill.logits.argmax(axis=-1)
        first = last = perf_counter()
        steps = []
        for _ in range(task.new_tokens - 1):
            token = vlm.chain.decode(token, prefill.cache, step_clock).argmax(axis=-1)
            now = perf_counter()
            steps.append(now - last)
            last = now
        return Sample(
            stages={"preprocess": prepared - start, **self._stages(prompt_clock, prefilled - prepared)},
            ttft=first - start,
            steps=tuple(steps),
            prefill_overhead=prefilled - prepared - sum(prompt_clock.graphs.values()),
            decode_overhead=(last - first - sum(step_clock.graphs.values())) / len(steps),
            pruning=prompt_clock.seconds.get("prune", 0.0) if self.method else None,
        )

    def _stages(self, clock: Clock, wall: float) -> dict[str, float]:
        """The prompt's wall time split as eager's is: prefill is all that follows the projector, by the wall.

        So it has the embedding, the decoder's cuts and the chain's own work in it, and "prune" is what pruning adds
        before the projector.
        """
        stages = {"vision": clock.seconds["vision"], "project": clock.seconds["project"]}
        if "text" in clock.seconds:
            stages["text"] = clock.seconds["text"]
        early = [cut for cut in self.method.cuts if cut.at == "vision"] if self.method else []
        for cut in early:
            own = (seconds for name, seconds in clock.graphs.items() if name.split(" ")[0] in (cut.graph, cut.kernel))
            stages["prune"] = sum(own)
        return {**stages, "prefill": wall - sum(stages.values())}


@dataclass(frozen=True)
class EagerRunner:
    """Hugging Face's model, run eagerly."""

    name: str
    model: EagerModel

    def run(self, task: Task) -> Sample:
        """Answer once; the stages are the chain's."""
        model = self.model
        start = perf_counter()
        inputs = self.inputs(task)
        prepared = perf_counter()
        seen = model.see(inputs)
        looked = perf_counter()
        positions = model.positions(inputs)
        logits, cache = model.prefill(model.embed(inputs["input_ids"], seen.rows), positions)
        prefilled = perf_counter()
        token = logits.argmax(dim=-1)
        token.tolist()
        first = last = perf_counter()
        steps = []
        at = None if positions is None else positions.amax(dim=(0, 2), keepdim=True).expand(3, -1, 1)
        for step in range(1, task.new_tokens):
            logits, cache = model.decode(token, cache, None if at is None else at + step)
            token = logits.argmax(dim=-1)
            now = perf_counter()
            steps.append(now - last)
            last = now
        stages = {
            "preprocess": prepared - start,
            "vision": seen.vision_s,
            "project": looked - prepared - seen.vision_s,  # with the rows' packing
            "prefill": prefilled - looked,
        }
        return Sample(stages=stages, ttft=first - start, steps=tuple(steps))

    def inputs(self, task: Task) -> Inputs:
        """The prompt as Hugging Face's processor makes it, from the file on."""
        if task.frames is None:
            return self.model.prompt(load_image(task.image), task.question)
        return self.model.prompt(load_frames(task.image, evenly(task.frames)).frames, task.question)


@dataclass(frozen=True)
class Metered:
    """A variant whose energy is measured while it runs."""

    runner: Runner
    meter: Meter

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.runner.name

    def run(self, task: Task) -> Sample:
        """Answer once."""
        sample, reading = self.meter.measure(lambda: self.runner.run(task))
        return replace(sample, joules=reading.joules, throttled=reading.throttled)


@dataclass
class Samples:
    """The repeats of one variant, warm-up left out."""

    name: str
    runs: list[Sample] = field(default_factory=list)

    def stage(self, name: str) -> list[float]:
        """Seconds of a stage per repeat; empty where the variant has no such stage."""
        return [run.stages[name] for run in self.runs if name in run.stages]

    @property
    def pruning(self) -> list[float]:
        """Seconds in the method's graphs per repeat; empty without a method."""
        return [run.pruning for run in self.runs if run.pruning is not None]

    @property
    def throttled(self) -> tuple[str, ...]:
        """Why the device was slowed down in any repeat."""
        return tuple(dict.fromkeys(reason for run in self.runs for reason in run.throttled))

    @property
    def steps(self) -> list[float]:
        """Seconds of every step of every repeat."""
        return [step for run in self.runs for step in run.steps]


def measure(
    runners: Sequence[Runner],
    task: Task,
    warmup: int,
    repeats: int,
    progress: bool,
    between: Callable[[], object] = lambda: None,
) -> list[Samples]:
    """Run every variant once per round, so that a busy minute of the machine meets all of them alike.

    Args:
        runners: the variants.
        task: what they are given.
        warmup: rounds that do not count.
        repeats: rounds that count.
        progress: draw a bar on stderr, where tqdm is installed and stderr is a terminal.
        between: called before every round, and after the last.
    """
    samples = [Samples(runner.name) for runner in runners]
    with _bar((warmup + repeats) * len(runners), progress) as advance:
        for turn in range(warmup + repeats):
            between()
            for runner, collected in zip(runners, samples, strict=True):
                advance(f"{runner.name}, {'warm-up' if turn < warmup else f'repeat {turn - warmup + 1}'}", 0)
                sample = runner.run(task)
                if turn >= warmup:
                    collected.runs.append(sample)
                advance("", 1)
        between()
    return samples


def load_eager(checkpoint: Path, dtype: str, threads: int) -> EagerRunner:
    """Load a checkpoint into PyTorch and give PyTorch its threads, which are the process's own.

    Raises:
        MissingExtra: torch or transformers is not installed.
    """
    try:
        import torch

        from edgeprune.eager.model import EagerModel
    except ImportError as error:
        raise MissingExtra("torch", "export", "bench --against eager") from error
    torch.set_num_threads(threads)
    return EagerRunner(f"eager {dtype}", EagerModel(checkpoint, dtype))


def check_same_prompt(runner: EagerRunner, task: Task, token_ids: Sequence[int], visual: int) -> None:
    """Both must be given the same tokens, or their times do not compare.

    Args:
        runner: of the checkpoint.
        task: what it will be given.
        token_ids: the bundle's text tokens around the picture.
        visual: rows that enter the decoder for it unpruned.

    Raises:
        CheckFailed: the checkpoint's prompt is another one; it is not the bundle's checkpoint.
    """
    inputs = runner.inputs(task)
    ids: list[int] = inputs["input_ids"][0].tolist()
    text = [token for token in ids if token not in runner.model.placeholders]
    if text != list(token_ids) or len(ids) - len(text) != visual:
        raise CheckFailed(
            f"the checkpoint's prompt has {len(text)} text and {len(ids) - len(text)} visual tokens, the bundle's "
            f"{len(token_ids)} and {visual}, or they differ in content: give the checkpoint the bundle was made from"
        )


@contextlib.contextmanager
def _bar(total: int, progress: bool) -> Iterator[Callable[[str, int], None]]:
    make: Any = None
    if progress:
        with contextlib.suppress(ImportError):
            make = importlib.import_module("tqdm").tqdm
    if make is None:
        yield lambda text, count: None
        return
    with make(total=total, desc="bench", leave=False, disable=None) as bar:

        def advance(text: str, count: int) -> None:
            if text:
                bar.set_postfix_str(text)
            bar.update(count)

        yield advance
