"""Batches of pictures as patches, with what each patch shows: the encoder's training targets.

Every picture comes from an integer seed of its own, below the held-out ones. Knows nothing of words or networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.demo.canvas import COLORS, SHAPES, Canvas, Shape, paint
from edgeprune.demo.scenes import HELD_OUT_SEED
from tools.demo_training.network import GRID, PATCH

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
CELLS = 7  # of the occupancy map, per side of a patch
COVERED, EMPTY = 0.2, 0.02  # of a patch: an object patch above, background below, neither between
_COLOR = {name: k + 1 for k, name in enumerate(COLORS)}
_SHAPE = {name: k + 1 for k, name in enumerate(SHAPES)}


@dataclass(frozen=True)
class View:
    """What a stage looks at: a window of ``grid`` x ``grid`` patches and the shapes painted on it."""

    grid: int
    fewest: int
    most: int
    smallest: int
    largest: int
    fixed: bool  # in the middle of the 24 x 24 table; anywhere on it otherwise


@dataclass(frozen=True)
class Pictures:
    """B pictures of N patches. ``place`` is the position in the 24 x 24 table, ``corner`` the window's (x, y)."""

    patches: torch.Tensor  # [B, N, 588] normalised
    place: torch.Tensor  # [B, N]
    color: torch.Tensor  # [B, N], 0 for background
    shape: torch.Tensor  # [B, N]
    weight: torch.Tensor  # [B, N]: 1 on objects, a little on background, 0 in doubt
    offset: torch.Tensor  # [B, N, 2] from the patch to its object's centre, in patches / 3
    center: torch.Tensor  # [B, N, 2] its object's centre in the whole table, -1 to 1
    occupancy: torch.Tensor  # [B, N, 49]
    presence: torch.Tensor  # [B, 48]
    shapes: tuple[tuple[Shape, ...], ...]
    corner: tuple[tuple[int, int], ...]
    seeds: tuple[int, ...]


def draw_pictures(view: View, seeds: range) -> Pictures:
    """Paint one picture per seed."""
    if seeds.stop > HELD_OUT_SEED:
        raise ValueError(f"seed {seeds.stop} is held out (from {HELD_OUT_SEED}); train on smaller ones")
    columns: list[tuple[NDArray[np.generic], ...]] = []
    shapes, corners = [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        room = GRID - view.grid
        x, y = (room // 2, room // 2) if view.fixed else (int(v) for v in rng.integers(0, room + 1, 2))
        count = int(rng.integers(view.fewest, view.most + 1))
        canvas = paint(rng, view.grid * PATCH, count, view.smallest, view.largest)
        columns.append(_columns(canvas, view.grid, x, y))
        shapes.append(canvas.shapes)
        corners.append((x, y))
    pixels, place, color, shape, weight, offset, center, occupancy, presence = (
        torch.from_numpy(np.stack(column)) for column in zip(*columns, strict=True)
    )
    mean = torch.tensor(MEAN).repeat_interleave(PATCH * PATCH)
    std = torch.tensor(STD).repeat_interleave(PATCH * PATCH)
    patches = (pixels.float() / 255 - mean) / std
    return Pictures(
        patches,
        place,
        color,
        shape,
        weight,
        offset,
        center,
        occupancy,
        presence,
        tuple(shapes),
        tuple(corners),
        tuple(seeds),
    )


def _columns(canvas: Canvas, grid: int, x: int, y: int) -> tuple[NDArray[np.generic], ...]:
    """One picture's fields, in the order of ``Pictures``."""
    n = grid * grid
    cut = canvas.pixels.reshape(grid, PATCH, grid, PATCH, 3)
    patches = cut.transpose(0, 2, 4, 1, 3).reshape(n, 3 * PATCH * PATCH)
    row, col = np.divmod(np.arange(n), grid)
    place = (row + y) * GRID + col + x

    owner = canvas.owner.reshape(grid, PATCH, grid, PATCH)
    shares = np.stack([(owner == k).mean((1, 3)).ravel() for k in range(len(canvas.shapes))])
    best, share = shares.argmax(0), shares.max(0)
    color_of = np.array([_COLOR[s.color] for s in canvas.shapes])
    shape_of = np.array([_SHAPE[s.shape] for s in canvas.shapes])
    center_of = np.array([s.center for s in canvas.shapes])
    on = share >= COVERED
    weight = np.where(on, 1.0, np.where(shares.sum(0) < EMPTY, 0.1, 0.0)).astype(np.float32)
    middle = np.stack((col, row), 1) * PATCH + PATCH / 2
    center = center_of[best]
    offset = ((center - middle) / PATCH / 3).astype(np.float32)
    absolute = ((center + np.array((x, y)) * PATCH) / (GRID * PATCH) * 2 - 1).astype(np.float32)

    cell = PATCH // CELLS
    inside = (canvas.owner >= 0).reshape(grid, CELLS, cell, grid, CELLS, cell).mean((2, 5))
    occupancy = inside.transpose(0, 2, 1, 3).reshape(n, CELLS * CELLS).astype(np.float32)
    presence = np.zeros(len(COLORS) * len(SHAPES), np.float32)
    presence[(color_of - 1) * len(SHAPES) + shape_of - 1] = 1
    color, shape = np.where(on, color_of[best], 0), np.where(on, shape_of[best], 0)
    return patches, place, color, shape, weight, offset, absolute, occupancy, presence
