"""A pruned prompt computed without edgeprune's graphs or modules: the numpy references choose, Hugging Face encodes.

The encoder and the projector are Hugging Face's, read through hooks; stages are those of the numpy references, and so
is the decoder, whose rows they cut. The order in which pruned rows enter is written out here for LLaVA-NeXT, as in
VisionZip's release, and for Qwen2.5-VL; of other families, whose order nobody published, it is the runtime's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.budget.schedule import Schedule
from edgeprune.bundle.manifest import MethodEntry
from edgeprune.eager.model import Inputs
from edgeprune.runtime.chain import Text
from edgeprune.runtime.layout import pruned as place_pruned
from edgeprune.runtime.layout import whole
from edgeprune.runtime.pixels import Pixels
from tests.families.conformance.case import Case
from tests.methods.references import REFERENCES
from tests.reference import llava
from tests.reference.llava import Array, KVCache, Weights
from tests.reference.pruning import Indices, Prompt, Stage, Tower, take_out


@dataclass(frozen=True)
class Expected:
    """Per stage the sources of the rows left, composed to those of the pictures; logits [vocab] of the last row."""

    kept: list[Indices]
    logits: Array


def expect(
    case: Case, method: MethodEntry, schedule: Schedule, pixels: Pixels, inputs: Inputs, text: Text, seed: int
) -> Expected:
    """Run a prompt of pictures, or of one video, through the references of a method."""
    w, facts, reference = weights(case), case.vlm.manifest, REFERENCES[method.name]
    stages = {stage.cut: Stage(stage.keep, stage.merge, seed) for stage in schedule.stages}
    towers, projected = look(case, inputs)
    kept: list[Indices] = []
    early = method.early
    if early is None:
        packed = whole(facts.layout, facts.vision, pixels.pictures)
        entering = np.split(see(case, inputs), np.cumsum([len(one.origin) for one in packed])[:-1])
        origin = np.concatenate([one.origin for one in packed])
    else:
        stage = stages[early.at]
        if early.at == "vision":
            found = [reference.vision(tower, stage) for tower in towers]
            runs = [project(case, one.rows) for one in found]
        elif early.at == "encoder":
            values = pixels.feeds["pixel_values"]
            every: Any = getattr(reference, "encoder_runs", None)
            found = every(w, values, stage.keep) if every else [reference.encoder(w, run, stage.keep) for run in values]
            runs = [project(case, one.rows) for one in found]
        else:
            question = llava.embed(w, text.question)
            if facts.vision.class_row == "inside":  # such methods keep patches alone
                projected = [own[1:] for own in projected]
            every = getattr(reference, "projected_runs", None)
            if every:
                found = every(towers, projected, question, stage)
            else:
                pairs = zip(towers, projected, strict=True)
                found = [reference.projected(tower, own, question, stage) for tower, own in pairs]
            runs = [one.rows for one in found]
        chosen = np.stack([one.kept for one in found])
        placed = ordered(case, method.order, inputs, pixels, chosen, stage.merge)
        entering = [np.concatenate(runs)[numbers] for numbers, _ in placed]
        origin = np.concatenate([of for _, of in placed])
        kept.append(origin)
    parts, rows = [llava.embed(w, part) for part in text.parts], np.concatenate(entering)
    h, seen = join(parts, entering)
    at = positions(case, inputs, len(h), seen, origin) if facts.decoder.axes == 3 else np.arange(len(h))
    scheme = "keep" if facts.decoder.axes == 3 else str(getattr(reference, "POSITIONS", "repack"))
    cache: KVCache = [None] * w.layers
    edges = [0, *method.decoder_cuts, w.layers]
    query = key = value = np.empty(0)
    for first, last in pairwise(edges):
        if first:
            prompt = Prompt(w, first, h, at, seen, query, key, value, rows, parts[-1])
            one = reference.cut(prompt, stages[first])
            origin = origin[one.kept]
            kept.append(origin)
            h, at, seen = take_out(h, at, seen, one, stages[first].merge, scheme)
        h = llava.decoder_layers(w, range(first, last - 1), h, at, cache)
        query, key = llava.layer_queries_keys(w, last - 1, h, at)
        h = llava.decoder_layer(w, last - 1, h, at, cache)
        entry = cache[last - 1]
        assert entry is not None  # the layer has run
        value = entry[1]
    return Expected(kept, llava.output_logits(w, h[-1:])[0])


def ordered(
    case: Case, order: str, inputs: Inputs, pixels: Pixels, kept: Indices, merged: int
) -> list[tuple[Indices, Indices]]:
    """Per picture, in the order in which they enter: numbers of the rows left of all runs, and where they are from."""
    vision, kind = case.vlm.manifest.vision, case.eager.model.config.model_type
    if kind == "qwen2_5_vl":
        ends = np.cumsum(case.eager.grids(inputs).prod(dim=1).numpy() // vision.merge**2)
        numbers = [np.flatnonzero((end - size <= kept[0]) & (kept[0] < end)) for end, size in _with_sizes(ends)]
        return [(own, kept[0][own]) for own in numbers]
    if kind != "llava_next":
        laid = place_pruned(order, vision, pixels.pictures, kept, merged)
        return [(one.source[:, 0], one.origin) for one in laid]
    origin = np.where(kept < 0, -1, kept + np.arange(len(kept))[:, None] * vision.tokens)
    count, first, found = kept.shape[1], 0, []
    for tiles in _tiles(case, inputs):
        runs = 1 + tiles[0] * tiles[1]
        own = slice(first, first + runs)
        take = _mosaic(vision.grid, tiles, kept[own], merged) if order == "mosaic" else np.arange(runs * count)
        found.append((first * count + take, origin[own].ravel()[take]))
        first += runs
    return found


def _with_sizes(ends: Indices) -> list[tuple[int, int]]:
    return [(int(end), int(size)) for end, size in zip(ends, np.diff(ends, prepend=0), strict=True)]


def _tiles(case: Case, inputs: Inputs) -> list[tuple[int, int]]:
    """Rows and columns of the tiles of each picture of LLaVA-NeXT, as Hugging Face counts them."""
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

    config = case.eager.model.config
    facts = config.image_grid_pinpoints, config.vision_config.image_size
    return [tuple(get_anyres_image_grid_shape(size, *facts)) for size in inputs["image_sizes"]]


def _mosaic(grid: Any, tiles: tuple[int, int], kept: Indices, merged: int) -> Indices:
    """VisionZip's ``llava_arch.py``: rows of one picture, run by run, in the order in which they enter.

    The overview's as they are; the tiles' patches in raster order of the whole mosaic; their class rows, tile by tile;
    their merged rows, tile by tile.
    """
    (height, width), count = grid, kept.shape[1]
    mosaic = np.full((tiles[0] * height, tiles[1] * width), -1)
    classes: list[int] = []
    last: list[int] = []
    for number, patches in enumerate(kept[1:].tolist()):
        down, across = divmod(number, tiles[1])
        for place, patch in enumerate(patches, (number + 1) * count):
            if place % count >= count - merged:
                last.append(place)
            elif patch < 0:
                classes.append(place)
            else:
                mosaic[down * height + patch // width, across * width + patch % width] = place
    return np.concatenate([np.arange(count), mosaic[mosaic >= 0], classes, last]).astype(np.int64)


def join(parts: Sequence[Array], pictures: Sequence[Array]) -> tuple[Array, Indices]:
    """The rows of a prompt of text around pictures, and which of them are visual."""
    rows, places, at = [parts[0]], [], len(parts[0])
    for picture, part in zip(pictures, parts[1:], strict=True):
        rows += [picture, part]
        places.append(at + np.arange(len(picture)))
        at += len(picture) + len(part)
    return np.concatenate(rows), np.concatenate(places)


def weights(case: Case) -> Weights:
    """The decoder's tensors, and CLIP's, under the names of a LLaVA-1.5 checkpoint."""
    tensors = {name.replace("video_tower.", "vision_tower."): t for name, t in case.eager.model.state_dict().items()}
    if case.medium == "image":  # Video-LLaVA has a tower for each medium
        own = {name.replace("image_tower.", "vision_tower."): t for name, t in case.eager.model.state_dict().items()}
        tensors |= {name: tensor for name, tensor in own.items() if "vision_tower." in name}
    known = ("language_model.", "lm_head.", "vision_tower.")
    found = {name: t.numpy() for name, t in tensors.items() if any(part in name for part in known)}
    return Weights(
        {name: t for name, t in found.items() if "image_tower" not in name}, case.eager.model.config.to_dict()
    )


def see(case: Case, inputs: Inputs) -> Array:
    """All visual rows as Hugging Face packs them."""
    found: Array = case.eager.see(inputs).rows.double().numpy()
    return found


@torch.inference_mode()
def project(case: Case, rows: Array) -> Array:
    found: Array = case.eager.project(torch.from_numpy(rows).float()[None])[0].double().numpy()
    return found


def positions(case: Case, inputs: Inputs, length: int, seen: Indices, origin: Indices) -> Indices:
    """Of three axes: those of the unpruned prompt, gathered for ``length`` rows of which those ``seen`` are visual."""
    counted = case.eager.positions(inputs)
    assert counted is not None  # the caller looked
    visual = case.eager.visual(inputs["input_ids"])[0].numpy()
    ids: Indices = counted[:, 0].numpy()
    found = np.empty((3, length), np.int64)
    found[:, np.setdiff1d(np.arange(length), seen)] = ids[:, ~visual]
    found[:, seen] = ids[:, visual][:, origin]
    return found


def look(case: Case, inputs: Inputs) -> tuple[list[Tower], list[Array]]:
    """What the encoder computed, run by run, and the projected rows."""
    kind = case.eager.model.config.model_type
    read: Callable[..., list[Tower]] = {"internvl": _intern, "qwen2_5_vl": _qwen}.get(kind, _clip)
    held: list[dict[str, torch.Tensor]] = []
    with ExitStack() as hooks:
        for modules in _modules(case, kind):
            held.append({})
            for name, module in modules.items():
                hooks.callback(module.register_forward_hook(_keep(held[-1], name), with_kwargs=True).remove)
        seen = case.eager.see(inputs)
    count = case.vlm.manifest.vision.layers
    grid = case.vlm.manifest.vision.grid
    features = seen.features.double().numpy()
    return read(case, held[:count], features, grid, inputs), list(seen.projected.double().numpy())


def _modules(case: Case, kind: str) -> list[dict[str, Any]]:
    model = case.eager.model.model
    if kind == "qwen2_5_vl":
        return [{"qkv": block.attn.qkv, "attended": block.attn} for block in model.visual.blocks]
    if kind == "internvl":
        parts = [(layer, layer.attention, "q_norm", "k_norm") for layer in model.vision_tower.encoder.layer]
    else:
        image = case.medium == "image"
        tower = getattr(model, "image_tower" if image else "video_tower", None) or model.vision_tower
        parts = [(layer, layer.self_attn, "q_proj", "k_proj") for layer in tower.encoder.layers]
    return [{"rows": layer, "q": getattr(own, q), "k": getattr(own, k), "v": own.v_proj} for layer, own, q, k in parts]


def _keep(found: dict[str, torch.Tensor], name: str) -> Callable[..., None]:
    def hook(module: Any, given: Any, named: dict[str, Any], output: Any) -> None:
        found[name] = (output[0] if isinstance(output, tuple) else output).double()
        if "position_embeddings" in named:
            found["cos"], found["sin"] = (part.double() for part in named["position_embeddings"])

    return hook


def _clip(case: Case, held: list[dict[str, Any]], features: Array, grid: Any, inputs: Inputs) -> list[Tower]:
    """CLIP's and SigLIP's: queries, keys and values of all rows."""
    vision = case.vlm.manifest.vision
    bare = vision.class_row == "none"
    layers = [[_heads(one[name], vision.heads) for name in "qkv"] for one in held]
    found = []
    for run in range(len(features)):
        rows = held[-1]["rows"][run].numpy()
        scores = [_received(q[run] if bare else q[run][:, :1], k[run]) for q, k, _ in layers]
        found.append(Tower(grid, rows, scores, [k[run] for _, k, _ in layers], [v[run] for *_, v in layers], not bare))
    return found


def _intern(case: Case, held: list[dict[str, Any]], features: Array, grid: Any, inputs: Inputs) -> list[Tower]:
    """InternVL's: what belongs to a visual token is the mean of its patches."""
    vision = case.vlm.manifest.vision
    m = vision.merge

    def merged(rows: Array) -> Array:  # [..., 1 + n, w]
        patches = rows[..., 1:, :].reshape(*rows.shape[:-2], grid[0], m, grid[1], m, rows.shape[-1])
        mean = patches.mean(axis=(-4, -2)).reshape(*rows.shape[:-2], -1, rows.shape[-1])
        found: Array = np.concatenate([rows[..., :1, :], mean], axis=-2)
        return found

    layers = [[_heads(one[name], vision.heads) for name in "qkv"] for one in held]
    found = []
    for run in range(len(features)):
        cls = np.tile(held[-1]["rows"][run].numpy()[:1], m * m)
        scores = [merged(_received(q[run][:, :1], k[run])[..., None])[..., 0] for q, k, _ in layers]
        keys, values = ([merged(one[place][run]) for one in layers] for place in (1, 2))
        found.append(Tower(grid, np.concatenate([cls, features[run]]), scores, keys, values, True))
    return found


def _qwen(case: Case, held: list[dict[str, Any]], features: Array, grid: Any, inputs: Inputs) -> list[Tower]:
    """Qwen2.5-VL's, of all pictures or pairs of frames, in the layers that see all of each; the others are not read.

    Queries of another picture give 0 to what a row receives, and count.
    """
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

    heads = case.vlm.manifest.vision.heads
    facts = case.eager.grids(inputs).tolist()
    pictures = [(rows, columns) for frames, rows, columns in facts for _ in range(frames)]
    edges = np.cumsum([0, *(rows * columns for rows, columns in pictures)]).tolist()

    def merged(patches: Any) -> Array:  # [n, H, w] to [H, N, w]
        ordered = case.eager.in_order(torch.as_tensor(patches).flatten(1), inputs)
        mean = ordered.unflatten(1, (-1, patches[0].size)).mean(dim=1)
        found: Array = mean.unflatten(1, (heads, -1)).transpose(0, 1).numpy()
        return found

    def read(layer: dict[str, Any]) -> tuple[Array, Array, Array]:
        """What its rows receive [H, N], and its keys and values [H, N, d]."""
        q, k, v = layer["qkv"].unflatten(1, (3, heads, -1)).unbind(1)
        turned: Any = apply_rotary_pos_emb_vision(q, k, layer["cos"], layer["sin"])
        queries, keys = (part.transpose(0, 1).numpy() for part in turned)
        received = [
            _received(queries[:, first:last], keys[:, first:last]) * ((last - first) / edges[-1])
            for first, last in pairwise(edges)
        ]
        return merged(np.concatenate(received, axis=1).T[..., None])[..., 0], merged(k.numpy()), merged(v.numpy())

    layers = case.eager.model.config.vision_config.fullatt_block_indexes
    scores, keys, values = zip(*(read(held[layer]) for layer in layers), strict=True)
    grids = tuple((rows // 2, columns // 2) for rows, columns in pictures)
    return [Tower(grids[0], features[0], scores, keys, values, False, grids)]


def _heads(rows: torch.Tensor, count: int) -> NDArray[np.float64]:
    """Map [C, n, H * d] to [C, H, n, d]."""
    found: NDArray[np.float64] = rows.unflatten(2, (count, -1)).transpose(1, 2).numpy()
    return found


def _received(q: Array, k: Array) -> Array:
    """Softmax [H, n] that rows receive, the mean over the queries [H, q, d]."""
    found: Array = llava.softmax(q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])).mean(axis=1)
    return found
