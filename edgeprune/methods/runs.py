"""The encoder's runs of one prompt, tiles or frames or pictures, where they have something to settle together."""

from __future__ import annotations

import torch


def most_of_prompt(value: torch.Tensor, runs: torch.Tensor) -> torch.Tensor:
    """The largest value among the runs of the same prompt.

    Args:
        value: [C, 1], finite; the runs of a prompt stand together.
        runs: int64 scalar, how many they are; C is a multiple.

    Returns:
        [C, 1].
    """
    run = torch.arange(value.shape[0], device=value.device)
    # Counted multiples, not a quotient, which would be exported by way of fp32.
    prompt = ((run[None, :] + 1) * runs <= run[:, None]).to(torch.int32).sum(dim=1, dtype=torch.int32)
    other = prompt[None, :] != prompt[:, None]
    return value.transpose(0, 1).masked_fill(other, torch.finfo(value.dtype).min).amax(dim=1, keepdim=True)
