"""One check in the making: takes expected and found values one by one, applies the limits, becomes a ``Check``."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.verify.difference import Difference, measure
from edgeprune.verify.report import Check
from edgeprune.verify.thresholds import LIMITS, Kind, judge


class Examination:
    """Collects what one check finds.

    Args:
        name: of the check.
        kind: of the check; with ``dtype`` it decides the limits.
        dtype: of the bundle.
    """

    def __init__(self, name: str, kind: Kind, dtype: str) -> None:
        self.name, self.kind, self._dtype = name, kind, dtype
        self.limits = LIMITS[dtype, kind]
        self._differences: list[Difference] = []
        self._kept: list[float] = []
        self._tokens: float | None = None
        self._failures: list[str] = []
        self._notes: list[str] = []

    def tensor(self, name: str, expected: NDArray[Any], found: NDArray[Any], kind: Kind | None = None) -> None:
        """Compare numbers within the limits, the check's own or those of another kind."""
        if self._same_shape(name, expected, found):
            self._differences.append(measure(name, expected, found))
            self._failures += judge(self._differences[-1], LIMITS[self._dtype, kind or self.kind])

    def exact(self, name: str, expected: NDArray[Any], found: NDArray[Any]) -> None:
        """Compare numbers that must be the same."""
        if self._same_shape(name, expected, found) and not np.array_equal(expected, found):
            place = tuple(int(axis[0]) for axis in np.nonzero(expected != found))
            self.fail(f"{name}{list(place)} is {found[place]}, expected {expected[place]}")

    def kept(
        self,
        name: str,
        expected: NDArray[np.int64],
        found: NDArray[np.int64],
        merged: NDArray[np.bool_],
        sure: float = 1.0,
    ) -> bool:
        """Compare which rows were kept, [B, K], some of them references of merged rows.

        Args:
            name: of the check.
            expected, found: the rows.
            merged: [B, K], which of them are references, on both sides; as many in each row.
            sure: the part of the selection that the last bit of a sum does not decide.

        Returns:
            Whether they are identical. They may differ, within the limit, in what was selected. References follow from
            the selection, so that with the same one they must be the same; but not behind other graphs in fp16, whose
            rounding can swap two clusters.
        """
        if not self._same_shape(name, expected, found):
            return False
        selected = int((~merged[0]).sum())
        # The class rows of several runs have one number.
        shared = [
            (Counter(ours[~refers].tolist()) & Counter(theirs[~refers].tolist())).total()
            for ours, theirs, refers in zip(expected, found, merged, strict=True)
        ]
        overlap = sum(shared) / (selected * len(expected))
        self._kept.append(overlap)
        identical = bool(np.array_equal(expected, found))
        # One row more or less in a short selection says nothing, unless none may differ.
        least = self.limits.kept * sure
        spare = 0 if least == 1.0 else max(1, int(selected * (1 - least)))
        if selected - min(shared) > spare:
            self.fail(
                f"{name}: {min(shared)} of {selected} selected rows are the reference's, expected {selected - spare}"
            )
        elif overlap == 1.0 and not np.array_equal(expected[~merged], found[~merged]):
            self.fail(f"{name}: the same rows are selected in another order")
        elif overlap == 1.0 and not identical and (self.kind != "pruned" or least == 1.0):
            self.fail(f"{name}: the same rows are selected, with other references to merge to")
        return identical

    def tokens(self, expected: NDArray[np.int64], found: NDArray[np.int64]) -> None:
        """Compare greedy tokens, step by step on the same history."""
        self._tokens = float(np.mean(expected == found))
        if self._tokens < self.limits.tokens:
            step = int(np.nonzero(expected != found)[0][0])
            self.fail(
                f"{self._tokens:.1%} of the greedy tokens are the reference's, expected {self.limits.tokens:.0%}; "
                f"the first that is not: {found[step].tolist()}, expected {expected[step].tolist()}, at step {step}"
            )

    def fail(self, text: str) -> None:
        """Book a failure."""
        self._failures.append(text)

    def note(self, text: str) -> None:
        """Book something that was not compared."""
        self._notes.append(text)

    @property
    def failed(self) -> bool:
        """Whether anything is wrong so far."""
        return bool(self._failures)

    def done(self) -> Check:
        """The finished check."""
        return Check(
            name=self.name,
            kind=self.kind,
            differences=tuple(self._differences),
            kept=min(self._kept) if self._kept else None,
            tokens=self._tokens,
            failures=tuple(self._failures),
            notes=tuple(self._notes),
        )

    def _same_shape(self, name: str, expected: NDArray[Any], found: NDArray[Any]) -> bool:
        if expected.shape != found.shape:
            self.fail(f"{name} has shape {list(found.shape)}, expected {list(expected.shape)}")
        return expected.shape == found.shape
