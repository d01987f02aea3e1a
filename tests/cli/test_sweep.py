"""``edgeprune bench --sweep`` as users call it: its files, its signals, and every wrong input in one line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.sweep.broken import break_bundle

QUICK = ["--repeats", "2", "--new-tokens", "2", "--no-memory", "--threads", "1"]


@pytest.fixture(autouse=True)
def journals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "edgeprune" / "sweeps"


def test_all_of_it(edgeprune: Command, bundle_gqa: Path, tmp_path: Path, journals: Path) -> None:
    page, markdown = tmp_path / "out.html", tmp_path / "out.md"
    page.write_text("old")
    words = ["bench", bundle_gqa, "--sweep", "method=visiondrop", "keep=all,40,2", "--eval", "1", *QUICK]
    result = edgeprune(*words, "--report", page, "--markdown", markdown, "--json")
    assert result.code == 0, result.err
    assert "the questions were made for the demo model, not for tiny-gqa: see --data" in result.err
    assert "failed: visiondrop 2, budget: " in result.err
    assert "sweep 100%" in result.err
    assert f"written: {page}, {markdown}" in result.err
    value = json.loads(result.out)
    assert [cell["name"] for cell in value["cells"]] == ["all", "visiondrop 40", "visiondrop 2"]
    assert value["command"].startswith(f"edgeprune bench {bundle_gqa} --sweep method=visiondrop keep=all,40,2 --eval 1")
    assert value["questions"]["suited"] is False
    assert page.read_text().startswith("<!doctype html>")
    assert page.read_text().count("data:image/jpeg;base64,") == 2
    assert "its accuracy here says little" in page.read_text()
    assert markdown.read_text().startswith("# Pruning sweep of tiny-gqa\n")
    assert list(journals.iterdir()) == []


def test_quiet_and_without_words(edgeprune: Command, bundle_tiny: Path) -> None:
    """The usual budgets that a model of 64 tokens has, which is all of them."""
    result = edgeprune("bench", bundle_tiny, "--sweep", *QUICK, "-q")
    assert result.code == 0, result.err
    assert result.err == ""
    assert result.out.splitlines()[2].split()[0] == "all"
    assert "Nothing is recommended: accuracy decides, and none was measured" in result.out
    assert "{" not in result.out


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_killed_it_goes_on_where_it_stopped(
    bundle_gqa: Path, tmp_path: Path, journals: Path, sent: signal.Signals, code: int
) -> None:
    page = tmp_path / "out.html"
    page.write_text("old")
    words = [
        "bench",
        str(bundle_gqa),
        "--sweep",
        "keep=all,40,16",
        "--repeats",
        "60",
        "--new-tokens",
        "2",
        "--no-memory",
    ]
    command = [sys.executable, "-m", "edgeprune", *words, "--threads", "1", "--json", "--report", str(page)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while rounds(journals) < 20:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    if sent is signal.SIGINT:
        assert "what is finished is kept: the same command goes on from there" in err.splitlines()
        assert err.splitlines()[-1] == "edgeprune: interrupted"
    assert page.read_text() == "old"  # nothing is replaced before the sweep is complete
    finished = rounds(journals)
    assert 20 <= finished < 180
    (path,) = journals.iterdir()
    before = [json.loads(line) for line in path.read_text().split("\n")[1:] if line.endswith("}}")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"resuming: {finished} timed runs finished before; --fresh begins again" in done.stderr
    value = json.loads(done.stdout.splitlines()[-1])
    assert value["sittings"] == 2
    for cell in value["cells"]:
        times = cell["bench"]["ttft"]["times_ms"]
        kept = [line["value"]["ttft"] for line in before if (line["kind"], line["cell"]) == ("round", cell["name"])]
        assert len(times) == 60
        assert times[: len(kept)] == pytest.approx([seconds * 1e3 for seconds in kept], abs=1e-3)
    assert list(journals.iterdir()) == []
    assert "measured in 2 sittings" in page.read_text()
    assert [entry.name for entry in tmp_path.iterdir() if "partial" in entry.name] == []


def rounds(journals: Path) -> int:
    """Timed runs in the only journal, whole lines only."""
    paths = list(journals.iterdir()) if journals.is_dir() else []
    return sum(b'"kind": "round"' in line for path in paths for line in path.read_bytes().split(b"\n")[:-1])


def test_every_cell_failed(edgeprune: Command, bundle_gqa: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    break_bundle(bundle_gqa, folder)
    page = tmp_path / "out.html"
    words = ["bench", folder, "--sweep", "keep=40", "--report", page, *QUICK, "-q"]
    result = edgeprune(*words)
    assert result.code == 1
    assert result.line.startswith("edgeprune: error: every cell of the sweep failed; the first: ")
    assert "What could not be had" in page.read_text()
    assert [line.split("  ")[0] for line in result.out.splitlines()[2:4]] == ["all", "visiondrop 40"]
    assert result.out.splitlines()[3].endswith("failed")


# --- wrong input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sweep", "keeps=64"], "--sweep: unknown axis 'keeps'; did you mean keep=?"),
        (["--sweep", "keep="], "--sweep: keep= has an empty value"),
        (["--sweep", "keep=16", "keep=40"], "axis 'keep' is given twice"),
        (["--sweep", "keep=16,16"], "names '16' twice"),
        (["--sweep", "keep=abc"], "'abc' is no budget"),
        (["--sweep", "keep=\udcff"], "is no budget"),
        (["--sweep", "keep=2"], "no cell is within reach"),
        (["--sweep", "method=fastv"], "has no method 'fastv'; it has visiondrop"),
        (["--sweep", "method=visiondrop", "keep=all"], "has no effect at keep=all"),
        (["--sweep", "--keep", "16"], "--keep is an axis of --sweep: write keep=16 behind the bundle"),
        (["--sweep", "--method", "visiondrop"], "--method is an axis of --sweep: write method=visiondrop"),
        (["--sweep", "--against", "eager"], "--against has no effect with --sweep"),
        (["--sweep", "--dtype", "fp32"], "--dtype has no effect with --sweep"),
        (["--sweep", "--model", "x"], "--model has no effect with --sweep"),
        (["--sweep", "--fail-above", "5%"], "--fail-above has no effect without --compare"),
        (["keep=16"], "'keep=16' has no effect without --sweep"),
        (["--eval", "5"], "--eval has no effect without --sweep"),
        (["--data", "x"], "--data has no effect without --sweep"),
        (["--report", "x.html"], "--report has no effect without --sweep"),
        (["--markdown", "x.md"], "--markdown has no effect without --sweep"),
        (["--fresh"], "--fresh has no effect without --sweep"),
        (["--sweep", "--eval", "0"], "'--eval'"),
        (["--sweep", "--data", "nowhere.jsonl"], "--data nowhere.jsonl cannot be read"),
        (["--sweep", "--text-tokens", "5"], "--text-tokens 5 is too few"),
    ],
)
def test_words_and_options(
    edgeprune: Command, bundle_gqa: Path, journals: Path, words: list[str], message: str
) -> None:
    result = edgeprune("bench", bundle_gqa, *words, "-q")
    assert result.code == 2, result
    assert message in result.line
    assert result.out == ""
    assert not journals.exists() or list(journals.iterdir()) == []


def test_places(edgeprune: Command, bundle_gqa: Path, tmp_path: Path) -> None:
    def refuse(code: int, *words: object) -> str:
        result = edgeprune("bench", bundle_gqa, "--sweep", *words, "-q")
        assert result.code == code, result
        return result.line

    assert "there is no folder" in refuse(1, "--report", tmp_path / "nowhere" / "out.html")
    assert "it is a folder" in refuse(1, "--markdown", tmp_path)
    assert "lies in the bundle" in refuse(2, "--report", bundle_gqa / "out.html")
    both = tmp_path / "out"
    assert "both name" in refuse(2, "--report", both, "--markdown", both)
