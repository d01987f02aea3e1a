"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeprune.errors import OutputError, UsageError
from edgeprune.sweep.output import check_output, write_output


def test_a_file_is_replaced_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.html"
    path.write_text("old")
    check_output("--report", path, tmp_path / "bundle")
    assert path.read_text() == "old"
    write_output(path, "né\n")
    assert path.read_text(encoding="utf-8") == "né\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.html"]


def test_half_a_character_costs_no_report(tmp_path: Path) -> None:
    write_output(tmp_path / "out.html", "a\ud800b")
    assert (tmp_path / "out.html").read_text() == "a?b"


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "out.html").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write_output(tmp_path / "out.html", "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.html"]


def test_places_that_are_refused(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    with pytest.raises(OutputError, match="there is no folder"):
        check_output("--report", tmp_path / "nowhere" / "out.html", bundle)
    with pytest.raises(OutputError, match="it is a folder; give the name of a file"):
        check_output("--report", bundle, bundle)
    with pytest.raises(UsageError, match="lies in the bundle"):
        check_output("--markdown", bundle / "out.md", bundle)
    photo = tmp_path / "photo.png"
    with pytest.raises(UsageError, match="would overwrite an input"):
        check_output("--markdown", photo, bundle, [photo])


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_write_protection_is_told(tmp_path: Path) -> None:
    path = tmp_path / "out.html"
    path.write_text("old")
    path.chmod(0o400)
    with pytest.raises(OutputError, match="it is write-protected"):
        check_output("--report", path, tmp_path / "bundle")
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        check_output("--report", tmp_path / "other.html", tmp_path / "bundle")
    tmp_path.chmod(0o700)
