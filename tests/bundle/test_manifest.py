"""edgeprune.json: what is written is read back, and nothing else is read."""

import json
from dataclasses import replace
from typing import Any

import pytest

from edgeprune.bundle.codec import encode
from edgeprune.bundle.image import ImageProcessing
from edgeprune.bundle.manifest import Cut, File, Graph, Manifest, MethodEntry, Model, Place, Tensor, spell_place
from edgeprune.bundle.prompt import PromptFacts
from edgeprune.bundle.sizes import Decoder, Vision
from edgeprune.errors import BundleError


def manifest() -> Manifest:
    def graph(name: str, role: Any, inputs: str, outputs: str, layers: tuple[int, int] | None = None) -> Graph:
        file = File(f"graphs/{name}.onnx", 0, "0" * 64)
        tensors = [tuple(Tensor(n, "fp32", ("B", 3)) for n in names.split()) for names in (inputs, outputs)]
        return Graph(name, role, file, None, layers, tensors[0], tensors[1])

    return Manifest(
        schema=3,
        model=Model("a/b", None, "LlavaForConditionalGeneration", "llava"),
        dtype="fp32",
        dialect="base",
        opset=18,
        vision=Vision((8, 8), 32, 2, 2, 64, 14),
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
        methods=(MethodEntry("visiondrop", "repack", (), (Cut("vision", "p"), Cut(2, "p_2"))),),
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
        (changed("schema", value=4), "schema 4 is newer than 3"),
        (changed("schema", value=2), "schema 2 is no longer read; expected 3: export the model again"),
        (changed("schema", value=0), "schema 0 is no longer read"),
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
        (changed("vision", "grid", value=[8, 0]), "grid=.8, 0.*expected sizes of 1 or more"),
        (changed("decoder", "heads", value=0), "heads=0.*expected sizes of 1 or more"),
        (changed("decoder", "heads", value=5), "5 heads over 2 kv_heads"),
        (changed("graphs", 0, "role", value="prune"), "0 graphs have the role 'vision'"),
        (changed("graphs", 1, "role", value="project"), "2 graphs have the role 'project'"),
        (changed("decoder", "layers", value=3), "do not cover"),
        (changed("graphs", 4, "layers", value=[0, 0]), "do not cover"),
        (changed("methods", value=[]), "methods is empty"),
        (changed("methods", 0, "cuts", 0, "graph", value="project"), "'project' of role 'project'; expected 'prune'"),
        (changed("methods", 0, "cuts", 0, "at", value=2), r"cuts at \[2, 2\]; expected rising layers"),
        (changed("methods", 0, "cuts", 1, "at", value="vision"), r"cuts at \['vision', 'vision'\]; .* once each"),
        (changed("methods", 0, "cuts", value=[]), r"cuts at \[\]; expected at least one cut"),
        (changed("methods", 0, "cuts", 0, "sampler", value="dpp"), "cut 'p' has a kernel or a sampler; expected both"),
        (changed("methods", 0, "cuts", 0, "kernel", value="p"), "cut 'p' has a kernel or a sampler; expected both"),
        (changed("methods", 0, "prepare", value=["p"]), "'p' of role 'prune'; expected 'prepare'"),
        (changed("methods", 0, "prepare", value=["nowhere"]), "names graph 'nowhere'"),
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


# --- stations that only some methods have -------------------------------------------------------------------------


def full() -> Manifest:
    """A method with a kernel, a stage after the projector, a prepared value and a cut; and one inside the encoder."""

    def graph(name: str, role: Any, inputs: str, outputs: str) -> Graph:
        file = File(f"graphs/{name}.onnx", 0, "0" * 64)
        tensors = [tuple(Tensor(n, "fp32", ("B", 3)) for n in names.split()) for names in (inputs, outputs)]
        return Graph(name, role, file, None, None, tensors[0], tensors[1])

    plain = manifest()
    vision, _, project, assemble, first, _, last = plain.graphs
    first = replace(first, outputs=(*first.outputs, Tensor("query_1", "fp32", ("B", 3))))
    own = {
        "e": graph("e", "encoder", "pixel_values", "features kept"),
        "k": graph("k", "kernel", "features key_0", "kernel start"),
        "v": graph("v", "prune", "features chosen keep", "features_out kept"),
        "w": graph("w", "prepare", "visual question", "weight"),
        "j": graph("j", "prune", "visual seed keep", "visual_out kept"),
        "c": graph("c", "prune", "hidden query_1 present_key_0 weight span_start span_length keep", "hidden_out kept"),
    }
    methods = (
        MethodEntry(
            "many",
            "keep",
            ("w",),
            (Cut("vision", "v", "k", "repulsion"), Cut("projected", "j"), Cut(2, "c")),
        ),
        MethodEntry("inner", "repack", (), (Cut("encoder", "e"),)),
    )
    graphs = (vision, own["e"], own["k"], own["v"], project, own["w"], own["j"], assemble, first, own["c"], last)
    return replace(plain, graphs=graphs, methods=methods)


def changed_full(*path: str | int, value: Any) -> str:
    """As ``changed``, of ``full``."""
    data = encode(full())
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(data)


def cut(at: str | int, graph: str, kernel: str | None = None, sampler: str | None = None) -> dict[str, Any]:
    return {"at": at, "graph": graph, "kernel": kernel, "sampler": sampler}


def test_every_station_is_read_back() -> None:
    read = Manifest.from_json(full().to_json())
    assert read == full()
    many, inner = read.methods
    assert many.places == ("vision", "projected", 2) and many.decoder_cuts == (2,)
    assert many.graphs == ("w", "k", "v", "j", "c")
    assert (inner.places, inner.decoder_cuts, inner.graphs) == (("encoder",), (), ("e",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # roles
        (changed_full("methods", 0, "cuts", 0, "graph", value="k"), "'k' of role 'kernel'; expected 'prune'"),
        (changed_full("methods", 0, "cuts", 0, "kernel", value="v"), "'v' of role 'prune'; expected 'kernel'"),
        (changed_full("methods", 1, "cuts", 0, "graph", value="v"), "'v' of role 'prune'; expected 'encoder'"),
        (changed_full("methods", 1, "cuts", 0, "at", value="vision"), "'e' of role 'encoder'; expected 'prune'"),
        (changed_full("methods", 0, "prepare", value=["j"]), "'j' of role 'prune'; expected 'prepare'"),
        (changed_full("methods", 0, "cuts", 0, "kernel", value="nowhere"), "names graph 'nowhere'"),
        # a kernel and its sampler
        (changed_full("methods", 0, "cuts", 0, "sampler", value=None), "cut 'v' has a kernel or a sampler"),
        (changed_full("methods", 0, "cuts", 0, "kernel", value=None), "cut 'v' has a kernel or a sampler"),
        (changed_full("methods", 0, "cuts", 0, "sampler", value="greedy"), "sampler is 'greedy'"),
        (changed_full("methods", 0, "cuts", 0, value=cut("vision", "v")), "'v' takes 'chosen', which nothing"),
        (changed_full("graphs", 2, "outputs", 0, "name", value="matrix"), "'k' gives no 'kernel'"),
        (changed_full("graphs", 2, "outputs", 1, "name", value="begin"), "'k' gives no 'start'"),
        # order
        (
            changed_full("methods", 0, "cuts", value=[cut("projected", "j"), cut("vision", "v", "k", "dpp")]),
            r"cuts at \['projected', 'vision'\]; .* in this order",
        ),
        (
            changed_full("methods", 0, "cuts", value=[cut(2, "c"), cut("projected", "j")]),
            r"cuts at \[2, 'projected'\]; .* before all others",
        ),
        (
            changed_full("methods", 0, "cuts", value=[cut("projected", "j"), cut("projected", "j")]),
            r"cuts at \['projected', 'projected'\]; .* once each",
        ),
        (
            changed_full("methods", 0, "cuts", value=[cut("projected", "j"), cut(2, "c"), cut(2, "c")]),
            r"cuts at \[2, 2\]; expected rising layers",
        ),
        (changed_full("methods", 1, "cuts", value=[]), r"method 'inner' cuts at \[\]; expected at least one cut"),
        # what is there, and when
        (changed_full("methods", 0, "prepare", value=[]), "'c' takes 'weight', which nothing"),
        (changed_full("graphs", 3, "inputs", 0, "name", value="visual"), "'v' takes 'visual', which nothing"),
        (changed_full("graphs", 6, "outputs", 1, "name", value="rows"), "'j' gives no 'kept'"),
        (changed_full("graphs", 1, "outputs", 1, "name", value="rows"), "'e' gives no 'kept'"),
        (changed_full("graphs", 9, "inputs", 1, "name", value="query_0"), "'c' takes 'query_0', which nothing"),
    ],
)
def test_a_station_out_of_place_is_refused(text: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(text)


def test_a_method_inside_the_encoder_has_no_probes() -> None:
    """Its own graph runs instead of the vision graph, whose outputs are not there."""
    data = encode(full())
    data["methods"][1]["cuts"].append(cut(2, "c"))
    data["methods"][1]["prepare"] = ["w"]
    Manifest.from_json(json.dumps(data))
    data["graphs"][9]["inputs"][1]["name"] = "key_0"
    with pytest.raises(BundleError, match="'c' takes 'key_0', which nothing before it gives"):
        Manifest.from_json(json.dumps(data))
    data = encode(full())
    data["methods"][1]["cuts"].append(cut("vision", "v", "k", "dpp"))
    with pytest.raises(BundleError, match="prunes inside the encoder and after it; expected one"):
        Manifest.from_json(json.dumps(data))


def test_a_point_process_starts_from_nothing() -> None:
    data = encode(full())
    data["methods"][0]["cuts"][0]["sampler"] = "dpp"
    del data["graphs"][2]["outputs"][1]
    Manifest.from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("encoder", "inside the encoder"),
        ("vision", "after the encoder"),
        ("projected", "after the projector"),
        (8, "before layer 8"),
    ],
)
def test_places_are_spelled(at: Place | int, words: str) -> None:
    assert spell_place(at) == words
