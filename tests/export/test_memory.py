"""Exporting streams weights: its memory does not grow with the checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.random_checkpoint import write_checkpoint

LIBRARIES = 0.6 * 2**30  # what PyTorch, transformers and the exporter take for the smallest checkpoint, and some room


def export(checkpoint: Path, output: Path) -> tuple[int, int, int]:
    """Peak memory, the largest graph's weights and all weights, in bytes."""
    command = [sys.executable, "-m", "edgeprune", "export", str(checkpoint), "--method", "visiondrop"]
    done = subprocess.run([*command, "-o", str(output), "--json", "-q"], check=True, capture_output=True, text=True)
    report = json.loads(done.stdout.splitlines()[-1])
    weights = [graph["weight_bytes"] for graph in report["graphs"]]
    return report["peak_rss_bytes"], max(weights), sum(weights)


def test_no_more_than_a_graph_at_a_time(tmp_path: Path) -> None:
    checkpoint = write_checkpoint("tinyllama-4-layers", tmp_path / "checkpoint", dtype="fp16")
    peak, largest, total = export(checkpoint, tmp_path / "bundle")
    assert total > 3 * largest  # so that holding all weights could not pass
    assert peak <= LIBRARIES + 1.5 * largest  # half a graph for pages of the checkpoint that are mapped meanwhile


@pytest.mark.slow
def test_a_billion_parameters(tmp_path: Path) -> None:
    checkpoint = write_checkpoint("tinyllama-1.1b", tmp_path / "checkpoint", dtype="fp16")
    peak, largest, _ = export(checkpoint, tmp_path / "bundle")
    assert peak <= 2.5 * largest + 1.5 * 2**30
