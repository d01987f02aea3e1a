"""The demo model: a small LLaVA trained from nothing on drawn scenes, its pictures, and the scenes themselves.

Where the files lie, nothing more; ``scenes`` draws, ``checkpoint`` is a Hugging Face directory like any other.
"""

from __future__ import annotations

from pathlib import Path

CHECKPOINT: Path = Path(__file__).parent / "checkpoint"
PICTURES: Path = Path(__file__).parent / "pictures"

__all__ = ["CHECKPOINT", "PICTURES"]
