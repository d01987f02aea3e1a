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
    def graph(name: str, role: Any, inputs: str, outputs: str, layers: tuple[int, int] | None = None) -> Graph:
        file = File(f"graphs/{name}.onnx", 0, "0" * 64)
        tensors = [tuple(Tensor(n, "fp32", ("B", 3)) for n in names.split()) for names in (inputs, outputs)]
        return Graph(name, role, file, None, layers, tensors[0], tensors[1])

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
            graph("vision", "vision", "pixel_values", "features key_0"),
            graph("p", "prune", "features key_0 keep merge", "features_out kept"),
            graph("project", "project", "features", "visual"),
            graph("assemble", "assemble", "before visual after", "hidden"),
            graph("segment_0_2", "segment", "hidden position_ids past_key_0", "hidden_out present_key_0", (0, 2)),
            graph("p_2", "prune", "hidden position_ids span_start span_length keep merge", "hidden_out kept"),
            graph("segment_2_4", "segment", "hidden position_ids past_key_2", "logits present_key_2", (2, 4)),
        ),
        methods=(MethodEntry("visiondrop", "repack", (Cut("vision", "p"), Cut(2, "p_2"))),),
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
        (changed("graphs", 4, "layers", value=[0, 3]), "do not cover decoder layers"),
        (changed("graphs", 4, "layers", value=None), "a segment has layers"),
        (changed("image", "mean", value=[0, 0]), "mean"),
        (changed("image", "rescale", value=10**400), "rescale is .*expected a number below"),
        (changed("image", "crop", value=[8193, 112]), "at most 8192 a side"),
        (changed("opset", value=23), "opset 23; dialect 'base' has 18"),
        (changed("prompt", "context", value=511), "prompt.context 511 and decoder.context 512 differ"),
        (changed("vision", "grid", value=[8, 0]), "vision has grid"),
        (changed("decoder", "heads", value=0), "heads=0.*expected sizes of 1 or more"),
        (changed("decoder", "heads", value=5), "5 heads over 2 kv_heads"),
        (changed("graphs", 0, "role", value="prune"), "0 graphs have the role 'vision'"),
        (changed("graphs", 1, "role", value="project"), "2 graphs have the role 'project'"),
        (changed("decoder", "layers", value=3), "do not cover"),
        (changed("graphs", 4, "layers", value=[0, 0]), "do not cover"),
        (changed("methods", value=[]), "methods is empty"),
        (changed("methods", 0, "cuts", 0, "graph", value="project"), "'project' of role 'project'; expected 'prune'"),
        (changed("methods", 0, "cuts", 0, "at", value=2), "has not one cut 'vision', before all others"),
        (changed("methods", 0, "cuts", value=[]), "has not one cut 'vision'"),
        (changed("methods", 0, "cuts", 1, "at", value=1), r"cuts at \[1\]; expected rising layers"),
        (changed("methods", 0, "cuts", 1, "at", value=0), r"cuts at \[0\]"),
        (changed("graphs", 2, "inputs", 0, "name", value="feature"), "'project' takes 'feature', which nothing"),
        (changed("graphs", 5, "inputs", 0, "name", value="logits"), "'p_2' takes 'logits'"),
        (changed("graphs", 1, "outputs", 1, "name", value="keep"), "'p' gives no 'kept'"),
        (changed("graphs", 4, "outputs", 1, "name", value="x"), "'segment_0_2' gives no 'present_key_0'"),
        (changed("graphs", 6, "outputs", 0, "name", value="hidden_out"), "'segment_2_4' gives no 'logits'"),
        (changed("graphs", 0, "inputs", 0, "dtype", value="fp8"), "'pixel_values' has dtype 'fp8'"),
        (changed("graphs", 0, "inputs", 0, "shape", value=[0]), "fixed axes"),
        (changed("graphs", 0, "data", value={"path": "x.data", "bytes": 0, "sha256": "0" * 64}), "does not lie beside"),
        (changed("tokenizer", "sha256", value="0" * 63), "expected 64 hex"),
        (changed("tokenizer", "bytes", value=-1), "bytes -1"),
        (changed("tokenizer", "path", value="a\0b"), "cannot be printed"),
        (changed("tokenizer", "path", value="\ud800"), "cannot be printed"),
        (changed("tokenizer", "path", value=""), "is empty"),
        ('{"schema": ' + "1" * 5000 + "}", "is no valid JSON"),
        ("[" * 100_000, "nested too deep"),
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
