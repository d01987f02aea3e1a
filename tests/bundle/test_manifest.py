"""edgeprune.json: what is written is read back, and nothing else is read."""

import json
from dataclasses import replace
from typing import Any

import pytest

from edgeprune.bundle.codec import encode
from edgeprune.bundle.image import Frames, ImageProcessing, Tiles
from edgeprune.bundle.layout import Layout
from edgeprune.bundle.manifest import Cut, File, Graph, Manifest, MethodEntry, Model, Place, Tensor, spell_place
from edgeprune.bundle.native import TABLES, Native
from edgeprune.bundle.prompt import PromptFacts
from edgeprune.bundle.sizes import Decoder, Vision
from edgeprune.errors import BundleError

PROMPT = "hidden position_ids visual_rows"
PROMPT_OUT = "hidden_out position_ids_out visual_rows_out"


def manifest() -> Manifest:
    def graph(name: str, role: Any, inputs: str, outputs: str, layers: tuple[int, int] | None = None) -> Graph:
        file = File(f"graphs/{name}.onnx", 0, "0" * 64)
        tensors = [tuple(Tensor(n, "fp32", ("B", 3)) for n in names.split()) for names in (inputs, outputs)]
        return Graph(name, role, file, None, layers, tensors[0], tensors[1])

    return Manifest(
        schema=4,
        model=Model("a/b", None, "LlavaForConditionalGeneration", "llava"),
        dtype="fp32",
        dialect="base",
        opset=18,
        vision=Vision((8, 8), 32, 2, 2, 64, 14),
        decoder=Decoder(4, 32, 4, 2, 8, 64, 96, 512),
        image=ImageProcessing("fixed", 112, None, (112, 112), 3, 1 / 255, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
        layout=Layout(),
        prompt=PromptFacts(
            template="{{ messages }}",
            medium="image",
            image_token="<image>",
            image_token_id=5,
            image_text="<image>",
            wrap=("", ""),
            bos_token="<s>",
            eos_token="</s>",
            eos_token_ids=(2,),
            context=512,
            special_tokens=("<s>", "</s>", "<image>"),
        ),
        tokenizer=File("tokenizer.json", 2, "1" * 64),
        embedding=File("embedding.npy", 2, "2" * 64),
        graphs=(
            graph("vision", "vision", "pixel_values", "features key_0"),
            graph("p", "prune", "features key_0 keep merge", "features_out kept"),
            graph("project", "project", "features", "visual"),
            graph("assemble", "assemble", "text visual order", "hidden"),
            graph("segment_0_2", "segment", "hidden position_ids past_key_0", "hidden_out present_key_0", (0, 2)),
            graph("p_2", "prune", f"{PROMPT} keep merge", f"{PROMPT_OUT} kept"),
            graph("segment_2_4", "segment", "hidden position_ids past_key_2", "logits present_key_2", (2, 4)),
        ),
        methods=(MethodEntry("visiondrop", "repack", "runs", (), (Cut("vision", "p"), Cut(2, "p_2"))),),
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
        (changed("schema", value=5), "schema 5 is newer than 4"),
        (changed("schema", value=3), "schema 3 is no longer read; expected 4: export the model again"),
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
        (changed("decoder", "axes", value=2), "positions of 2 axes; expected 1 or 3"),
        (changed("decoder", "axes", value=3), "decoder.axes is 3 and image.kind 'fixed'; expected 1, or 'native'"),
        (changed("vision", "class_row", value="outside"), "class_row is 'outside'; expected 'apart' or 'inside' or"),
        (changed("vision", "merge", value=3), "width 32 of 9 merged patches; expected a multiple"),
        (changed("vision", "heads", value=3), "width 32 over 3 heads; expected a multiple"),
        (changed("vision", "grid", value=None), "vision.grid is None and image.kind 'fixed'"),
        (changed("layout", value={"kind": "rows", "newline": True, "limit": None}), "newline=True is not false"),
        (changed("layout", value={"kind": "rows", "newline": False}), "layout: key 'limit' is missing"),
        (changed("prompt", "medium", value="audio"), "medium is 'audio'; expected 'image' or 'video'"),
        (changed("prompt", "image_text", value="<image><image>"), "a text with '<image>' in it, once"),
        (changed("prompt", "wrap", value=["<img>"]), "expected a list of 2"),
        (changed("graphs", 0, "role", value="prune"), "0 graphs have the role 'vision'"),
        (changed("graphs", 1, "role", value="project"), "2 graphs have the role 'project'"),
        (changed("decoder", "layers", value=3), "do not cover"),
        (changed("graphs", 4, "layers", value=[0, 0]), "do not cover"),
        (changed("methods", value=[]), "methods is empty"),
        (changed("methods", 0, "cuts", 0, "graph", value="project"), "'project' of role 'project'; expected 'prune'"),
        (changed("methods", 0, "cuts", 0, "at", value=2), r"cuts at \[2, 2\]; expected rising layers"),
        (changed("methods", 0, "cuts", 1, "at", value="vision"), r"cuts at \['vision', 'vision'\]; .* at most"),
        (changed("methods", 0, "cuts", value=[]), r"cuts at \[\]; expected one or more"),
        (changed("methods", 0, "order", value="raster"), "order is 'raster'; expected 'runs' or 'mosaic'"),
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


def test_what_has_a_default_may_be_missing() -> None:
    data = encode(manifest())
    for part, keys in {"vision": ("class_row", "merge"), "decoder": ("axes",), "image": ("tiles", "native")}.items():
        for key in keys:
            del data[part][key]
    assert Manifest.from_json(json.dumps(data)) == manifest()


# --- stations that only some methods have -------------------------------------------------------------------------


def full() -> Manifest:
    """A kernel after the encoder, a cut after the projector, what runs once before and after assembling, an encoder."""

    def graph(name: str, role: Any, inputs: str, outputs: str) -> Graph:
        file = File(f"graphs/{name}.onnx", 0, "0" * 64)
        tensors = [tuple(Tensor(n, "fp32", ("B", 3)) for n in names.split()) for names in (inputs, outputs)]
        return Graph(name, role, file, None, None, tensors[0], tensors[1])

    plain = manifest()
    vision, _, project, assemble, first, _, last = plain.graphs
    first = replace(first, outputs=(*first.outputs, Tensor("query_1", "fp32", ("B", 3))))
    own = {
        "e": graph("e", "encoder", "pixel_values runs", "features kept"),
        "k": graph("k", "kernel", "features key_0 runs", "kernel start"),
        "v": graph("v", "prune", "features chosen keep", "features_out kept"),
        "w": graph("w", "prepare", "visual question", "pull"),
        "j": graph("j", "prune", "visual pull seed keep", "visual_out kept"),
        "r": graph("r", "prepare", "hidden visual_rows text_after", "rater"),
        "c": graph("c", "prune", f"{PROMPT} query_1 present_key_0 rater keep", f"{PROMPT_OUT} kept"),
    }
    methods = (
        MethodEntry("many", "keep", "mosaic", ("r",), (Cut("vision", "v", "k", "repulsion"), Cut(2, "c"))),
        MethodEntry("inner", "repack", "runs", (), (Cut("encoder", "e"),)),
        MethodEntry("asking", "repack", "runs", ("w", "r"), (Cut("projected", "j"), Cut(2, "c"))),
    )
    graphs = (vision, *(own[name] for name in "ekv"), project, own["w"], own["j"], assemble)
    return replace(plain, graphs=(*graphs, own["r"], first, own["c"], last), methods=methods)


V, K, W, J, ASSEMBLE, R, C = 3, 2, 5, 6, 7, 8, 10
"""Numbers of the graphs of ``full``."""


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
    many, inner, asking = read.methods
    assert many.places == ("vision", 2) and many.decoder_cuts == (2,)
    assert many.early is not None and many.early.at == "vision"
    assert many.graphs == ("r", "k", "v", "c")
    assert (inner.places, inner.decoder_cuts, inner.graphs) == (("encoder",), (), ("e",))
    assert asking.graphs == ("w", "r", "j", "c")


def test_what_runs_once_runs_before_or_after_the_prompt_is_assembled() -> None:
    facts = full()
    many, inner, asking = facts.methods

    def names(method: MethodEntry | None, late: bool) -> list[str]:
        return [graph.name for graph in facts.prepares(method, late)]

    assert (names(asking, late=False), names(asking, late=True)) == (["w"], ["r"])
    assert (names(many, late=False), names(many, late=True)) == ([], ["r"])
    assert [names(method, late) for method in (None, inner) for late in (False, True)] == [[]] * 4


EARLY = {"encoder": cut("encoder", "e"), "vision": cut("vision", "v", "k", "dpp"), "projected": cut("projected", "j")}


@pytest.mark.parametrize(("first", "second"), [(one, two) for one in EARLY for two in EARLY])
def test_a_method_cuts_once_before_the_decoder(first: str, second: str) -> None:
    """Rows of every run are left by one cut: a second one would choose among rows that lost their place."""
    text = changed_full("methods", 0, "cuts", value=[EARLY[first], EARLY[second], cut(2, "c")])
    message = rf"'many' cuts at \['{first}', '{second}', 2\]; expected one or more, first one of encoder, vision, pr"
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(text)


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
        (changed_full("graphs", K, "outputs", 0, "name", value="matrix"), "'k' gives no 'kernel'"),
        (changed_full("graphs", K, "outputs", 1, "name", value="begin"), "'k' gives no 'start'"),
        # order
        (
            changed_full("methods", 2, "cuts", value=[cut(2, "c"), cut("projected", "j")]),
            r"cuts at \[2, 'projected'\]; .* and then decoder layers",
        ),
        (
            changed_full("methods", 2, "cuts", value=[cut("projected", "j"), cut(2, "c"), cut(2, "c")]),
            r"cuts at \[2, 2\]; expected rising layers",
        ),
        (changed_full("methods", 1, "cuts", value=[]), r"method 'inner' cuts at \[\]; expected one or more"),
        # what is there, and when
        (changed_full("methods", 0, "prepare", value=[]), "'c' takes 'rater', which nothing"),
        (changed_full("methods", 2, "prepare", value=["r"]), "'j' takes 'pull', which nothing"),
        (changed_full("graphs", V, "inputs", 0, "name", value="visual"), "'v' takes 'visual', which nothing"),
        (changed_full("graphs", V, "inputs", 1, "name", value="visual_rows"), "'v' takes 'visual_rows', which nothing"),
        (changed_full("graphs", W, "inputs", 1, "name", value="visual_rows"), "'w' takes 'visual_rows', which"),
        (changed_full("graphs", W, "inputs", 1, "name", value="text_after"), "'w' takes 'text_after', which nothing"),
        (changed_full("graphs", W, "inputs", 1, "name", value="hidden"), "'j' takes 'pull', which nothing"),
        (changed_full("graphs", J, "outputs", 1, "name", value="rows"), "'j' gives no 'kept'"),
        (changed_full("graphs", 1, "outputs", 1, "name", value="rows"), "'e' gives no 'kept'"),
        (changed_full("graphs", C, "outputs", 0, "name", value="hidden"), "'c' gives no 'hidden_out'"),
        (changed_full("graphs", C, "outputs", 1, "name", value="ids"), "'c' gives no 'position_ids_out'"),
        (changed_full("graphs", C, "outputs", 2, "name", value="rows"), "'c' gives no 'visual_rows_out'"),
        (changed_full("graphs", C, "inputs", 3, "name", value="query_0"), "'c' takes 'query_0', which nothing"),
        (changed_full("graphs", ASSEMBLE, "inputs", 0, "name", value="before"), "'assemble' takes 'before', which"),
        (changed_full("graphs", ASSEMBLE, "inputs", 0, "name", value="weight"), "'assemble' takes 'weight', which"),
    ],
)
def test_a_station_out_of_place_is_refused(text: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(text)


def test_a_method_inside_the_encoder_has_no_probes() -> None:
    """Its own graph runs instead of the vision graph, whose outputs are not there."""
    data = encode(full())
    data["methods"][1]["cuts"].append(cut(2, "c"))
    data["methods"][1]["prepare"] = ["r"]
    Manifest.from_json(json.dumps(data))
    data["graphs"][C]["inputs"][3]["name"] = "key_0"
    with pytest.raises(BundleError, match="'c' takes 'key_0', which nothing before it gives"):
        Manifest.from_json(json.dumps(data))


def test_a_point_process_starts_from_nothing() -> None:
    data = encode(full())
    data["methods"][0]["cuts"][0]["sampler"] = "dpp"
    del data["graphs"][K]["outputs"][1]
    Manifest.from_json(json.dumps(data))


# --- pixels of every kind, and what the decoder gets of them --------------------------------------------------------

MOSAIC = Layout("mosaic", newline=True, limit=9)
TILES = Tiles("best_fit", ((1, 2), (2, 1), (2, 2)))


def native(**changes: Any) -> Manifest:
    """Pictures of native resolution: their encoder takes tables beside the pixels."""
    plain = manifest()
    facts = Native(patch=14, merge=2, temporal=2, window=112, min_pixels=28 * 28, max_pixels=28 * 28 * 40)
    image = replace(plain.image, kind="native", native=facts, resize_shortest=None, crop=None)
    tables = tuple(Tensor(name, "int64", ("n",)) for name in TABLES)
    vision = replace(plain.graphs[0], inputs=(*plain.graphs[0].inputs, *tables))
    made = replace(plain, image=image, vision=replace(plain.vision, grid=None), graphs=(vision, *plain.graphs[1:]))
    return replace(made, **changes)


def blended() -> Manifest:
    """Tiles whose mosaic may be shrunk: the graph that assembles takes weights."""
    plain = manifest()
    image = replace(plain.image, kind="tiles", tiles=TILES, resize_shortest=None, resize_exact=(112, 112), crop=None)
    place = [graph.name for graph in plain.graphs].index("assemble")
    graphs = list(plain.graphs)
    graphs[place] = replace(graphs[place], inputs=(*graphs[place].inputs, Tensor("weight", "fp32", ("B", 3))))
    return replace(plain, image=image, layout=MOSAIC, graphs=tuple(graphs))


def frames() -> Manifest:
    plain = manifest()
    return replace(
        plain,
        image=replace(plain.image, kind="frames", frames=Frames(8)),
        vision=replace(plain.vision, class_row="inside"),
        prompt=replace(plain.prompt, medium="video"),
    )


@pytest.mark.parametrize("made", [native(), blended(), frames()], ids=["native", "tiles", "frames"])
def test_every_kind_of_pixels_is_read_back(made: Manifest) -> None:
    assert Manifest.from_json(made.to_json()) == made


def test_tables_are_for_native_pictures_and_weights_for_blended_rows() -> None:
    data = encode(native())
    data["graphs"][0]["inputs"][1]["name"] = "window_sizes"
    with pytest.raises(BundleError, match="'vision' takes 'window_sizes', which nothing"):
        Manifest.from_json(json.dumps(data))
    data = encode(manifest())
    data["graphs"][0]["inputs"].append(encode(Tensor("windows", "int64", ("w", "g"))))
    with pytest.raises(BundleError, match="'vision' takes 'windows', which nothing"):
        Manifest.from_json(json.dumps(data))
    data = encode(blended())
    data["layout"]["limit"] = None  # nothing is shrunk then
    with pytest.raises(BundleError, match="'assemble' takes 'weight', which nothing"):
        Manifest.from_json(json.dumps(data))


def test_a_grid_of_its_own_is_for_native_pictures_alone() -> None:
    with pytest.raises(BundleError, match=r"vision.grid is \(8, 8\) and image.kind 'native'"):
        replace(native(), vision=manifest().vision)


@pytest.mark.parametrize(
    ("made", "tokens"),
    [
        (manifest(), 64),
        (native(), 40),
        (blended(), 64 + 16 * (16 + 1)),  # the overview, and a line's end for each of 16 lines
        (frames(), 8 * 65),  # frames enter with their class row
    ],
    ids=["fixed", "native", "tiles", "frames"],
)
def test_the_most_tokens(made: Manifest, tokens: int) -> None:
    assert made.most_tokens == tokens


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
