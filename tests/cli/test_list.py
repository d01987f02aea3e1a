"""`edgeprune list`: every name once, a card of each, and one clear line for a name there is not."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

from edgeprune import catalog
from edgeprune.recipes import model as recipes
from edgeprune.recipes import target as targets
from tests.cli.conftest import Command

NAMES = {"methods": catalog.names(), "models": recipes.names(), "targets": targets.names()}
CARDS = [(kind, name) for kind, names in NAMES.items() for name in names]


def test_without_a_word_it_names_everything(edgeprune: Command) -> None:
    out = edgeprune("list").out
    for kind, names in NAMES.items():
        assert kind in out
        assert all(name in out for name in names)
    assert "edgeprune list methods NAME" in " ".join(out.split())
    assert json.loads(edgeprune("list", "--json").out) == {kind: [*names] for kind, names in NAMES.items()}


@pytest.mark.parametrize("kind", NAMES)
def test_one_line_each(edgeprune: Command, kind: str) -> None:
    lines = edgeprune("list", kind).out.splitlines()
    assert [line.split()[0] for line in lines] == [*NAMES[kind]]
    found = json.loads(edgeprune("list", kind, "--json").out)
    assert [entry["name"] for entry in found] == [*NAMES[kind]]


@pytest.mark.parametrize(("kind", "name"), CARDS)
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_cards_fit_the_terminal(
    edgeprune: Command, kind: str, name: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    result = edgeprune("list", kind, name)
    assert (result.code, result.err) == (0, "")
    assert name in result.out
    for line in result.out.splitlines():  # but an address stays in one piece
        assert len(line) < columns or "://" in line, line


@pytest.mark.parametrize(("kind", "name"), CARDS)
def test_cards_as_json(edgeprune: Command, kind: str, name: str) -> None:
    assert json.loads(edgeprune("list", kind, name, "--json").out)["name"] == name


def test_the_card_of_a_method(edgeprune: Command) -> None:
    out = " ".join(edgeprune("list", "methods", "visiondrop").out.split())
    for part in (
        "VisionDrop (visiondrop)",
        "1. after the encoder: attention of the class row",
        "needs nothing beyond what every supported checkpoint has",
        "no class published: the mean over all patches",
        "paper:640 960 > 704 > 517 > 379 of 2880, 640 on average (ours",
        "paper:256 768 > 194 > 49 > 12 of 2056, 255.8 on average (ours",
        "numbered anew after every cut (repack)",
        "reach 13..384 of 576 visual tokens on average over 32 decoder layers",
        "paper:64 96 > 70 > 52 > 38 of 576, 64 on average (ours",
        "paper:32 48 > 35 > 26 > 19 of 576, 32 on average (released code)",
        "published the stages",
        "ours the counts for other budgets",
        "arXiv 2506.22283",
        "github.com/Ruixxxx/VisionDrop",
    ):
        assert part in out
    facts = json.loads(edgeprune("list", "methods", "fastv", "--json").out)
    assert facts["places"] == [2]
    assert facts["reach"] == {"low": 37, "high": 575, "tokens": 576, "layers": 32}
    assert {entry["label"]: entry["average"] for entry in facts["budgets"]}["72"] == 103.5


def test_the_card_of_a_target(edgeprune: Command) -> None:
    out = " ".join(edgeprune("list", "targets", "orin-agx-64gb").out.split())
    for part in ("NVIDIA Jetson AGX Orin 64GB", "capability 8.7", "64 GB", "jetpack-6.2: TensorRT >= 10.3, < 10.4"):
        assert part in out
    assert "portable" in edgeprune("list", "targets", "rtx-portable").out


def test_methods_for_a_model(edgeprune: Command) -> None:
    lines = edgeprune("list", "methods", "--for", "qwen2.5-vl-3b").out.splitlines()
    assert [line.split()[:1] for line in lines] == [[name] for name in catalog.names()]
    flowcut = next(line for line in lines if line.startswith("flowcut "))
    assert "no " in flowcut and "the model's encoder is Qwen2.5-VL's own" in flowcut
    facts = json.loads(edgeprune("list", "methods", "--for", "llava-1.5-7b", "--json").out)
    assert facts["model"] == "llava-1.5-7b"
    assert {entry["carried"] for entry in facts["methods"]} == {"yes"}
    one = json.loads(edgeprune("list", "methods", "vispruner", "--for", "qwen2.5-vl-3b", "--json").out)["methods"]
    assert [(entry["method"], entry["carried"], entry["reach"]) for entry in one] == [("vispruner", "no", None)]
    (one,) = json.loads(edgeprune("list", "methods", "vscan", "--for", "qwen2.5-vl-7b", "--json").out)["methods"]
    assert one["carried"] == "generalised" and one["why"].startswith("published for Qwen2.5-VL: 4 x 4 windows")
    assert "no effect without methods" in edgeprune("list", "models", "--for", "llava-1.5-7b").line


def test_models_with_memory_and_targets(edgeprune: Command) -> None:
    found = {entry["name"]: entry["size"] for entry in json.loads(edgeprune("list", "models", "--json").out)}
    assert found["llava-v1.6-vicuna-7b"]["tokens"] == 2928
    needs = {need["dtype"]: need for need in found["llava-1.5-7b"]["needs"]}
    assert needs["fp32"]["weights"] == pytest.approx(2 * needs["fp16"]["weights"], rel=1e-6)
    assert 13.5e9 < needs["fp16"]["weights"] < 14e9
    assert needs["int4"]["fits"] == "orin-nano-8gb"
    assert "2,928 visual tokens; weights in GB: fp32 27.7, fp16 13.8" in edgeprune("list", "models").out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("methods", "visiondropp"), 2, "unknown method 'visiondropp'; methods: "),
        (("methods", "visiondropp"), 2, "did you mean 'visiondrop'?"),
        (("models", "llava-1.5-7"), 1, "did you mean 'llava-1.5-7b'?"),
        (("targets", "orin-agx-64"), 1, "did you mean 'orin-agx-64gb'?"),
        (("recipes",), 2, "'recipes' is not one of 'methods', 'models', 'targets'"),
    ],
)
def test_unknown_names(edgeprune: Command, words: tuple[str, ...], code: int, message: str) -> None:
    result = edgeprune("list", *words)
    assert (result.code, result.out) == (code, "")
    assert message in result.line


def test_it_is_fast_and_light() -> None:
    code = """
import sys
sys.argv = ['edgeprune', 'list', 'methods', 'visiondrop']
from edgeprune.cli import main
try:
    main()
finally:
    heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'PIL', 'transformers', 'matplotlib'} & set(sys.modules)
    assert not heavy, heavy
"""
    times = []
    for _ in range(3):  # time of the processor: the wall's depends on what else runs beside the tests
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stderr
    assert min(times) < 0.3
