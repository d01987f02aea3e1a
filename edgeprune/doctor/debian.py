"""What dpkg has installed, read from its status file; knows no package by name."""

from __future__ import annotations

import re
from pathlib import Path

from edgeprune.power.text import read_text


def version(root: Path, package: str) -> str | None:
    """Version of an installed Debian package below ``root``; None where it is not installed."""
    status = read_text(root / "var/lib/dpkg/status")
    entry = re.search(rf"^Package: {re.escape(package)}\n((?:.+\n?)*)", status, re.MULTILINE)
    if entry is None or "\nStatus: install ok installed" not in "\n" + entry[1]:
        return None
    found = re.search(r"^Version: (\S+)", entry[1], re.MULTILINE)
    return found[1] if found else None
