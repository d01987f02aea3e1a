"""``keep="auto"`` on a loaded bundle: predicts with the estimate, tries out what was never measured, remembers.

The first request of a process runs once in advance and uncounted, because graphs get their memory then. Where nothing
is remembered, it runs for about a second: at the smallest budget for the scale, then at what seems to fit. Every
request that ran teaches the next one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from edgeprune.budget.schedule import Schedule
from edgeprune.bundle.manifest import NAME, MethodEntry
from edgeprune.bundle.store import Bundle
from edgeprune.errors import BudgetError
from edgeprune.estimate.device import device_of
from edgeprune.runtime.auto import Asked, Auto, Choice, Keep, Sample
from edgeprune.runtime.curve import Curve, this_machine
from edgeprune.runtime.remembered import Place, recall, remember

TRIALS_S, TRIALS = 1.0, 16
"""Trial runs end after this time or this many, but not before two."""
REFUSALS = 3
"""Runs of the smallest budget that must not fit before a request is refused; one, where they take longer."""


@dataclass(frozen=True)
class Trial:
    """Seconds of a request that was run: all of it after its pictures were prepared, and the encoder's part."""

    seconds: float
    encoder: float


class Tuner:
    """Chooses budgets of one method.

    Args:
        bundle: opened.
        method: of the bundle.
        backend: its name.
        threads: per operator, 0 where they are not chosen.
        tokens, runs: visual tokens and encoder runs of a prompt; None for those of the largest picture.
        chunk: rows of a prompt that the backend runs at once, about; None for all of them.

    Attributes:
        warm: whether a request ran in this process.

    Raises:
        BudgetError: the method reaches no budget in this bundle.
    """

    def __init__(
        self,
        bundle: Bundle,
        method: MethodEntry,
        backend: str,
        threads: int,
        tokens: int | None = None,
        runs: int | None = None,
        chunk: int | None = None,
    ) -> None:
        self._method = method
        facts = bundle.manifest
        tokens = facts.most_tokens if tokens is None else tokens
        runs = facts.image.most_runs if runs is None else runs
        self._curve = Curve(facts, method, this_machine(backend, threads, facts.dtype), tokens, runs, chunk)
        sha256 = hashlib.sha256((bundle.root / NAME).read_bytes()).hexdigest()
        self._place = Place(sha256, method.name, backend, threads, device_of(backend), tokens, runs)
        low, high = self._curve.low, self._curve.high
        earlier = [s for s in recall(self._place) if s.keep is None or low <= s.keep <= high]
        self._auto = Auto(low, high, self._curve.seconds, earlier)
        self.warm = False

    @property
    def smallest(self) -> Schedule | None:
        """The counts of the smallest budget."""
        return self.schedule(self._auto.low)

    def schedule(self, keep: Keep) -> Schedule | None:
        """The counts of a budget, None for all."""
        return self._curve.schedule(keep)

    def choose(
        self,
        asked: Asked,
        budget: float,
        prepared: float,
        possible: Callable[[Keep], bool],
        run: Callable[[Keep], Trial],
    ) -> tuple[Choice, bool]:
        """The largest budget that fits.

        Args:
            asked: the request.
            budget: seconds to its first token.
            prepared: seconds of it that went into preparing the pictures.
            possible: whether a budget can run at all; it is taken that the smallest can.
            run: runs the request up to its first token.

        Returns:
            The choice with the seconds of the whole request, and whether anything was run for it.

        Raises:
            BudgetError: not even the smallest budget fits, and it was just run to see.
        """
        auto, limit, tried = self._auto, budget - prepared, not self.warm
        known = None if self.warm else self._warm_up(asked, limit, possible, run)
        choice = auto.choose(asked, limit, possible)
        if choice is None:  # measured under what load? The machine as it is now decides
            trial = known or self._smallest(asked, limit, run)
            if trial.seconds > limit:
                self.keep()
                raise self._too_short(asked, budget, prepared, trial)
            choice, tried = Choice(auto.low, trial.seconds), True
        return replace(choice, seconds=prepared + choice.seconds), tried

    def learn(self, keep: Keep, asked: Asked, trial: Trial) -> None:
        """Learn from a request that ran."""
        self._auto.add(Sample(keep, asked.before, asked.after, asked.pictures, trial.seconds, trial.encoder))

    def keep(self) -> None:
        """Write what was learnt, for the next process, and draw the conclusions, for the next request."""
        remember(self._place, self._auto.samples)
        self._auto.fit()

    def _warm_up(
        self, asked: Asked, limit: float, possible: Callable[[Keep], bool], run: Callable[[Keep], Trial]
    ) -> Trial | None:
        """Run what a first request needs; returns the last run if it was of the smallest budget and a long one."""
        auto, known = self._auto, bool(self._auto.samples)
        ran, spent, count = set[Keep](), 0.0, 0
        while True:
            choice = auto.choose(asked, limit, possible) if auto.samples else None
            keep = choice.keep if choice else auto.low
            trial = run(keep)
            count, spent = count + 1, spent + trial.seconds
            if keep in ran:  # what runs for the first time gets its memory then
                self.learn(keep, asked, trial)
            ran.add(keep)
            if known or (count >= 2 and (count >= TRIALS or spent >= TRIALS_S)):
                break
        self.warm = True
        return trial if keep == auto.low and trial.seconds >= TRIALS_S else None

    def _smallest(self, asked: Asked, limit: float, run: Callable[[Keep], Trial]) -> Trial:
        """The fastest of a few runs at the smallest budget, or the first that fits."""
        trials: list[Trial] = []
        while not trials or (len(trials) < REFUSALS and sum(trial.seconds for trial in trials) < TRIALS_S):
            trials.append(run(self._auto.low))
            self.learn(self._auto.low, asked, trials[-1])
            if trials[-1].seconds <= limit:
                break
        return min(trials, key=lambda trial: trial.seconds)

    def _too_short(self, asked: Asked, budget: float, prepared: float, trial: Trial) -> BudgetError:
        least = prepared + max(trial.seconds, self._auto.likely(self._auto.low, asked))
        mend = ", or another --method"
        if trial.encoder > budget:
            mend = "" if "encoder" in self._method.places else ", or a --method that prunes inside the encoder"
        pictures = f" for {asked.pictures} pictures" if asked.pictures > 1 else ""
        return BudgetError(
            f"--ttft-budget {spell(budget)} is too short: the smallest budget of {self._method.name}, "
            f"--keep {self._auto.low}, just took {spell(prepared + trial.seconds)}{pictures}, "
            f"{spell(trial.encoder)} of it the encoder alone; give --ttft-budget {spell(1.1 * least)} or more{mend}"
        )


def spell(seconds: float) -> str:
    """Times for people, as ``--ttft-budget`` takes them."""
    if seconds >= 10:
        return f"{seconds:.1f}s"
    return f"{seconds * 1e3:.{0 if seconds >= 0.01 else 1}f}ms"
