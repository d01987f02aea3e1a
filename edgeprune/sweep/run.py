"""A sweep from beginning to end: every cell timed in turn, asked, drawn and weighed, with a journal of what is done.

A cell that fails is kept with the reason, and the others go on. What the report looks like is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeprune.bench.host import Host, available_cores, measure_host
from edgeprune.bench.measure import ChainRunner, Metered, Runner, Sample, Samples, Task
from edgeprune.bench.picture import look, task_picture
from edgeprune.bench.predict import Rates
from edgeprune.bench.report import Memory, Variant
from edgeprune.bench.rss import chain_memory
from edgeprune.bench.run import device_notes, make_conditions, make_task
from edgeprune.bench.variants import Counts, PromptSize, make_variant
from edgeprune.bundle.store import open_bundle
from edgeprune.errors import EdgePruneError, OutputError
from edgeprune.estimate.device import CPU
from edgeprune.estimate.machine import Machine
from edgeprune.eval.accuracy import Accuracy, Reply, tally
from edgeprune.eval.data import Sample as Question
from edgeprune.eval.run import Run, ask, check_questions
from edgeprune.power.device import Device, open_device
from edgeprune.power.meter import Meter
from edgeprune.power.state import DeviceState
from edgeprune.runtime.pixels import prepare
from edgeprune.runtime.vlm import VLM, open_vlm
from edgeprune.sweep.axes import Cell, make_cells
from edgeprune.sweep.journal import Journal, open_journal
from edgeprune.sweep.kept import draw_kept
from edgeprune.sweep.pareto import advise, front
from edgeprune.sweep.plan import MAX_NEW_TOKENS, Asked, Plan, check_pictures, identity
from edgeprune.sweep.progress import SweepBar
from edgeprune.sweep.report import Failure, Phase, Questions, Row, SweepReport

_SEED = 0  # of the method that draws at random


@contextmanager
def run_sweep(plan: Plan, fresh: bool, tell: Callable[[str], Any]) -> Iterator[SweepReport]:
    """Measure what no journal has yet, and give the report; when the block ends well, the journal is removed.

    Args:
        plan: what is to be swept.
        fresh: forget what an interrupted sweep has finished.
        tell: called with a line on what is resumed, what is out of reach, and what fails.

    Raises:
        UsageError: an argument is malformed, or nothing is within reach.
        ImageError: the picture cannot be used.
        OutputError: the journal cannot be written, or another process sweeps the same.
    """
    bundle = open_bundle(plan.bundle, check_hashes=False)
    if plan.image is not None:
        prepare([plan.image], bundle.manifest.image)  # told before gigabytes are loaded
    with open_journal(identity(plan, bundle), fresh) as journal:
        with task_picture(plan.image, bundle.manifest.image) as picture:
            report = _run(plan, picture, journal, tell)
        yield report
        journal.remove()


def _run(plan: Plan, picture: Path, journal: Journal, tell: Callable[[str], Any]) -> SweepReport:
    with ExitStack() as opened:
        vlm = opened.enter_context(open_vlm(plan.bundle, plan.settings.threads, plan.check_hashes))
        visual = look(picture, vlm.manifest)
        cells = make_cells(vlm, plan.axes, visual)
        task = make_task(vlm, picture, visual.tokens, plan.settings)
        text = vlm.prompt.encode(task.question)
        size = PromptSize(len(text.before), text.text_tokens - len(text.before), visual.tokens, visual.runs)
        if plan.asked is not None:
            check_questions(vlm, plan.asked.samples)
            check_pictures(plan.asked.samples)
        # The model is closed before memory is measured: every run whose memory is measured loads it anew.
        return _Sweep(plan, vlm, cells, task, size, journal, tell).run(opened.close)


@dataclass
class _Sweep:
    """A sweep at work.

    Attributes:
        failures: per name of a cell what could not be had.
    """

    plan: Plan
    vlm: VLM
    cells: tuple[Cell, ...]
    task: Task
    size: PromptSize
    journal: Journal
    tell: Callable[[str], Any]
    failures: dict[str, list[Failure]] = field(default_factory=dict)

    def run(self, close: Callable[[], None]) -> SweepReport:
        """All phases; ``close`` frees the model."""
        journal, asked, vlm = self.journal, self.plan.asked, self.vlm
        sittings = journal.count("sitting") + 1
        if any(map(journal.count, _NOUNS)):
            self.tell(f"resuming: {self._finished()}; --fresh begins again")
        journal.add("sitting", "", sittings, _now())
        for cell in self.cells:
            if cell.unreachable is not None:
                self._fail(cell, "budget", cell.unreachable)
        host = self._host()
        settings, backend = self.plan.settings, vlm.backend.name
        machine, notes = None, []
        rates = None
        if settings.predict:
            rates = Rates(backend, self._threads(), vlm.manifest.dtype)
        memory: dict[str, Memory] = {}
        with SweepBar(self._units(), not self.plan.settings.progress) as bar:
            state = self._time(bar, open_device(on_gpu=backend != CPU), rates)
            if rates is not None:
                machine, note = rates.machine()
                notes.append(note)
            variants = {cell.name: self._variant(cell, host, machine) for cell in self._timed()}
            accuracies = self._ask(bar) if asked is not None else {}
            points = [row.point for row in self._rows(variants, accuracies, memory) if row.point]
            advice = advise(points)
            draw = self.plan.draw and vlm.manifest.prompt.medium == "image"
            if draw != self.plan.draw:
                notes.append("kept tokens are drawn on pictures; this bundle is for video")
            kept = draw_kept(vlm, self._timed(), advice.recommended, self.plan.image, asked) if draw else ()
            close()
            if self.plan.settings.memory:
                memory = self._weigh(bar)
        rows = self._rows(variants, accuracies, memory)
        conditions = make_conditions(vlm.manifest, backend, self.size, host, self._threads(), settings)
        notes += device_notes(state, [Samples(row.name, list(row.samples)) for row in rows])
        return SweepReport(
            conditions=replace(conditions, device=state),
            rows=rows,
            front=front(points),
            advice=advice,
            questions=None if asked is None else _questions(asked),
            kept=kept,
            command=self.plan.command,
            finished=_now(),
            sittings=sittings,
            notes=tuple(notes),
        )

    def _threads(self) -> int:
        return self.plan.settings.threads or available_cores()

    def _host(self) -> Host:
        host = self.journal.get(Host, "host", "")
        if host is None:
            edge, megabytes = self.plan.settings.host_size
            host = measure_host(self._threads(), edge=edge, megabytes=megabytes)
            self.journal.add("host", "", 0, host)
        return host

    def _units(self) -> dict[str, int]:
        """What is left to do, per kind."""
        within = [cell for cell in self.cells if cell.unreachable is None]
        rounds = sum(self._rounds(cell) for cell in within)
        replies = len(within) * len(self.plan.asked.samples) if self.plan.asked else 0
        memory = len(within) if self.plan.settings.memory else 0
        done = {kind: self.journal.count(kind) for kind in ("reply", "memory")}
        return {"time": rounds, "reply": replies - done["reply"], "memory": memory - done["memory"]}

    def _rounds(self, cell: Cell) -> int:
        """Runs that a cell still needs; after an interruption the model is cold again, so it warms up once more."""
        settings = self.plan.settings
        left = sum(not self.journal.has("round", cell.name, turn) for turn in range(settings.repeats))
        return left + settings.warmup if left else 0

    def _finished(self) -> str:
        counts = [(self.journal.count(kind), noun) for kind, noun in _NOUNS.items()]
        parts = [f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts if count]
        return f"{', '.join(parts)} finished before"

    def _time(self, bar: SweepBar, device: Device | None, rates: Rates | None) -> DeviceState | None:
        """Time all cells; gives the device's state before, and measures energy where the device has a sensor."""
        between = rates.take if rates is not None else lambda: None
        if device is None:
            self._rounds_of_all(bar, lambda runner: runner, between)
            return None
        with closing(device):
            state, meter = device.state(), Meter(device)
            self._rounds_of_all(bar, lambda runner: Metered(runner, meter), between)
            return state

    def _rounds_of_all(self, bar: SweepBar, metered: Callable[[Runner], Runner], between: Callable[[], object]) -> None:
        """Every cell once per round, so that a busy minute of the machine meets all of them alike."""
        settings = self.plan.settings
        cold = {cell.name for cell in self.cells if self._rounds(cell)}
        between()
        for turn in range(-settings.warmup, settings.repeats):
            for cell in self._timed():
                if cell.name not in cold or (turn >= 0 and self.journal.has("round", cell.name, turn)):
                    continue
                bar.begin("time", f"{cell.name}, {'warm-up' if turn < 0 else f'repeat {turn + 1}'}")
                try:
                    sample = metered(self._runner(cell)).run(self.task)
                except EdgePruneError as error:
                    bar.drop("time", self._left(cell, turn))
                    bar.drop("reply", self._unanswered(cell))
                    bar.drop("memory", int(settings.memory and not self.journal.has("memory", cell.name)))
                    self._fail(cell, "time", str(error))
                    continue
                if turn >= 0:
                    self.journal.add("round", cell.name, turn, sample)
                bar.advance()
            between()

    def _left(self, cell: Cell, turn: int) -> int:
        """Runs of a cell that a failure in round ``turn`` leaves undone, that one included."""
        warm = max(0, -turn)
        later = range(max(0, turn), self.plan.settings.repeats)
        return warm + sum(not self.journal.has("round", cell.name, number) for number in later)

    def _unanswered(self, cell: Cell) -> int:
        count = len(self.plan.asked.samples) if self.plan.asked else 0
        return sum(not self.journal.has("reply", cell.name, number) for number in range(count))

    def _runner(self, cell: Cell) -> ChainRunner:
        if cell.entry is not None:
            self.vlm.chain.open_method(cell.entry)
        return ChainRunner(cell.name, self.vlm, cell.entry, cell.schedule)

    def _variant(self, cell: Cell, host: Host, machine: Machine | None) -> Variant:
        facts = self.vlm.manifest
        chunk = self.vlm.backend.chunk
        counts = Counts.of(facts, self.size, cell.entry, cell.schedule, self.task.new_tokens, chunk)
        return make_variant(Samples(cell.name, self._samples(cell)), "chain", facts.dtype, counts, host, machine)

    def _samples(self, cell: Cell) -> list[Sample]:
        found = (self.journal.get(Sample, "round", cell.name, turn) for turn in range(self.plan.settings.repeats))
        return [sample for sample in found if sample is not None]

    def _ask(self, bar: SweepBar) -> dict[str, Accuracy]:
        """Every question to every cell; the unpruned model answers first."""
        assert self.plan.asked is not None  # the caller looked
        questions = self.plan.asked.samples
        found: dict[str, Accuracy] = {}
        unpruned: list[Reply] | None = None
        for cell in self._timed():
            replies: list[Reply] = []
            try:
                for number, question in enumerate(questions):
                    replies.append(self._reply(bar, cell, number, question))
            except OutputError:  # of the journal: no fault of the cell's
                raise
            except EdgePruneError as error:
                bar.drop("reply", self._unanswered(cell))
                self._fail(cell, "accuracy", str(error))
                continue
            if cell.method is None:
                unpruned = replies
            found[cell.name] = tally(cell.name, questions, replies, unpruned, cell.method, cell.keep)
        return found

    def _reply(self, bar: SweepBar, cell: Cell, number: int, question: Question) -> Reply:
        known = self.journal.get(Reply, "reply", cell.name, number)
        if known is not None:
            return known
        bar.begin("reply", f"{cell.name}, question {number + 1}")
        reply = ask(self.vlm, question, Run(cell.method, cell.keep), MAX_NEW_TOKENS, _SEED)
        self.journal.add("reply", cell.name, number, reply)
        bar.advance()
        return reply

    def _weigh(self, bar: SweepBar) -> dict[str, Memory]:
        found: dict[str, Memory] = {}
        for cell in self._timed():
            memory = self.journal.get(Memory, "memory", cell.name)
            if memory is None:
                bar.begin("memory", f"{cell.name}, memory")
                try:
                    memory = chain_memory(cell.name, self.vlm.bundle, cell.entry, cell.keep, self.task, self._threads())
                except EdgePruneError as error:
                    bar.drop("memory", 1)
                    self._fail(cell, "memory", str(error))
                    continue
                self.journal.add("memory", cell.name, 0, memory)
                bar.advance()
            found[cell.name] = memory
        return found

    def _rows(
        self, variants: dict[str, Variant], accuracies: dict[str, Accuracy], memory: dict[str, Memory]
    ) -> tuple[Row, ...]:
        return tuple(
            Row(
                name=cell.name,
                method=cell.method,
                keep=cell.keep,
                variant=variants.get(cell.name),
                samples=tuple(self._samples(cell)) if cell.name in variants else (),
                memory=memory.get(cell.name),
                accuracy=accuracies.get(cell.name),
                failures=tuple(self.failures.get(cell.name, ())),
            )
            for cell in self.cells
        )

    def _timed(self) -> list[Cell]:
        """Cells that neither their budget nor a run has ruled out."""
        return [cell for cell in self.cells if not {"budget", "time"} & self._failed(cell)]

    def _failed(self, cell: Cell) -> set[Phase]:
        return {failure.phase for failure in self.failures.get(cell.name, ())}

    def _fail(self, cell: Cell, phase: Phase, reason: str) -> None:
        self.failures.setdefault(cell.name, []).append(Failure(phase, reason))
        self.tell(f"failed: {cell.name}, {phase}: {reason}")


_NOUNS = {"round": "timed run", "reply": "answer", "memory": "memory figure"}


def _questions(asked: Asked) -> Questions:
    images = len({sample.index for sample in asked.samples})
    return Questions(asked.data, len(asked.samples), images, MAX_NEW_TOKENS, asked.suited)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
