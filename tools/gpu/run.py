"""A whole run: the machine, the backends on a tiny model, then every shape, eager first and the chain beside it.

What is done is written at once, and what does not fit into the time limit is named and left out.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgeprune.errors import BackendError, EdgePruneError
from edgeprune.runtime.chain import Chain
from tools.gpu.backends import Wanted, attempt, build_here, candidates, export_random, open_here
from tools.gpu.bench import Times, measure
from tools.gpu.cases import Case
from tools.gpu.chain import ChainVariant, Resident
from tools.gpu.checkpoint import shape_of, weight_bytes, write_fast
from tools.gpu.compare import compare, outcome
from tools.gpu.files import save
from tools.gpu.machine import Machine, clocks_now, look, taken_bytes
from tools.gpu.progress import Progress
from tools.gpu.report import Report
from tools.gpu.rows import make_row, make_verdicts
from tools.gpu.settings import Group, Settings, described, make_groups
from tools.gpu.target import Speed, ranges, speed
from tools.gpu.variant import Variant, label

TINY = "tiny"
_BOTH_LOADED = 2.6
"""Weights in multiples that eager and chain take together, caches and scratch included."""


def run(settings: Settings) -> Report:
    """Run everything; the report is saved after every part.

    Raises:
        BackendError: there is no GPU, or the backend that was asked for does not work; the message has its reason.
        UsageError: a budget or the depth is out of reach.
    """
    groups = make_groups(settings)
    progress = Progress(settings.time_limit)
    machine = look(settings.device)
    progress.tell(f"{machine.name}, {', '.join(f'{name} {version}' for name, version in machine.versions.items())}")
    report = Report(machine, described(settings, groups), progress)
    best = speed(machine)
    report.ceilings = None if best is None else best.source
    runner = _Runner(settings, machine, progress, report, best)
    try:
        chosen = runner.choose()
        for group in groups:
            runner.group(group, chosen)
    finally:
        report.clocks_after = clocks_now() if report.measurement else None
        report.verdicts = make_verdicts(report, [case for group in groups for case, _ in group.cases])
        save(report, settings.out)
    return report


class _Runner:
    """The parts of a run, with what they share."""

    def __init__(
        self, settings: Settings, machine: Machine, progress: Progress, report: Report, best: Speed | None
    ) -> None:
        self._settings, self._machine, self._progress, self._report = settings, machine, progress, report
        self._best = best

    def choose(self) -> tuple[Wanted, ...]:
        """Try the backends on a tiny model; the first that works, in one dialect or in both."""
        settings, progress = self._settings, self._progress
        for wanteds in candidates(settings.backend, settings.dialect or "any", self._machine):
            working = []
            for wanted in wanteds:
                if self._attempt(wanted):
                    working.append(wanted)
                    if settings.dialect != "both":
                        break
            if working:
                return tuple(working)
        reasons = "; ".join(f"{a.backend} ({a.dialect}): {a.reason}" for a in self._report.attempts)
        if reasons and settings.backend not in ("auto", "eager"):
            raise BackendError(f"--backend {settings.backend} does not work here: {reasons}")
        if reasons:
            self._report.notes.append("no compiled backend works here, so PyTorch eager alone was measured")
            progress.tell(self._report.notes[-1])
        return ()

    def group(self, group: Group, chosen: Sequence[Wanted]) -> None:
        """Everything about one checkpoint."""
        size = weight_bytes(group.shape, self._settings.dtype)
        progress = self._progress
        if not progress.fits(f"{group.name}: everything", 15 + size / 0.4e9):
            return
        with progress.step(f"writing checkpoint {group.name}, {size / 1e9:.2f} GB"):
            checkpoint = write_fast(
                group.shape, self._work(f"{group.name}-{self._settings.dtype}"), self._settings.dtype
            )
        try:
            eager = self._eager(group, checkpoint)
        except Exception as error:  # torch's own, of memory or of a kernel: the chain is measured all the same
            eager = {}
            self._failed(f"{group.name}: PyTorch eager", error)
        self._free()
        together = self._machine.memory is None or self._machine.memory > _BOTH_LOADED * size
        if not together and chosen:
            self._report.notes.append(f"{group.name}: the GPU holds eager and chain only one after the other")
            eager = {}
            self._free()
        for wanted in chosen:
            try:
                self._chain(group, checkpoint, wanted, eager, size)
            except Exception as error:  # eager takes turns with the chain, so it may be torch's, too
                self._failed(f"{group.name}: {wanted.name} ({wanted.dialect})", error)
            self._free()
        eager.clear()
        self._free()

    def _failed(self, part: str, error: Exception) -> None:
        kind = "" if isinstance(error, EdgePruneError) else f"{type(error).__name__}: "
        text = f"{part}: {kind}{' '.join(str(error).split())[:300]}"
        self._report.errors.append(text)
        self._progress.tell(f"failed: {text}")
        self._save()

    def _attempt(self, wanted: Wanted) -> bool:
        settings, progress = self._settings, self._progress
        name = f"{wanted.name} ({wanted.dialect}) on a tiny model"
        if not progress.fits(name, 30):
            return False
        shape = shape_of(TINY, None)
        checkpoint = write_fast(shape, self._work(f"{TINY}-4-{settings.dtype}"), settings.dtype)
        with progress.step(f"exporting the tiny model, {wanted.dialect}"):
            bundle = export_random(
                checkpoint, settings.dtype, wanted.dialect, self._work(f"{TINY}-4-{settings.dtype}-{wanted.dialect}")
            )
        with progress.step(f"trying {name}"):
            tried = attempt(wanted, bundle.root, checkpoint, self._machine, progress.left)
        self._report.attempts.append(tried)
        self._save()
        progress.tell(f"{name}: {'works' if tried.works else tried.reason}")
        return tried.works

    def _eager(self, group: Group, checkpoint: Path) -> dict[str, Variant]:
        """Measure eager, full and pruned; returns by case the one with all tokens."""
        from tools.gpu.eager import Eager

        with self._progress.step(f"loading {group.name} into PyTorch"):
            eager = Eager(checkpoint, self._settings.dtype, self._settings.device)
        full: dict[str, Variant] = {}
        for case, plans in group.cases:
            prompt = group.prompt(case, self._settings.dtype)
            variants = [eager.variant(budget, prompt) for budget in plans]
            with self._progress.step(f"{case.name}: PyTorch eager, full and pruned"):
                peaks = [self._eager_outcome(group, case, variant) for variant in variants]
                self._measure(group, case, variants, "pytorch eager", None, peaks)
            full[case.name] = variants[0]
        return full

    def _eager_outcome(self, group: Group, case: Case, variant: Variant) -> int | None:
        """Record what eager gives; returns the peak of its memory."""
        import torch

        if self._settings.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        group.expected[case.name, variant.budget.label] = outcome(variant)
        return torch.cuda.max_memory_allocated() if self._settings.device == "cuda" else None

    def _chain(self, group: Group, checkpoint: Path, wanted: Wanted, eager: dict[str, Variant], size: int) -> None:
        """Export, build, open, compare and measure one backend's chain."""
        settings, progress = self._settings, self._progress
        name = f"{group.name}, {wanted.name} ({wanted.dialect})"
        if not progress.fits(f"{name}: export, build and bench", 20 + size / 0.1e9):
            return
        folder = self._work(f"{group.name}-{settings.dtype}-{wanted.dialect}")
        with progress.step(f"{name}: exporting"):
            bundle = export_random(checkpoint, settings.dtype, wanted.dialect, folder)
        shapes = ranges(max(case.visual for case, _ in group.cases), bundle.manifest.decoder.context)
        with progress.step(f"{name}: building"):
            key = build_here(wanted, folder, self._machine, shapes, settings.dtype, progress.left)
        before = taken_bytes(settings.device)
        with progress.step(f"{name}: loading"):
            resident = Resident(open_here(wanted, bundle, key))
        try:
            chain = Chain(bundle, resident)
            for case, plans in group.cases:
                resident.forget()
                prompt = group.prompt(case, settings.dtype)
                variants: list[Variant] = [ChainVariant(chain, resident, budget, prompt) for budget in plans]
                with progress.step(f"{case.name}, {wanted.name} ({wanted.dialect}): chain against PyTorch eager"):
                    peaks = self._chain_outcomes(group, case, wanted.dialect, variants, before)
                    self._measure(group, case, variants, resident.name, wanted.dialect, peaks, eager.get(case.name))
            chain.close()
        finally:
            resident.close()

    def _chain_outcomes(
        self, group: Group, case: Case, dialect: str, variants: Sequence[Variant], before: int | None
    ) -> list[int | None]:
        """Compare every budget with eager's; returns the memory that the chain had taken by then.

        The smallest budget goes first: memory once taken is kept, so a figure is of that budget and those before it.
        """
        peaks: dict[str, int | None] = {}
        for variant in sorted(variants, key=lambda variant: variant.budget.average):
            variant.prefill()
            expected = group.expected.get((case.name, variant.budget.label))
            if expected is not None:
                self._report.comparisons.append(compare(case.name, dialect, variant, expected, self._settings.dtype))
            variant.step()
            now = taken_bytes(self._settings.device)
            peaks[label(variant)] = None if before is None or now is None else now - before
        self._save()
        return [peaks[label(variant)] for variant in variants]

    def _measure(
        self,
        group: Group,
        case: Case,
        variants: Sequence[Variant],
        backend: str,
        dialect: str | None,
        peaks: Sequence[int | None],
        against: Variant | None = None,
    ) -> None:
        """Measure variants, with eager's all tokens among them where it is loaded; rows are saved every round."""
        everyone = [*([against] if against else []), *variants]

        def done(times: list[Times]) -> None:
            for variant, found in zip(everyone, times, strict=True):
                if variant.engine == "eager" and variant.budget.schedule is None:
                    group.whole[case.name] = found
            whole = group.whole.get(case.name)
            for variant, found, peak in zip(variants, times[len(everyone) - len(variants) :], peaks, strict=True):
                row = make_row(case, group.shape, variant, found, whole, self._best, self._settings.dtype)
                self._report.put(replace(row, backend=backend, dialect=dialect, peak_bytes=peak))
            self._save()

        measure(everyone, self._settings.rounds, self._settings.device, self._progress, f"{case.name}, {backend}", done)

    def _work(self, name: str) -> Path:
        self._settings.work.mkdir(parents=True, exist_ok=True)
        return self._settings.work / name

    def _save(self) -> None:
        save(self._report, self._settings.out)

    def _free(self) -> None:
        gc.collect()
        if self._settings.device == "cuda":
            import torch

            torch.cuda.empty_cache()
