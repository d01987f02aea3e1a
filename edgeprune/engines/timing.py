"""Where tactic timings are kept, so that a second build of like layers is quick.

On the machine that measured them, never in a bundle: TensorRT reads the file as it is, and a bundle may come from
anywhere. TensorRT-RTX builds without a GPU, measures nothing, and has no such file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from edgeprune.engines.key import Conditions


def timing_cache(conditions: Conditions) -> Path:
    """The file for one library, version and device; its folder is made if need be."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    words = (conditions.library.name, conditions.device or "", *conditions.capabilities)
    name = re.sub(r"[^\w.]+", "-", " ".join(filter(None, words)))
    folder = base / "edgeprune" / "timing"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.cache"
