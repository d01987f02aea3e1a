"""Paint coloured shapes that do not overlap on a textured background, from a numpy generator.

Knows pixels and shapes; knows nothing of questions, patches or models. Masks and backgrounds are made on first
use, from fixed seeds, and kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 35),
    "green": (40, 165, 60),
    "blue": (40, 70, 215),
    "yellow": (235, 220, 45),
    "orange": (240, 135, 25),
    "purple": (130, 45, 165),
    "pink": (245, 145, 195),
    "cyan": (50, 205, 220),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross", "diamond")

_JITTER = 15  # of each colour channel, either way
_SIZE_STEP = 4  # px between the sizes that have a mask
_TURNS = (-12.0, -4.0, 4.0, 12.0)  # degrees
_GAP = 4  # px between the boxes of two shapes
_BACKGROUNDS, _BACKGROUND_SIDE = 24, 480
_OVERSAMPLE = 4


@dataclass(frozen=True)
class Shape:
    """One painted shape: its names, its centre (x, y) in pixels from the top left, and the side of its box."""

    color: str
    shape: str
    center: tuple[float, float]
    size: float


@dataclass(frozen=True)
class Canvas:
    """Painted pixels [side, side, 3] uint8, the shapes, and which shape owns each pixel (-1 for background)."""

    pixels: NDArray[np.uint8]
    shapes: tuple[Shape, ...]
    owner: NDArray[np.int8]


def paint(rng: np.random.Generator, side: int, count: int, smallest: int, largest: int) -> Canvas:
    """Paint ``count`` shapes (fewer if there is no room) with boxes of ``smallest`` to ``largest`` pixels."""
    canvas = _background(rng, side)
    owner = np.full((side, side), -1, np.int8)
    pairs = rng.choice(len(COLORS) * len(SHAPES), count, replace=False)  # distinct (colour, shape)
    names = tuple(COLORS)
    shapes: list[Shape] = []
    boxes: list[tuple[int, int, int]] = []
    for pair in pairs:
        box = _place(rng, side, boxes, smallest, largest)
        if box is None:
            continue
        x, y, size = box
        color, shape = names[pair // len(SHAPES)], SHAPES[pair % len(SHAPES)]
        mask = _mask(shape, size, int(rng.integers(len(_TURNS))))
        _fill(canvas[y : y + size, x : x + size], mask, _jittered(rng, color))
        owner[y : y + size, x : x + size][mask > 127] = len(shapes)
        boxes.append(box)
        shapes.append(Shape(color, shape, (x + size / 2, y + size / 2), float(size)))
    return Canvas(canvas, tuple(shapes), owner)


def _place(
    rng: np.random.Generator, side: int, boxes: list[tuple[int, int, int]], smallest: int, largest: int
) -> tuple[int, int, int] | None:
    """Find a free box (x, y, size) by trial; later trials are smaller, so that crowded canvases still fill."""
    for trial in range(40):
        top = largest if trial < 20 else max(smallest, (smallest + largest) // 2)
        size = smallest + _SIZE_STEP * int(rng.integers((top - smallest) // _SIZE_STEP + 1))
        x, y = (int(v) for v in rng.integers(0, side - size + 1, 2))
        if all(
            x >= bx + bs + _GAP or bx >= x + size + _GAP or y >= by + bs + _GAP or by >= y + size + _GAP
            for bx, by, bs in boxes
        ):
            return x, y, size
    return None


def _jittered(rng: np.random.Generator, color: str) -> NDArray[np.int32]:
    jitter = rng.integers(-_JITTER, _JITTER + 1, 3)
    return np.clip(np.asarray(COLORS[color]) + jitter, 0, 255).astype(np.int32)


def _fill(region: NDArray[np.uint8], mask: NDArray[np.uint8], color: NDArray[np.int32]) -> None:
    """Blend ``color`` into ``region`` in place."""
    old = region.astype(np.int32)
    region[:] = old + (color - old) * mask[:, :, None].astype(np.int32) // 255


@cache
def _mask(shape: str, size: int, turn: int) -> NDArray[np.uint8]:
    """An anti-aliased mask [size, size]; the turned outline stays inside the box."""
    big = size * _OVERSAMPLE
    image = Image.new("L", (big, big), 0)
    draw = ImageDraw.Draw(image)
    if shape == "circle":
        draw.ellipse((2, 2, big - 3, big - 3), fill=255)
    else:
        outline = _turned(_outline(shape), math.radians(_TURNS[turn]))
        half = big / 2
        draw.polygon([(half + x * (half - 2), half + y * (half - 2)) for x, y in outline], fill=255)
    return np.asarray(image.reduce(_OVERSAMPLE), dtype=np.uint8)


def _outline(shape: str) -> list[tuple[float, float]]:
    """Corners about the origin."""
    if shape == "square":
        return [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    if shape == "triangle":
        return [(0, -1), (1, 0.85), (-1, 0.85)]
    if shape == "diamond":
        return [(0, -1), (0.62, 0), (0, 1), (-0.62, 0)]
    if shape == "cross":
        a = 0.34
        quarter = [(-a, -1.0), (a, -1.0), (a, -a)]
        return [_rotate(p, math.pi / 2 * k) for k in range(4) for p in quarter]
    if shape == "star":
        return [_rotate((0, -1.0 if k % 2 == 0 else -0.42), math.pi / 5 * k) for k in range(10)]
    raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")


def _rotate(point: tuple[float, float], angle: float) -> tuple[float, float]:
    x, y = point
    return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)


def _turned(outline: list[tuple[float, float]], angle: float) -> list[tuple[float, float]]:
    turned = [_rotate(p, angle) for p in outline]
    reach = max(max(abs(x), abs(y)) for x, y in turned)
    return [(x / reach, y / reach) for x, y in turned]


def _background(rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """A random crop of a random texture, sometimes mirrored."""
    texture = _textures()[int(rng.integers(_BACKGROUNDS))]
    x, y = (int(v) for v in rng.integers(0, _BACKGROUND_SIDE - side + 1, 2))
    crop = texture[y : y + side, x : x + side]
    if rng.integers(2):
        crop = crop[:, ::-1]
    return np.array(crop)


@lru_cache(maxsize=1)
def _textures() -> tuple[NDArray[np.uint8], ...]:
    """Low-frequency clouds, fine noise and a faint tint, from a fixed seed."""
    rng = np.random.default_rng(20)
    textures = []
    for _ in range(_BACKGROUNDS):
        cells = int(rng.integers(3, 12))
        clouds = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
        soft = np.asarray(clouds.resize((_BACKGROUND_SIDE, _BACKGROUND_SIDE), Image.Resampling.BICUBIC))
        base, swing = rng.uniform(85, 175), rng.uniform(15, 60)
        tint = rng.uniform(-14, 14, 3)
        grain = rng.normal(0, rng.uniform(2, 8), (_BACKGROUND_SIDE, _BACKGROUND_SIDE, 1))
        texture = base + swing * (soft[:, :, None] / 127.5 - 1) + tint + grain
        textures.append(np.clip(texture, 0, 255).astype(np.uint8))
    return tuple(textures)
