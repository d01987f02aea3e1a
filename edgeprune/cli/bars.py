"""Progress bars of an export and of a build, on stderr."""

from __future__ import annotations

import sys
from time import perf_counter
from typing import Any


class Bars:
    """One bar per graph, and a record of bytes and seconds (see ``export.progress``).

    Attributes:
        graphs: per graph ``name``, ``weight_bytes`` and, once it is whole, ``seconds``.
    """

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.graphs: list[dict[str, Any]] = []
        self._bar: Any = None
        self._started = 0.0

    def start(self, name: str, index: int, count: int, total_bytes: int) -> None:
        """Open the bar of a graph."""
        from tqdm import tqdm

        self._started = perf_counter()
        self.graphs.append({"name": name, "weight_bytes": total_bytes})
        self._bar = tqdm(
            total=total_bytes or None,
            desc=f"[{index + 1:>{len(str(count))}}/{count}] {name:<24}",
            unit="B",
            unit_scale=True,
            disable=self.quiet,
            file=sys.stderr,
            bar_format="{desc} {n_fmt:>7}B {bar:20} {elapsed}" if total_bytes else "{desc} no weights {elapsed}",
        )

    def advance(self, written_bytes: int) -> None:
        """Move it."""
        self._bar.update(written_bytes)

    def finish(self) -> None:
        """Close it and note the time."""
        self.close()
        self.graphs[-1]["seconds"] = round(perf_counter() - self._started, 3)

    def close(self) -> None:
        """Leave the terminal on a line of its own, also when the graph was not finished."""
        if self._bar is not None:
            self._bar.close()


class BuildBars:
    """One bar per graph that is built (see ``engines.monitor``), and what became of each.

    Attributes:
        outcomes: per graph "built" or "as it was".
    """

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.outcomes: dict[str, str] = {}
        self._name = ""
        self._bar: Any = None

    def tell(self, text: str) -> None:
        """Print a line above the bars."""
        from tqdm import tqdm

        if not self.quiet:
            tqdm.write(text, file=sys.stderr)

    def start(self, name: str, index: int, count: int) -> None:
        """Open the bar of a graph."""
        from tqdm import tqdm

        self._name = name
        self._bar = tqdm(
            total=1,
            desc=f"[{index + 1:>{len(str(count))}}/{count}] {name:<24}",
            disable=self.quiet,
            file=sys.stderr,
            bar_format="{desc} {bar:20} {elapsed} {postfix}",
        )

    def step(self, phase: str, done: int, steps: int) -> None:
        """Move it to a place in the outermost phase."""
        self._bar.total = max(steps, 1)
        self._bar.n = min(done, self._bar.total)
        self._bar.set_postfix_str(phase)

    def finish(self, outcome: str) -> None:
        """Close it."""
        self.outcomes[self._name] = outcome
        self._bar.n = self._bar.total
        self._bar.set_postfix_str(outcome)
        self.close()

    def close(self) -> None:
        """Leave the terminal on a line of its own, also when the graph was not finished."""
        if self._bar is not None:
            self._bar.close()
