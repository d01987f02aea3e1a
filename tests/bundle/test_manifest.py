"""edgeprune.json: what is written is read back, and nothing else is read."""

import json
from typing import Any

import pytest

from edgeprune.bundle.codec import encode
from edgeprune.bundle.image import ImageProcessing
from edgeprune.bundle.manifest import (
    Cut,
    Decoder,
    File,
    Graph,
    Manifest,
    MethodEntry,
    Model,
    Tensor,
    Vision,
)
from edgeprune.bundle.prompt import PromptFacts
from edgeprune.errors import BundleError


def manifest() -> Manifest:
    def graph(name: str, role: Any, layers: tuple[int, int] | None = None) -> Graph:
        file = File(f"graphs/{name}.onnx", 3, "0" * 64)
        return Graph(name, role, file, None, layers, (Tensor("x", "fp32", ("B", 3)),), (Tensor("y", "int64", ()),))

    return Manifest(
        schema=1,
        model=Model("a/b", None, "LlavaForConditionalGeneration", "llava"),
        dtype="fp32",
        dialect="base",
        opset=18,
        vision=Vision((8, 8), 32),
        decoder=Decoder(4, 32, 4, 2, 8, 64, 96, 512),
        image=ImageProcessing("fixed", 112, None, (112, 112), 3, 1 / 255, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
        prompt=PromptFacts("{{ messages }}", "<image>", 5, "<s>", "</s>", (2,), 512, ("<s>", "</s>", "<image>")),
        tokenizer=File("tokenizer.json", 2, "1" * 64),
        embedding=File("embedding.npy", 2, "2" * 64),
        graphs=(
            graph("vision", "vision"),
            graph("segment_0_2", "segment", (0, 2)),
            graph("p", "prune"),
            graph("segment_2_4", "segment", (2, 4)),
        ),
        methods=(MethodEntry("visiondrop", "repack", (Cut("vision", "p"), Cut(2, "p"))),),
        tools={"torch": "2.13.0"},
    )


def test_round_trip() -> None:
    assert Manifest.from_json(manifest().to_json()) == manifest()


def changed(*path: str | int, value: Any) -> str:
    """The manifest's text with one value replaced, or added."""
    data = encode(manifest())
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no valid JSON"),
        ("[]", "'schema' is missing"),
        ("{}", "'schema' is missing"),
        (changed("schema", value=2), "schema 2 is newer than 1"),
        (changed("schema", value=0), "schema 0 does not exist"),
        (changed("schema", value="1"), "'schema' is missing or no number"),
        (changed("extra", value=1), "unknown key 'extra'"),
        (changed("dtpye", value=1), "unknown key 'dtpye'; did you mean 'dtype'"),
        (changed("graphs", 0, "inputs", 0, "dtyp", value=1), r"graphs\[0\].inputs\[0\]: unknown key 'dtyp'"),
        (changed("dtype", value="fp64"), "dtype is 'fp64'; expected 'fp32' or 'fp16'"),
        (changed("opset", value=True), "opset is True; expected int"),
        (changed("vision", value=[]), "vision is .*expected an object"),
        (changed("vision", "grid", value=[8]), "expected a list of 2"),
        (changed("methods", 0, "cuts", 0, "graph", value="nowhere"), "names graph 'nowhere'"),
        (changed("methods", 0, "cuts", 0, "at", value="middle"), "at is 'middle'"),
        (changed("graphs", 0, "name", value="p"), "two graphs are named 'p'"),
        (changed("graphs", 1, "layers", value=[0, 3]), "do not cover decoder layers"),
        (changed("graphs", 1, "layers", value=None), "a segment has layers"),
        (changed("image", "mean", value=[0, 0]), "mean"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(text)


@pytest.mark.parametrize("key", ["model", "graphs", "tools"])
def test_a_missing_key_is_named(key: str) -> None:
    data = encode(manifest())
    del data[key]
    with pytest.raises(BundleError, match=f"key '{key}' is missing"):
        Manifest.from_json(json.dumps(data))
