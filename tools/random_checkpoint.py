"""Writes a checkpoint of random weights, in the layout of the checkpoints on the Hugging Face hub.

    python tools/random_checkpoint.py --shape tiny DIR

For tests (``tiny*``, milliseconds) and for measuring a real size without downloading it. Answers are noise. What a
checkpoint holds is its family's, in ``random_families``. Knows nothing of edgeprune: only the Hugging Face layout.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

if not __package__:  # run as a file, Python looks beside it only
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.random_families import internvl, llava, llava_next, llava_onevision, qwen2_5_vl, video_llava
from tools.random_families.clip import write_clip
from tools.random_families.llava import (
    CHAT_TEMPLATE,
    Shape,
    make_config,
    parameters,
    write_processing,
    write_tokenizer,
)
from tools.random_families.pieces import DTYPES, SHARD_BYTES, Decoder, Parameter, Tower, split_shards, write_json

__all__ = [
    "CHAT_TEMPLATE",
    "DTYPES",
    "FAMILIES",
    "SHAPES",
    "Decoder",
    "Parameter",
    "Shape",
    "Tower",
    "make_config",
    "parameters",
    "split_shards",
    "write_checkpoint",
    "write_clip",
    "write_json",
    "write_processing",
    "write_tokenizer",
]

SHAPES = llava.SHAPES
"""Those of LLaVA-1.5, the family that the other names of this file are of."""

_MODULES: tuple[Any, ...] = (llava, llava_next, video_llava, llava_onevision, qwen2_5_vl, internvl)

FAMILIES: dict[str, Any] = {shape: module for module in _MODULES for shape in module.SHAPES}
"""Every shape's name, and the file of ``random_families`` that writes it."""


def write_checkpoint(
    shape: str,
    out: Path,
    seed: int = 0,
    dtype: str = "fp32",
    *,
    max_shard_bytes: int = SHARD_BYTES,
    progress: bool = False,
) -> Path:
    """Writes weights, configuration, tokenizer and processor of a named shape.

    Args:
        shape: a key of ``FAMILIES``.
        out: a directory that does not exist or is empty.
        seed: the same seed gives the same numbers, however they are sharded.
        dtype: a key of ``DTYPES``.
        max_shard_bytes: a shard is closed before it would exceed this; a larger tensor gets its own.
        progress: whether to draw a bar on stderr.

    Returns:
        ``out``.

    Raises:
        ValueError: the shape or dtype has no such name.
        FileExistsError: ``out`` holds files.
    """
    if shape not in FAMILIES:
        raise ValueError(f"unknown shape {shape!r}; choose from {', '.join(FAMILIES)}")
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; choose from {', '.join(DTYPES)}")
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty")
    out.mkdir(parents=True, exist_ok=True)
    FAMILIES[shape].write(shape, out, seed, dtype, max_shard_bytes=max_shard_bytes, progress=progress)
    return out


def _bytes(text: str) -> int:
    """``"2GB"`` in bytes; decimal units, as Hugging Face counts shards."""
    match = re.fullmatch(r"(\d+)(B|KB|MB|GB)?", text.upper())
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write for example 500MB or 2GB")
    return int(match[1]) * {None: 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}[match[2]]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write a random checkpoint in Hugging Face format.")
    parser.add_argument("out", type=Path, metavar="OUT", help="a directory that does not exist or is empty")
    parser.add_argument("--shape", required=True, choices=FAMILIES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=DTYPES, default="fp16")
    parser.add_argument("--max-shard-size", type=_bytes, default="2GB", dest="max_shard_bytes", metavar="SIZE")
    options = parser.parse_args(arguments)
    try:
        write_checkpoint(**vars(options), progress=True)
    except OSError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
