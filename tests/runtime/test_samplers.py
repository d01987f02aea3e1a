"""Choosing rows on the host, against the references' loops and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeprune.runtime.samplers import SAMPLERS, dpp, repulsion
from tests.reference import cdpruner, sts

Floats = NDArray[np.float32]
SIDE = 4
ROWS = SIDE**2


def similarity(seed: int, rows: int = ROWS, width: int = 40) -> Floats:
    """A kernel as CDPruner makes it: cosines, weighted on both sides."""
    rng = np.random.default_rng(seed)
    return np.asarray(cdpruner.kernel(rng.normal(size=(rows, width)), rng.uniform(0.1, 1, rows)), dtype=np.float32)


def repelling(seed: int, keep: int = 5) -> tuple[Floats, Floats]:
    """A potential and a start as STS makes them."""
    rng = np.random.default_rng(seed)
    phi = sts.potential(rng.normal(size=(ROWS, 24)), SIDE, keep)
    start = sts.start_energy(rng.uniform(0, 1, ROWS))
    return np.asarray(phi, dtype=np.float32), np.asarray(start, dtype=np.float32)


def by_determinants(kernel: Floats, count: int) -> list[int]:
    """Each time the row that makes the determinant of all chosen ones largest."""
    wide, chosen = kernel.astype(np.float64), list[int]()
    for _ in range(count):
        left = [row for row in range(len(wide)) if row not in chosen]
        volume = [np.linalg.slogdet(wide[np.ix_([*chosen, row], [*chosen, row])])[1] for row in left]
        chosen.append(left[int(np.argmax(volume))])
    return sorted(chosen)


def by_sums(kernel: Floats, start: Floats, count: int) -> list[int]:
    """Each time the row left with the least of its start and what the chosen ones add, summed anew."""
    chosen: list[int] = []
    for _ in range(count):
        left = [row for row in range(len(start)) if row not in chosen]
        energy = [start[row] + sum(kernel[pick, row] for pick in chosen) for row in left]
        chosen.append(left[int(np.argmin(energy))])
    return sorted(chosen)


def check_form(found: NDArray[np.int64], batch: int, count: int) -> None:
    assert found.shape == (batch, count)
    assert found.dtype == np.int64
    assert (np.diff(found, axis=1) > 0).all()  # ascending, no row twice
    assert found.min() >= 0 and found.max() < ROWS


# --- determinantal point process ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [1, 2, 5, 9, ROWS - 1, ROWS])
def test_dpp_is_the_reference_and_the_largest_determinant(seed: int, count: int) -> None:
    kernel = similarity(seed)
    found = dpp({"kernel": kernel[None]}, count)
    check_form(found, 1, count)
    assert found[0].tolist() == sorted(cdpruner.greedy_map(kernel.astype(np.float64), count))
    assert found[0].tolist() == by_determinants(kernel, count)


def test_dpp_breaks_ties_by_the_lower_row() -> None:
    """All rows are alike in pairs, so that every step has a tie."""
    assert dpp({"kernel": np.eye(ROWS, dtype=np.float32)[None]}, 5)[0].tolist() == [0, 1, 2, 3, 4]
    twins = np.kron(np.diag(np.arange(8, 0, -1)), np.ones((2, 2))).astype(np.float32)
    assert dpp({"kernel": twins[None]}, 8)[0].tolist() == list(range(0, ROWS, 2))  # then its twin adds nothing


def test_dpp_beyond_the_rank_still_gives_rows() -> None:
    """Rows of width 3: after three of them nothing is left to explain."""
    for seed in range(4):
        for count in (4, 10, ROWS):
            check_form(dpp({"kernel": similarity(seed, width=3)[None]}, count), 1, count)
    check_form(dpp({"kernel": np.zeros((1, ROWS, ROWS), dtype=np.float32)}, 6), 1, 6)


# --- repulsion ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [1, 2, 5, 9, ROWS - 1, ROWS])
def test_repulsion_is_the_reference_and_the_least_sum(seed: int, count: int) -> None:
    kernel, start = repelling(seed, count)
    found = repulsion({"kernel": kernel[None], "start": start[None]}, count)
    check_form(found, 1, count)
    assert found[0].tolist() == sts.greedy(kernel.astype(np.float64), start.astype(np.float64), SIDE, count).tolist()
    assert found[0].tolist() == by_sums(kernel, start, count)


def test_repulsion_breaks_ties_by_the_lower_row() -> None:
    nothing = np.zeros((1, ROWS), dtype=np.float32)
    for level in (0.0, 0.5):
        even = np.full((1, ROWS, ROWS), level, dtype=np.float32)
        assert repulsion({"kernel": even, "start": nothing}, 5)[0].tolist() == [0, 1, 2, 3, 4]
    pairs = np.kron(np.eye(8), np.ones((2, 2))).astype(np.float32)[None]
    assert repulsion({"kernel": pairs, "start": nothing}, 8)[0].tolist() == list(range(0, ROWS, 2))
    assert repulsion({"kernel": pairs, "start": nothing}, 9)[0].tolist() == [0, 1, *range(2, ROWS, 2)]


def test_repulsion_reads_the_row_of_what_is_chosen() -> None:
    """Row j of the kernel is what choosing j adds, which matters where it is not symmetric."""
    kernel = np.zeros((3, 3), dtype=np.float32)
    kernel[0, 1], kernel[1, 2] = 1.0, 9.0
    start = np.array([0.0, 0.1, 0.2], dtype=np.float32)
    assert repulsion({"kernel": kernel[None], "start": start[None]}, 2)[0].tolist() == [0, 2]


def test_a_row_is_never_chosen_twice_however_strong_the_others_repel() -> None:
    kernel = np.full((1, ROWS, ROWS), 1e12, dtype=np.float32)
    assert repulsion({"kernel": kernel, "start": np.zeros((1, ROWS), np.float32)}, ROWS)[0].tolist() == list(
        range(ROWS)
    )


# --- both ---------------------------------------------------------------------------------------------------------


def outputs(sampler: str, seeds: tuple[int, ...]) -> dict[str, Floats]:
    if sampler == "dpp":
        return {"kernel": np.stack([similarity(seed) for seed in seeds])}
    kernels, starts = zip(*(repelling(seed) for seed in seeds), strict=True)
    return {"kernel": np.stack(kernels), "start": np.stack(starts)}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_images_do_not_see_each_other(sampler: str) -> None:
    choose, seeds = SAMPLERS[sampler], (3, 1, 7)
    together = choose(outputs(sampler, seeds), 6)
    check_form(together, 3, 6)
    alone = [choose(outputs(sampler, (seed,)), 6)[0].tolist() for seed in seeds]
    assert together.tolist() == alone
    assert alone[0] != alone[1] != alone[2]
    assert choose(outputs(sampler, seeds[::-1]), 6).tolist() == alone[::-1]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_all_rows_are_all_rows(sampler: str) -> None:
    found = SAMPLERS[sampler](outputs(sampler, (0, 1)), ROWS)
    assert found.tolist() == [list(range(ROWS))] * 2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_read_is_not_written(sampler: str) -> None:
    """A backend may hand out its own memory."""
    read = outputs(sampler, (2,))
    before = {name: value.copy() for name, value in read.items()}
    for value in read.values():
        value.setflags(write=False)
    SAMPLERS[sampler](read, 5)
    for name, value in before.items():
        np.testing.assert_array_equal(read[name], value)


def test_the_names_are_the_manifests() -> None:
    from typing import get_args

    from edgeprune.bundle.manifest import Sampler

    assert set(SAMPLERS) == set(get_args(Sampler))
