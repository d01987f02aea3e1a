"""The ledger of plans that were built on this machine."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprune.errors import OutputError
from edgeprune.runtime import trusted


def digest(word: object) -> str:
    return hashlib.sha256(str(word).encode()).hexdigest()


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_what_was_built_here_is_known_and_nothing_else(state: Path) -> None:
    assert not trusted.is_known(digest("a"))
    trusted.remember(digest("a"))
    trusted.remember(digest("b"))
    assert trusted.is_known(digest("a")) and trusted.is_known(digest("b"))
    assert not trusted.is_known(digest("c"))
    assert not trusted.is_known("") and not trusted.is_known(digest("a")[:12])
    assert (state / "edgeprune" / "plans").read_text() == f"{digest('a')}\n{digest('b')}\n"


def test_only_the_owner_may_read_and_write_the_ledger(state: Path) -> None:
    previous = os.umask(0)
    try:
        trusted.remember(digest("a"))
    finally:
        os.umask(previous)
    assert stat.S_IMODE((state / "edgeprune" / "plans").stat().st_mode) == 0o600
    assert stat.S_IMODE((state / "edgeprune").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_ledger_that_others_may_write_is_not_believed(state: Path, mode: int) -> None:
    trusted.remember(digest("a"))
    trusted.ledger().chmod(mode)
    assert not trusted.is_known(digest("a"))


def test_builders_at_once_lose_no_line() -> None:
    code = "import sys; from edgeprune.runtime import trusted\nfor word in sys.argv[1:]: trusted.remember(word)"
    words = [[digest((worker, line)) for line in range(200)] for worker in range(3)]
    running = [subprocess.Popen([sys.executable, "-c", code, *mine]) for mine in words]
    assert [process.wait() for process in running] == [0, 0, 0]
    lines = trusted.ledger().read_text().splitlines()
    assert sorted(lines) == sorted(word for mine in words for word in mine)


def test_the_default_is_in_the_home_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for ignored in ("", "relative/path"):
        monkeypatch.setenv("XDG_STATE_HOME", ignored)
        assert trusted.ledger() == tmp_path / ".local" / "state" / "edgeprune" / "plans"


def test_a_ledger_that_cannot_be_written_is_named(state: Path) -> None:
    state.write_text("a file where the folder should be")
    with pytest.raises(OutputError, match=r"cannot enter the plan into .*state/edgeprune/plans: Not a directory"):
        trusted.remember(digest("a"))
    assert not trusted.is_known(digest("a"))
