"""Changes to the files of a checkpoint that a test wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def change(folder: Path, file: str, **values: Any) -> None:
    """Replace keys of a JSON file; None removes one."""
    path = folder / file
    merged = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps({key: value for key, value in merged.items() if value is not None}), encoding="utf-8")


def drop_tensor(folder: Path, name: str) -> None:
    """Remove a tensor from model.safetensors."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})
