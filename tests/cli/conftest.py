"""The command line, called as users call it, in this process."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from edgeprune.cli import main


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """Its one line on stderr, without progress bars."""
        lines = [line for line in self.err.replace("\r", "\n").splitlines() if line.startswith("edgeprune:")]
        assert len(lines) == 1, self.err
        return lines[0]


Command = Callable[..., Result]


@pytest.fixture
def edgeprune(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """``edgeprune("run", bundle, ...)`` gives exit code, stdout and stderr."""

    def call(*arguments: object) -> Result:
        monkeypatch.setattr("sys.argv", ["edgeprune", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capfd.readouterr()
        assert "Traceback" not in err, err
        return Result(int(stopped.value.code or 0), out, err)

    before = signal.getsignal(signal.SIGTERM)
    yield call
    signal.signal(signal.SIGTERM, before)
