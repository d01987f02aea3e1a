"""What an export reports while it runs; the command line draws it, tests and scripts ignore it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives an export's progress, graph by graph."""

    def start(self, name: str, index: int, count: int, total_bytes: int) -> None:
        """A graph begins: its place among ``count`` graphs, and the bytes of weights that it will write."""

    def advance(self, written_bytes: int) -> None:
        """So many more bytes of weights are written."""

    def finish(self) -> None:
        """The graph is whole."""


class Silent:
    """A progress that nobody watches."""

    def start(self, name: str, index: int, count: int, total_bytes: int) -> None:
        """Nothing."""

    def advance(self, written_bytes: int) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""
