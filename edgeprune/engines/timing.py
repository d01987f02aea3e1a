"""Where tactic timings are kept, so that a second build of like layers is quick.

On the machine that measured them, never in a bundle: TensorRT reads the file as it is, and a bundle may come from
anywhere. TensorRT-RTX builds without a GPU, measures nothing, and has no such file.
"""

from __future__ import annotations

import re
from pathlib import Path

from edgeprune.engines.key import Conditions
from edgeprune.local import cache_folder


def timing_cache(conditions: Conditions) -> Path | None:
    """The file for one library, version and device; None where nothing is measured or there is no place for it."""
    folder = None if conditions.library.flavour == "tensorrt-rtx" else cache_folder()
    if folder is None:
        return None
    words = ("timing", conditions.library.name, conditions.device or "", *conditions.capabilities)
    return folder / f"{re.sub(r'[^A-Za-z0-9.]+', '-', ' '.join(filter(None, words)))}.cache"
