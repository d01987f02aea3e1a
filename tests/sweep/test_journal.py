"""The journal: what it keeps, and what it makes of a file that was cut off, damaged, or is in use."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprune.bench.report import Memory
from edgeprune.errors import OutputError
from edgeprune.sweep.journal import open_journal

WHICH = {"bundle": "abc", "repeats": 3}
MEMORY = Memory("sts 64", 1, 2, 3, None)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "edgeprune" / "sweeps"


def test_what_was_added_is_there_again(state: Path) -> None:
    with open_journal(WHICH, fresh=False) as journal:
        assert not journal.written
        journal.add("memory", "sts 64", 0, MEMORY)
        assert journal.get(Memory, "memory", "sts 64") == MEMORY
        path = journal.path
    assert path.parent == state
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with open_journal(WHICH, fresh=False) as journal:
        assert journal.get(Memory, "memory", "sts 64") == MEMORY
        assert journal.get(Memory, "memory", "sts 32") is None
        assert journal.has("memory", "sts 64")
        assert not journal.has("memory", "sts 64", 1)
        assert journal.count("memory") == 1
        journal.remove()
    assert not path.exists()


def test_another_sweep_and_a_fresh_one_know_nothing() -> None:
    with open_journal(WHICH, fresh=False) as journal:
        journal.add("memory", "sts 64", 0, MEMORY)
    with open_journal({**WHICH, "repeats": 4}, fresh=False) as journal:
        assert not journal.written
    with open_journal(WHICH, fresh=True) as journal:
        assert not journal.written
        journal.add("memory", "sts 32", 0, MEMORY)
    with open_journal(WHICH, fresh=False) as journal:
        assert journal.count("memory") == 1
        assert journal.has("memory", "sts 32")


def test_one_that_stayed_empty_leaves_no_file(state: Path) -> None:
    with pytest.raises(ValueError, match="wrong usage"), open_journal(WHICH, fresh=False):
        raise ValueError("wrong usage")
    assert list(state.iterdir()) == []


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_last_line_that_was_cut_off_is_cut_away(cut: int) -> None:
    with open_journal(WHICH, fresh=False) as journal:
        for number in range(3):
            journal.add("memory", "sts 64", number, MEMORY)
        path = journal.path
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with open_journal(WHICH, fresh=False) as journal:
        assert [journal.has("memory", "sts 64", number) for number in range(3)] == [True, True, False]
        journal.add("memory", "sts 64", 2, MEMORY)
    assert path.read_bytes() == whole


def test_a_damaged_journal_names_its_line() -> None:
    with open_journal(WHICH, fresh=False) as journal:
        journal.add("memory", "sts 64", 0, {"variant": "sts 64"})
        path = journal.path
        with pytest.raises(OutputError, match=r"is damaged: memory: key .* is missing; --fresh begins again"):
            journal.get(Memory, "memory", "sts 64")
    path.write_bytes(path.read_bytes() + b"[]\n")
    with (
        pytest.raises(OutputError, match="line 3 is none of its entries; --fresh begins again"),
        open_journal(WHICH, False),
    ):
        pass
    with open_journal(WHICH, fresh=True) as journal:
        assert not journal.written


def test_the_same_sweep_cannot_run_twice_at_once() -> None:
    code = (
        "from edgeprune.sweep.journal import open_journal\n"
        "with open_journal({'bundle': 'abc', 'repeats': 3}, True): print('not refused')\n"
    )
    with open_journal(WHICH, fresh=False) as journal:
        journal.add("memory", "sts 64", 0, MEMORY)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "OutputError: the same sweep runs already" in done.stderr
        assert done.stdout == ""
    with open_journal(WHICH, fresh=False) as journal:
        assert journal.count("memory") == 1  # the other one has not touched it


def test_a_full_disk_is_told_and_costs_one_line() -> None:
    code = (
        "import resource\n"
        "from edgeprune.sweep.journal import open_journal\n"
        "with open_journal({'bundle': 'abc', 'repeats': 3}, False) as journal:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
        "    for number in range(100): journal.add('round', 'sts 64', number, number)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("edgeprune.errors.OutputError: cannot write the sweep's journal")
    assert last.endswith("File too large")
    with open_journal(WHICH, fresh=False) as journal:
        kept = journal.count("round")
        assert kept > 2
        assert all(journal.has("round", "sts 64", number) for number in range(kept))
        assert journal.path.read_bytes().endswith(b"}\n")


def test_words_may_be_any_bytes(state: Path) -> None:
    with open_journal({**WHICH, "keeps": ["\udcff"]}, fresh=False) as journal:
        journal.add("reply", "sts \udcff", 0, "\udcff")
    with open_journal({**WHICH, "keeps": ["\udcff"]}, fresh=False) as journal:
        assert journal.has("reply", "sts \udcff")
    assert len(list(state.iterdir())) == 1


def test_a_place_that_cannot_be_written(state: Path) -> None:
    state.parent.mkdir()
    state.write_text("a file where a folder should be")
    with pytest.raises(OutputError, match="cannot write the sweep's journal"), open_journal(WHICH, fresh=False):
        pass
    assert list(state.parent.iterdir()) == [state]
