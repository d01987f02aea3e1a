"""The README's numbers are those of the committed report."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import sample
from tools.bench_table import (
    END,
    METHODS_END,
    METHODS_START,
    NEXT_END,
    NEXT_START,
    START,
    VIDEO_END,
    VIDEO_START,
    main,
)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    source, readme = tmp_path / "bench.json", tmp_path / "README.md"
    source.write_text("some progress\n" + sample.report().to_json() + "\n")
    runs = tmp_path / "runs.json"
    runs.write_text(sample.of_runs(sample.report()).to_json() + "\n")
    blocks = ((METHODS_START, METHODS_END), (NEXT_START, NEXT_END), (VIDEO_START, VIDEO_END))
    others = "\n\n".join(f"{start}\n{end}" for start, end in blocks)
    readme.write_text(f"# Title\n\n{START}\nold\n{END}\n\n{others}\n\nThe end.\n")
    words = ["--json", str(source), "--readme", str(readme), "--methods", str(source)]
    return [*words, "--next", str(runs), "--video", str(runs)]


def test_writes_between_the_markers_and_nothing_else(arguments: list[str]) -> None:
    readme = Path(arguments[3])
    with pytest.raises(SystemExit, match=r"README\.md is stale, line 4 is 'old', the file says '\*\*Time"):
        main([*arguments, "--check"])
    assert "old" in readme.read_text()
    main(arguments)
    text = readme.read_text()
    assert text.startswith(f"# Title\n\n{START}\n**Time per stage**")
    assert text.endswith(f"{VIDEO_END}\n\nThe end.\n")
    runs = text.split(NEXT_START)[1].split(NEXT_END)[0]
    assert "| keep=64 | 96, 70, 52, 38 | 50.0 | 31.2% | 1 | 11.1% |" in runs
    assert "1 picture in 5 encoder runs, 60 text tokens, 2928 visual tokens unpruned" in runs
    assert "| keep=64 | 96, 70, 52, 38 | 64.0 |" in text.split(METHODS_START)[1]
    assert "- prefill: keep=64 is 4.60x faster than keep=all (FLOPs allow 5.10x: 0.90 of it)\n" in text
    assert "| keep=64 | 96, 70, 52, 38 |" in text
    assert "Conditions: m@01234567, fp32, onnxruntime-cpu (base graphs), 2 threads, 1 picture" in text
    main([*arguments, "--check"])


def test_check_sees_a_number_edited_by_hand(arguments: list[str]) -> None:
    main(arguments)
    readme = Path(arguments[3])
    readme.write_text(readme.read_text().replace("4.60x", "9.60x"))
    with pytest.raises(SystemExit, match=r"9\.60x"):
        main([*arguments, "--check"])


def test_what_is_missing_is_named(arguments: list[str], tmp_path: Path) -> None:
    source, readme = Path(arguments[1]), Path(arguments[3])
    readme.write_text(f"{END} {START}")
    with pytest.raises(SystemExit, match="must hold <!-- bench:start -->"):
        main(arguments)
    source.write_text("{}")
    with pytest.raises(SystemExit, match=r"no report of edgeprune bench --json.*'conditions' is missing"):
        main(arguments)
    source.write_text("not json")
    with pytest.raises(SystemExit, match="no report of edgeprune bench"):
        main(arguments)
    source.write_text("\n")
    with pytest.raises(SystemExit, match="is empty"):
        main(arguments)
    source.unlink()
    with pytest.raises(SystemExit, match="is missing: make it with edgeprune bench"):
        main(arguments)
    source.write_text(sample.report().to_json())
    readme.unlink()
    with pytest.raises(SystemExit, match="the table goes there"):
        main(arguments)
