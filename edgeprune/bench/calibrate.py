"""What ONNX Runtime reaches on this machine, measured in a few seconds.

It runs the feed-forward of a decoder layer with the very session that runs bundles: on many rows at once for operations
per second, on one row for the bandwidth at which weights are read. The graph ships without weights
(``tools/calibration_graph.py`` writes it); ONNX Runtime makes them when it loads it. Measures what is left of a busy
machine: the median of runs that follow each other, so what else runs meanwhile lowers it.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, cast

import numpy as np

from edgeprune.bench.host import versions
from edgeprune.bundle.manifest import File, Graph, Tensor
from edgeprune.errors import UsageError
from edgeprune.estimate.calibration import Calibration
from edgeprune.estimate.device import device_of
from edgeprune.runtime.backend import NUMPY, Array, Session
from edgeprune.runtime.ort import PROVIDERS, OrtBackend, Provider

HIDDEN, INTERMEDIATE = 2048, 5632
"""Of the graph: those of a model of 1.1 billion parameters. Its weights take 138 MB in fp32."""

Rate = tuple[float, float]
"""Operations and bytes per second."""

_DTYPES = ("fp32", "fp16")
_PRODUCTS = 3 * HIDDEN * INTERMEDIATE
"""Multiply-accumulates of one row, and weights of one copy."""
_ROWS = 256
_MOST_ROWS = 8192
_LONG_S = 0.05
"""A run of this length is long enough for its launch not to count; more rows are taken until one is."""
_SHARE_S = 1.8
"""Of the few seconds, the part for each of the two measurements."""
_RUNS = (3, 40)
"""The fewest and the most runs that count."""
_CACHES = 2
"""Weights are this many times as large as the last cache, so that reading them is reading memory."""
_MOST_COPIES = 8


def calibrate(threads: int, progress: bool = True, provider: str = "cpu", dtype: str = "fp32") -> Calibration:
    """Measure, and return what was found; keeping it is up to the caller (``write_calibration``).

    Takes about four seconds, longer where a single run takes longer than half a second.

    Args:
        threads: per operator, on the CPU; elsewhere it only labels the result.
        progress: draw a bar on stderr, where tqdm is installed and stderr is a terminal.
        provider: of ONNX Runtime: "cpu", "cuda".
        dtype: "fp32" or "fp16", of weights and activations.

    Raises:
        UsageError: an argument is not one of these.
        BackendError: the provider is missing, or does not run the graph.
        MissingExtra: onnxruntime is not installed.
    """
    with _bar(2 * _SHARE_S, progress) as advance:
        advance("loading", 0)
        calibrator = Calibrator(threads, provider, dtype)
        return calibrator.calibration([calibrator.rates(_SHARE_S, advance)])


class Calibrator:
    """The graph loaded, so that rates can be taken again and again.

    Args, errors: as for ``calibrate``.
    """

    def __init__(self, threads: int, provider: str = "cpu", dtype: str = "fp32") -> None:
        if provider not in PROVIDERS or provider == "tensorrt":
            raise UsageError(f"cannot calibrate provider {provider!r}; expected cpu or cuda")
        if dtype not in _DTYPES:
            raise UsageError(f"cannot calibrate dtype {dtype!r}; expected {' or '.join(_DTYPES)}")
        self._threads, self._dtype = threads, dtype
        self._backend = OrtBackend(threads, cast(Provider, provider))
        self._weights = _PRODUCTS * NUMPY[dtype].itemsize
        copies = copies_for(last_cache_bytes(), self._weights) if provider == "cpu" else 1
        path, graph = graph_path(dtype), _graph(dtype)
        self._sessions = [self._backend.session(graph, path) for _ in range(copies)]
        self._rows = _enough_rows(self._backend, self._sessions[0], dtype)

    def rates(self, seconds: float, advance: Callable[[str, float], None] = lambda text, seconds: None) -> Rate:
        """Operations and bytes per second now, each measured for so many seconds or three runs."""
        advance("one row", 0)
        one = _time(self._backend, self._sessions, 1, self._dtype, seconds, advance)
        advance("many rows", 0)
        many = _time(self._backend, self._sessions[:1], self._rows, self._dtype, seconds, advance)
        return 2 * self._rows * _PRODUCTS / many, self._weights / one

    def calibration(self, rates: Sequence[Rate]) -> Calibration:
        """What was found: the middle of several measurements."""
        flops, bandwidth = (statistics.median(values) for values in zip(*rates, strict=True))
        return Calibration(
            device=device_of(self._backend.name),
            backend=self._backend.name,
            threads=self._threads,
            dtype=self._dtype,
            flops=float(round(flops)),
            bandwidth=float(round(bandwidth)),
            versions=versions(),
            measured=datetime.date.today().isoformat(),
        )


def graph_path(dtype: str) -> Path:
    """Where the graph of an element type ships."""
    return Path(__file__).with_name(f"calibration_{dtype}.onnx")


def copies_for(cache_bytes: int, weight_bytes: int) -> int:
    """How many copies of the weights are read in turn, so that none of them is still in a cache of that size."""
    return min(_MOST_COPIES, max(1, math.ceil(_CACHES * cache_bytes / weight_bytes)))


def last_cache_bytes(root: Path = Path("/sys/devices/system/cpu")) -> int:
    """All third-level caches of this machine together; 0 where it does not say.

    Args:
        root: where Linux lists the processors.
    """
    caches: dict[str, int] = {}
    for folder in root.glob("cpu[0-9]*/cache/index3"):
        try:
            shared = (folder / "shared_cpu_list").read_text(encoding="ascii").strip()
            size = (folder / "size").read_text(encoding="ascii").strip()
            caches[shared] = int(size.removesuffix("K")) * 1024
        except (OSError, ValueError):
            continue
    return sum(caches.values())


def _graph(dtype: str) -> Graph:
    """The graph as a bundle would list it; its file is given to the session beside it."""
    kind = cast(Literal["fp32", "fp16"], dtype)
    path = graph_path(dtype)
    file = File(path.name, path.stat().st_size, "0" * 64)
    ends = [Tensor(name, kind, ("rows", HIDDEN)) for name in ("x", "y")]
    return Graph("calibration", "project", file, None, None, (ends[0],), (ends[1],))


def _enough_rows(backend: OrtBackend, session: Session, dtype: str) -> int:
    """Rows on which one run is long, or the most."""
    rows = _ROWS
    while rows < _MOST_ROWS:
        feeds = _feeds(backend, rows, dtype)
        _run(backend, session, feeds)
        if _run(backend, session, feeds) >= _LONG_S:
            break
        rows *= 2
    return rows


def _time(
    backend: OrtBackend,
    sessions: list[Session],
    rows: int,
    dtype: str,
    share: float,
    advance: Callable[[str, float], None],
) -> float:
    """The median time of a run in seconds, after one of each session that does not count."""
    feeds = _feeds(backend, rows, dtype)
    for session in sessions:
        _run(backend, session, feeds)
    fewest, most = _RUNS
    seconds: list[float] = []
    while len(seconds) < fewest or (len(seconds) < most and sum(seconds) < share):
        seconds.append(_run(backend, sessions[len(seconds) % len(sessions)], feeds))
        advance("", seconds[-1])
    return statistics.median(seconds)


def _feeds(backend: OrtBackend, rows: int, dtype: str) -> dict[str, Array]:
    return {"x": backend.array(np.ones((rows, HIDDEN), dtype=NUMPY[dtype]))}


def _run(backend: OrtBackend, session: Session, feeds: dict[str, Array]) -> float:
    start = perf_counter()
    session.run(feeds)
    backend.wait()
    return perf_counter() - start


@contextlib.contextmanager
def _bar(total: float, progress: bool) -> Iterator[Callable[[str, float], None]]:
    make: Any = None
    if progress:
        with contextlib.suppress(ImportError):
            make = importlib.import_module("tqdm").tqdm
    if make is None:
        yield lambda text, seconds: None
        return
    bar_format = "{desc} {bar:20} {elapsed}{postfix}"
    with make(total=total, desc="calibrating", leave=False, disable=None, bar_format=bar_format) as bar:

        def advance(text: str, seconds: float) -> None:
            if text:
                bar.set_postfix_str(text)
            bar.update(min(seconds, total - bar.n))

        yield advance
