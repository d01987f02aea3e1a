"""A bundle's method graphs beside their eager modules, and random inputs for both by the names that graphs read."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeprune.budget.schedule import Schedule, Site, Stage, make_schedule, reach
from edgeprune.bundle.manifest import Graph, MethodEntry, Place, Tensor
from edgeprune.bundle.store import open_bundle
from edgeprune.checkpoint.config import read_config
from edgeprune.checkpoint.weights import Weights
from edgeprune.families.llava import Llava
from edgeprune.methods import method as methods
from edgeprune.runtime.ort import OrtBackend
from edgeprune.runtime.samplers import SAMPLERS

BEFORE, BETWEEN, AFTER = 5, 2, 7  # rows of text: before, between and behind the pictures
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Station:
    """One graph of a method that prunes: where, what runs before it on the host, and its eager modules."""

    entry: MethodEntry
    at: Place | int
    graph: Graph
    module: nn.Module
    kernel: Graph | None
    kernel_module: nn.Module | None
    sampler: str | None


class Rig:
    """A bundle and the checkpoint it was made from."""

    def __init__(self, bundle: Path, checkpoint: Path) -> None:
        self.bundle = open_bundle(bundle, check_hashes=False)
        self.manifest = self.bundle.manifest
        self.family = Llava(read_config(checkpoint, "llava"), Weights(checkpoint))
        self._backend = OrtBackend(1)
        self._sessions: dict[str, Any] = {}

    @property
    def patches(self) -> int:
        return self.manifest.vision.tokens

    def schedule(self, name: str, visual: int, share: float = 0.4) -> Schedule:
        """A middling budget of a method for so many visual rows."""
        entry = self.manifest.method(name)
        assert entry is not None
        site = Site(visual, entry.places, self.manifest.decoder.layers)
        low, high = reach(name, site)
        return make_schedule(name, round(low + share * (high - low)), site)

    def stations(self, name: str, dtype: torch.dtype = torch.float32) -> Iterator[Station]:
        entry, record = self.manifest.method(name), methods.load(name)
        assert entry is not None
        for cut in entry.cuts:
            kernel = self.manifest.graph(cut.kernel) if cut.kernel else None
            made = record.kernel(self.family.vision_facts) if record.kernel and kernel else None
            module = self.module(record, cut.at, dtype)
            yield Station(entry, cut.at, self.manifest.graph(cut.graph), module, kernel, made, cut.sampler)

    def module(self, record: methods.Method, at: Place | int, dtype: torch.dtype) -> nn.Module:
        if isinstance(at, int):
            assert record.decoder_cut is not None
            cut, positions = record.decoder_cut, record.positions
            return self.family.cut(lambda config, fused: cut(config, fused, positions), at, False).load(dtype)
        if at == "encoder":
            assert record.encoder is not None
            return self.family.encoder(record.encoder, False).load(dtype)
        make = record.vision if at == "vision" else record.projected
        assert make is not None
        return make(self.family.vision_facts).eval()

    def inputs(
        self, station: Station, stage: Stage, visual: int, batch: int, seed: int = 0, pictures: int = 1
    ) -> Arrays:
        """Random arrays for a graph, the rows that a sampler chose among them.

        Args:
            station, stage: what prunes, and how much.
            visual: rows of a run before the decoder, of a prompt inside it.
            batch: of runs or of prompts.
            seed: of the numbers.
            pictures: that a prompt's visual rows belong to, with text between; before the decoder the runs of a prompt.
        """
        rng = np.random.default_rng(seed)
        rows = visual_rows(visual, pictures)
        scalars = {"keep": stage.keep, "merge": stage.merge, "seed": seed, "runs": pictures, "text_after": AFTER}
        axes = {"B": batch, "C": batch, "S": int(rows[-1]) + 1 + AFTER, "t": AFTER, "q": 3, "V": visual}
        axes |= {"N": visual, "K": stage.keep}
        found: Arrays = {
            "visual_rows": np.tile(rows, (batch, 1)),
            "position_ids": np.tile(np.arange(axes["S"]), (batch, 1)),
        }
        for tensor in (*(station.kernel.inputs if station.kernel else ()), *station.graph.inputs):
            if tensor.name not in found and tensor.name != "chosen":
                found[tensor.name] = _random(tensor, axes, scalars, rng)
        if station.kernel is not None:
            assert station.kernel_module is not None and station.sampler is not None
            kernel = eager(station.kernel_module, station.kernel, found)
            found["chosen"] = SAMPLERS[station.sampler](kernel, stage.keep)
        return found

    def run(self, graph: Graph, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
        """The exported graph's outputs by name."""
        if graph.name not in self._sessions:
            self._sessions[graph.name] = self._backend.session(graph, self.bundle.path(graph.file))
        feeds = {t.name: self._backend.array(arrays[t.name]) for t in graph.inputs}
        return {name: self._backend.numpy(value) for name, value in self._sessions[graph.name].run(feeds).items()}


def eager(module: nn.Module, graph: Graph, arrays: Mapping[str, NDArray[Any]], half: bool = False) -> Arrays:
    """An eager module's outputs by the graph's names."""
    tensors = (torch.from_numpy(arrays[tensor.name]) for tensor in graph.inputs)
    real = {tensor.name for tensor in graph.inputs if not tensor.name.startswith(_ALWAYS_FP32)}
    feeds = [
        value.half() if half and tensor.name in real and value.is_floating_point() else value
        for tensor, value in zip(graph.inputs, tensors, strict=True)
    ]
    with torch.no_grad():
        results = module(*feeds)
    results = (results,) if isinstance(results, torch.Tensor) else results
    return {tensor.name: value.numpy() for tensor, value in zip(graph.outputs, results, strict=True)}


_ALWAYS_FP32 = ("cls_attention_", "key_", "rater", "kernel", "start", "text_embeds")


def arguments(module: nn.Module) -> tuple[str, ...]:
    return tuple(inspect.signature(module.forward).parameters)


def visual_rows(visual: int, pictures: int) -> NDArray[np.int64]:
    """Which rows of a prompt are visual, where the pictures are as large as each other or the last is smaller."""
    row = np.arange(visual)
    return BEFORE + row + BETWEEN * (row // -(-visual // pictures))


def rows_in(station: Station, arrays: Arrays) -> NDArray[Any] | None:
    """The rows that a station prunes; None where it starts from pixels."""
    if isinstance(station.at, int):
        return np.take_along_axis(arrays["hidden"], arrays["visual_rows"][:, :, None], axis=1)
    return arrays.get("visual" if station.at == "projected" else "features")


def rows_out(station: Station, outputs: Arrays) -> NDArray[Any]:
    """The visual rows that a station leaves."""
    if isinstance(station.at, int):
        return np.take_along_axis(outputs["hidden_out"], outputs["visual_rows_out"][:, :, None], axis=1)
    return next(value for name, value in outputs.items() if name != "kept")


def _random(tensor: Tensor, axes: Mapping[str, int], scalars: Mapping[str, int], rng: np.random.Generator) -> Any:
    if not tensor.shape:
        return np.array(scalars[tensor.name], dtype=np.int64)
    shape = [axis if isinstance(axis, int) else axes[axis] for axis in tensor.shape]
    if tensor.name == "rater":
        chosen = rng.random(shape) < 0.5
        chosen[:, -1] = True
        return chosen.astype(np.float32)
    values = rng.standard_normal(shape).astype(np.float32)
    if tensor.name.startswith("cls_attention_"):
        weights = np.exp(values)
        return weights / weights.sum(axis=1, keepdims=True)
    return values
