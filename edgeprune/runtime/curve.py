"""One method's estimated TTFT over its budgets, in microseconds instead of milliseconds.

Counting operations for one budget takes longer than a choice among hundreds may. So it is done at some budgets, and for
texts of round lengths; times between them lie on straight lines, within 2% of what counting would give.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from dataclasses import replace

from edgeprune.budget.schedule import Schedule, make_schedule, reach, site_of
from edgeprune.bundle.manifest import Manifest, MethodEntry
from edgeprune.estimate.calibration import Calibration, read_calibration
from edgeprune.estimate.cost import GraphCost
from edgeprune.estimate.device import CPU, device_of
from edgeprune.estimate.machine import Machine, machine_of_calibration
from edgeprune.estimate.request import Request, prompt_costs
from edgeprune.estimate.roofline import TTFT, time_stages
from edgeprune.runtime.auto import Asked, Keep

ANCHORS = 17
"""Budgets that are counted, from the smallest to the largest."""
TEXT = 64
"""Text tokens from one length that is counted to the next."""
_NOMINAL = {True: (1e11, 2e10), False: (2e13, 5e11)}
"""(FLOPs, bytes) per second of a CPU and of a GPU that nobody calibrated: their ratio counts, the scale is measured."""


class Curve:
    """Of one method of a bundle on a machine.

    Args:
        manifest: of the bundle.
        method: that prunes.
        machine: what is estimated for; only its proportions matter to ``Auto``.
        tokens, runs: visual tokens and encoder runs of a prompt.
        chunk: rows of it that a segment runs on at once, about; None for all of them.

    Attributes:
        low, high: the method's reach.

    Raises:
        BudgetError: the method reaches no budget in this bundle.
    """

    def __init__(
        self, manifest: Manifest, method: MethodEntry, machine: Machine, tokens: int, runs: int, chunk: int | None
    ) -> None:
        self._manifest, self._method, self._machine = manifest, method, machine
        self._tokens, self._runs, self._chunk = tokens, runs, chunk
        self._site = site_of(manifest, method, tokens, runs)
        self.low, self.high = reach(method.name, self._site)
        steps = (self.low + round(step * (self.high - self.low) / (ANCHORS - 1)) for step in range(ANCHORS))
        self._anchors = sorted({*steps})
        self.schedule = functools.lru_cache(maxsize=None)(self._schedule)
        self._column = functools.lru_cache(maxsize=64)(self._count_column)

    def seconds(self, keep: Keep, asked: Asked) -> float:
        """Of a request at a budget within reach, or with all tokens."""
        length, rest = divmod(asked.after, TEXT)
        short = self._between(keep, replace(asked, after=length * TEXT))
        if not rest:
            return short
        long = self._between(keep, replace(asked, after=(length + 1) * TEXT))
        return short + (long - short) * rest / TEXT

    def exact(self, keep: Keep, asked: Asked) -> float:
        """The same, counted."""
        method = None if keep is None else self._method.name
        request = Request.of(self._manifest, asked.before, asked.after, method, self.schedule(keep))
        own = replace(request, chunk=self._chunk)
        costs = [_of_batch(cost, asked.pictures) for cost in prompt_costs(own)]
        return time_stages(costs, self._machine)[TTFT].seconds

    def _between(self, keep: Keep, asked: Asked) -> float:
        """At a length of text that is counted."""
        pruned, unpruned = self._column(asked)
        if keep is None:
            return unpruned
        anchors = self._anchors
        right = bisect.bisect_left(anchors, keep)
        if anchors[right] == keep:
            return pruned[right]
        share = (keep - anchors[right - 1]) / (anchors[right] - anchors[right - 1])
        return pruned[right - 1] + share * (pruned[right] - pruned[right - 1])

    def _count_column(self, asked: Asked) -> tuple[list[float], float]:
        """Seconds at every anchor, rising, and with all tokens."""
        counted = (self.exact(keep, asked) for keep in self._anchors)
        # A rule's rounding may let a larger budget cost a trifle less.
        return [*itertools.accumulate(counted, max)], self.exact(None, asked)

    def _schedule(self, keep: Keep) -> Schedule | None:
        """The counts of a budget, None for all."""
        return None if keep is None else make_schedule(self._method.name, keep, self._site)


def this_machine(backend: str, threads: int, dtype: str) -> Machine:
    """This machine as it was calibrated, or as machines are.

    Args:
        backend: its name.
        threads: per operator, 0 where they are not chosen.
        dtype: of the bundle.
    """
    found = read_calibration(backend, threads, dtype)
    if found is None:
        flops, bandwidth = _NOMINAL[backend == CPU]
        found = Calibration(device_of(backend), backend, max(1, threads), dtype, flops, bandwidth, {}, "")
    return machine_of_calibration(found)


def _of_batch(cost: GraphCost, pictures: int) -> GraphCost:
    """The same graph on several pictures at once: weights are read once."""
    one = cost.cost
    return replace(cost, cost=replace(one, flops=one.flops * pictures, traffic=one.traffic * pictures))
