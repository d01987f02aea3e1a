"""Put a batch's tensors on a device."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

import torch

from tools.demo_training.packing import Packed
from tools.demo_training.pictures import Pictures

Batch = TypeVar("Batch", Pictures, Packed)


def placed(batch: Batch, device: str) -> Batch:
    """``batch`` with every tensor on ``device``."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    moved: dict[str, Any] = {
        name: value.to(device) for name, value in values.items() if isinstance(value, torch.Tensor)
    }
    return replace(batch, **moved)
