"""edgeprune: vision-language models with visual-token pruning, exported to ONNX and run without PyTorch.

    vlm = edgeprune.open("bundle/")
    answer = vlm.generate("What is on the table?", images=["photo.jpg"], keep=64)
    for piece in vlm.stream("What is on the table?", images=["photo.jpg"], keep=64):
        print(piece, end="")

Importing this module loads nothing; what is used is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeprune.errors import EdgePruneError as EdgePruneError
    from edgeprune.runtime.answer import Answer as Answer
    from edgeprune.runtime.sampling import Sampling as Sampling
    from edgeprune.runtime.vlm import VLM as VLM
    from edgeprune.runtime.vlm import open_vlm as open

__all__ = ["VLM", "Answer", "EdgePruneError", "Sampling", "__version__", "open"]
__version__ = "0.1.0"

_HOMES = {
    "VLM": ("edgeprune.runtime.vlm", "VLM"),
    "Answer": ("edgeprune.runtime.answer", "Answer"),
    "EdgePruneError": ("edgeprune.errors", "EdgePruneError"),
    "Sampling": ("edgeprune.runtime.sampling", "Sampling"),
    "open": ("edgeprune.runtime.vlm", "open_vlm"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgeprune' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)
