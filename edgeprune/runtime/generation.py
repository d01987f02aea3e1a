"""From the first logits to the last token: sample, feed back, stop. One loop for a batch of rows.

It knows token ids and times, not text and not pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from edgeprune.runtime.answer import FinishReason
from edgeprune.runtime.chain import Chain, Clock, Prefill
from edgeprune.runtime.sampling import Sampler


class Generation:
    """Generates tokens for every row of a prefilled prompt.

    Args:
        chain: the graphs.
        prefill: their result on the prompt.
        sampler: picks tokens.
        eos: ids that end a row.
        max_new_tokens: the most tokens of a row.
        context: the most rows a cache may hold.
        clock: takes the time of decode steps.

    Attributes:
        tokens: generated ids per row, end tokens included.
        reasons: why each row ended; set when iteration is over.
        step_seconds: from one token to the next.
    """

    def __init__(
        self,
        chain: Chain,
        prefill: Prefill,
        sampler: Sampler,
        eos: tuple[int, ...],
        max_new_tokens: int,
        context: int,
        clock: Clock,
    ) -> None:
        self._chain, self._prefill, self._sampler = chain, prefill, sampler
        self._eos, self._limit, self._context, self._clock = eos, max_new_tokens, context, clock
        rows = prefill.logits.shape[0]
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self.reasons: list[FinishReason | None] = [None] * rows
        self.step_seconds: list[float] = []

    def __iter__(self) -> Iterator[list[int | None]]:
        """Yield the new token of every row, None for rows that have ended."""
        picked = self._sampler.pick(self._prefill.logits)
        yield self._accept(picked)
        while not all(self.reasons):
            if self._prefill.cache.longest >= self._context:
                self._end("context")
                return
            start = perf_counter()
            picked = self._sampler.pick(self._chain.decode(picked, self._prefill.cache, self._clock))
            self.step_seconds.append(perf_counter() - start)
            yield self._accept(picked)

    def _accept(self, picked: NDArray[np.int64]) -> list[int | None]:
        """Book one token per row that is still running."""
        new: list[int | None] = []
        for row, token in enumerate(picked.tolist()):
            if self.reasons[row]:
                new.append(None)
                continue
            self.tokens[row].append(token)
            new.append(token)
            if token in self._eos:
                self.reasons[row] = "eos"
            elif len(self.tokens[row]) >= self._limit:
                self.reasons[row] = "length"
        return new

    def _end(self, reason: FinishReason) -> None:
        self.reasons = [known or reason for known in self.reasons]
