"""Small files of the system as text; one that is not there, or not ours to read, is empty."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str:
    """Its content without NULs and blanks at the ends; device-tree strings end with a NUL."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n\t")
    except OSError:
        return ""


def read_number(path: Path) -> int | None:
    """The number in it; None where it holds none."""
    text = read_text(path)
    return int(text) if text.isdecimal() else None
