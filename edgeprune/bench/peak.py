"""What this machine reaches with numpy's BLAS: the child process that ``host`` starts.

A process of its own, because a BLAS reads its number of threads from the environment once, when it loads. Prints
one JSON object: ``flops`` (fp32 operations per second, two per multiply-accumulate) and ``bandwidth`` (bytes per
second read from memory). Imports nothing of edgeprune.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import numpy as np
from numpy.typing import NDArray


def main(arguments: list[str]) -> None:
    """Measure; arguments are threads, repeats, edge of the matrix product, megabytes read."""
    threads, repeats, edge, megabytes = (int(argument) for argument in arguments)
    flops = measure_flops(repeats, edge)
    bandwidth = measure_bandwidth(threads, repeats, megabytes * 1_000_000)
    print(json.dumps({"flops": flops, "bandwidth": bandwidth}))


def measure_flops(repeats: int, edge: int) -> float:
    """Best rate of a square fp32 matrix product."""
    random = np.random.default_rng(0)
    a = random.standard_normal((edge, edge), dtype=np.float32)
    b = random.standard_normal((edge, edge), dtype=np.float32)
    out = np.empty_like(a)
    return 2 * edge**3 / _best(lambda: np.matmul(a, b, out=out), repeats)


def measure_bandwidth(threads: int, repeats: int, size_bytes: int) -> float:
    """Best rate of reading an array larger than the caches: a matrix times a vector, and a maximum per thread.

    The two read the same bytes; which one is faster differs between machines.
    """
    columns = 4096
    matrix = np.ones((max(threads, size_bytes // 4 // columns), columns), dtype=np.float32)
    vector = np.ones(columns, dtype=np.float32)
    parts = np.array_split(matrix, threads)
    with ThreadPoolExecutor(threads) as pool:

        def maxima() -> None:
            for _ in pool.map(_maximum, parts):
                pass

        seconds = min(_best(lambda: matrix @ vector, repeats), _best(maxima, repeats))
    return matrix.nbytes / seconds


def _maximum(part: NDArray[np.float32]) -> float:
    return float(part.max())  # numpy gives up the interpreter's lock while it reduces


def _best(call: Callable[[], object], repeats: int) -> float:
    """Shortest time of a call, in seconds, after one that does not count."""
    call()
    seconds = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        seconds.append(perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
