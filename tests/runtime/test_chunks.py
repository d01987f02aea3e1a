"""How a prompt is cut into pieces; that they give the same is tested with every method and family elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.runtime.chain import Clock, Text
from edgeprune.runtime.ort import CHUNK, OrtBackend
from edgeprune.runtime.vlm import open_vlm

SEGMENTS = 4


@pytest.mark.parametrize(
    ("chunk", "sizes"), [(None, [71]), (36, [71]), (35, [35, 36]), (23, [23, 24, 24]), (1, [1] * 71), (CHUNK, [71])]
)
def test_pieces_of_about_one_size(
    bundle_tiny: Path, monkeypatch: pytest.MonkeyPatch, chunk: int | None, sizes: list[int]
) -> None:
    backend = OrtBackend(1)
    assert backend.chunk == CHUNK
    monkeypatch.setattr(backend, "chunk", chunk)
    with open_vlm(bundle_tiny, backend=backend, check_hashes=False) as vlm:
        run_graph, rows = vlm.chain.run_graph, []

        def watched(graph: Any, arrays: dict[str, Any], *others: Any) -> dict[str, Any]:
            if graph.role == "segment":
                rows.append(arrays["hidden"].shape()[1])
            return run_graph(graph, arrays, *others)

        monkeypatch.setattr(vlm.chain, "run_graph", watched)
        visual = np.zeros((1, 64, vlm.manifest.decoder.hidden), np.float32)
        prefill = vlm.chain.prefill_rows(visual, Text(((1, 5), (7, 9, 11, 4, 6))), None, None, Clock())
    assert rows == sizes * SEGMENTS
    assert {segment.length for segment in prefill.cache.segments} == {71}
