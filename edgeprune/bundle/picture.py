"""A bundle's chain as text: a picture for the terminal."""

from __future__ import annotations

import textwrap

from edgeprune.bundle.manifest import Graph, Manifest, Tensor, spell_place

_COLUMNS = 88  # of text beside the rail


def draw_chain(manifest: Manifest) -> str:
    """The graphs in order of execution, what flows between them, and the methods' cuts."""
    lines = [*_head(manifest), ""]
    name_width = max(len(graph.name) for graph in manifest.graphs)
    for index, graph in enumerate(manifest.graphs):
        lines += _graph(graph, name_width, last=index == len(manifest.graphs) - 1)
    lines.append("")
    for method in manifest.methods:
        cuts = ", ".join(spell_place(cut.at) for cut in method.cuts)
        positions = "numbered anew" if method.positions == "repack" else "kept"
        lines.append(f"method {method.name}: prunes {cuts}; positions {positions}")
    lines.append(f"total {_size(sum(file.bytes for file in manifest.files))}")
    return "\n".join(lines)


def _head(manifest: Manifest) -> list[str]:
    model, vision, decoder = manifest.model, manifest.vision, manifest.decoder
    revision = f" @ {model.revision[:12]}" if model.revision else ""
    return [
        f"{model.id}{revision} ({model.architecture})",
        f"{manifest.dtype}, dialect {manifest.dialect}, opset {manifest.opset}",
        f"vision  {_tokens(manifest)}, width {vision.width}",
        f"decoder {decoder.layers} layers, width {decoder.hidden}, {decoder.heads} heads ({decoder.kv_heads} for "
        f"keys and values), vocabulary {decoder.vocab}, context {decoder.context}",
    ]


def _tokens(manifest: Manifest) -> str:
    """Visual tokens of a picture or video, and what they are made of."""
    vision, image, most = manifest.vision, manifest.image, manifest.most_tokens
    if vision.grid is None:
        return f"up to {most} visual tokens, as the picture is large"
    rows, columns = vision.grid
    of_run = f"{rows} x {columns} {'patches' if vision.merge == 1 else 'merged patches'}"
    of_run += " and the class row" if vision.class_row == "inside" else ""
    if image.kind == "fixed":
        return f"{of_run} = {most} visual tokens"
    what = "frames" if image.kind == "frames" else "tiles"
    up_to = "" if image.kind == "frames" else "up to "
    return f"{up_to}{image.most_runs} {what} of {of_run} = {up_to}{most} visual tokens"


def _graph(graph: Graph, width: int, last: bool) -> list[str]:
    """A station: heavy graphs stand in the main line, a method's beside it, since keep=all passes them by."""
    size = _size(graph.file.bytes + (graph.data.bytes if graph.data else 0))
    mark = "  ├─◇" if graph.role in ("encoder", "kernel", "prune", "prepare") else "  ■"
    rail = "   " if last else "  │"
    lines = [f"{mark} {graph.name}".ljust(width + 7) + f"{size:>9}"]
    for arrow, tensors in (("   ", _shapes(graph.inputs)), ("-> ", _shapes(graph.outputs))):
        wrapped = textwrap.wrap(tensors, _COLUMNS, break_on_hyphens=False, break_long_words=False)
        lines += [f"{rail}     {arrow if index == 0 else '   '}{line}" for index, line in enumerate(wrapped)]
    return lines if last else [*lines, rail]


def _shapes(tensors: tuple[Tensor, ...]) -> str:
    """Data tensors with their axes; scalars by name, a segment's cache once."""
    cache = [t for t in tensors if t.name.startswith(("past_", "present_"))]
    if len(cache) == 1:  # the keys that a cut scores with
        cache = []
    parts = [f"{t.name} {_axes(t)}" for t in tensors if t.shape and t not in cache]
    if cache:
        parts.append(f"{len(cache)} x {cache[0].name.split('_')[0]} {_axes(cache[0])}")
    scalars = [t.name for t in tensors if not t.shape]
    return ", ".join(parts + ([" ".join(scalars)] if scalars else []))


def _axes(tensor: Tensor) -> str:
    return "[" + ",".join(map(str, tensor.shape)) + "]"


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
