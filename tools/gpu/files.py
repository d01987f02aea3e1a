"""A report on disk, as JSON and as Markdown; a run that is killed leaves the last ones whole."""

from __future__ import annotations

from pathlib import Path

from edgeprune.errors import OutputError
from tools.gpu.report import NAME, Report
from tools.gpu.table import markdown


def save(report: Report, folder: Path) -> None:
    """Write ``gpu_check.json`` and ``gpu_check.md``.

    Raises:
        OutputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in ((f"{NAME}.json", report.to_json()), (f"{NAME}.md", markdown(report))):
            work = folder / f".{name}.partial"
            work.write_text(text + "\n", encoding="utf-8")
            work.replace(folder / name)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
