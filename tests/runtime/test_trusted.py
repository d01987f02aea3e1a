"""The ledger of plans that were built on this machine, and the folders that it and the caches lie in."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprune.errors import OutputError
from edgeprune.local import cache_folder, read_ours, state_folder
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


# --- the folders --------------------------------------------------------------------------------------------------


def test_the_cache_is_the_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    previous = os.umask(0)
    try:
        folder = cache_folder()
    finally:
        os.umask(previous)
    assert folder == tmp_path / "cache" / "edgeprune"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for mode in (0o720, 0o702, 0o777):
        folder.chmod(mode)
        assert cache_folder() is None
    folder.chmod(0o755)
    assert cache_folder() == folder


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_cache_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "edgeprune").mkdir()
    os.chown(tmp_path / "edgeprune", 12345, -1)
    assert cache_folder() is None


def test_a_relative_folder_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(variable, "relative/path")
    assert cache_folder() == tmp_path / ".cache" / "edgeprune"
    assert state_folder() == tmp_path / ".local" / "state" / "edgeprune"
    assert not state_folder().exists()


def test_without_a_home_there_is_no_cache_and_the_ledger_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    for variable in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert cache_folder() is None
    assert not trusted.is_known(digest("a"))
    with pytest.raises(OutputError, match=r"there is no home directory .*; set XDG_STATE_HOME"):
        trusted.remember(digest("a"))


def test_a_cache_that_cannot_be_made_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cache_folder() is None


def test_only_files_that_others_cannot_have_written_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert read_ours(path) is None
    path.write_bytes(b"content")
    path.chmod(0o644)
    assert read_ours(path) == b"content"
    for mode in (0o664, 0o646):
        path.chmod(mode)
        assert read_ours(path) is None
    if os.getuid() == 0:
        path.chmod(0o600)
        os.chown(path, 12345, -1)
        assert read_ours(path) is None
