"""What every method has to beat: patches chosen without looking at them, evenly or at random.

Both drop rows at the encoder's output, class row included. `UNIFORM` and `RANDOM` are references as a driver
takes them; `uniform` and `random` are their stages.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from tests.reference.pruning import Pruned, Stage, Tower

_PRIME = 2**31 - 1  # squares stay below 2**62: a graph can compute them in int64


def uniform_patches(patches: int, keep: int) -> list[int]:
    """Give the middles of `keep` equal spans of the patches."""
    return [(2 * i + 1) * patches // (2 * keep) for i in range(keep)]


def random_score(patch: int, seed: int) -> int:
    """Give a pseudo-random integer for a patch: a quadratic congruence, iterated four times."""
    x = ((patch + 1) * 40503 + seed * 1000003) % _PRIME
    for _ in range(4):
        x = (x * x + 1013904223 + patch) % _PRIME
    return x


def random_patches(patches: int, keep: int, seed: int) -> list[int]:
    """Give the patches with the largest `random_score`, ascending; of equal ones the lower patch wins."""
    order = sorted(range(patches), key=lambda j: (-random_score(j, seed), j))
    return sorted(order[:keep])


def _patches(tower: Tower, stage: Stage) -> int:
    patches = len(tower.patches)
    if stage.merge:
        raise ValueError("dropped rows are not merged")
    if not 1 <= stage.keep <= patches:
        raise ValueError(f"cannot take {stage.keep} of {patches} patches")
    return patches


def _take(tower: Tower, chosen: list[int]) -> Pruned:
    kept = np.asarray(chosen, dtype=np.int64)
    return Pruned(tower.patches[kept], kept)


def uniform(tower: Tower, stage: Stage) -> Pruned:
    """Keep evenly spread patches."""
    return _take(tower, uniform_patches(_patches(tower, stage), stage.keep))


def random(tower: Tower, stage: Stage) -> Pruned:
    """Keep patches that depend on their count and the seed alone."""
    return _take(tower, random_patches(_patches(tower, stage), stage.keep, stage.seed))


def cuts(layers: int) -> tuple[int, ...]:
    """Give no cut, at any depth."""
    return ()


UNIFORM = SimpleNamespace(POSITIONS="repack", cuts=cuts, vision=uniform)
RANDOM = SimpleNamespace(POSITIONS="repack", cuts=cuts, vision=random)
