"""Targets: those that come along load and stand in the README, and a file that says something unknown does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgeprune.errors import RecipeError, UsageError
from edgeprune.recipes import find, target
from edgeprune.recipes.target import GIB, Range, Shapes, Stack, Target

ORIN = ("orin-agx-32gb", "orin-agx-64gb", "orin-nano-8gb", "orin-nx-16gb", "orin-nx-8gb")
SMALL = ("orin-nano-8gb", "orin-nx-8gb")
README = (find.folder("engines") / "README.md").read_text(encoding="utf-8")

GOOD = """
device = "Board"
kind = "jetson"
compute_capability = ["8.7"]
memory_gb = 8
bandwidth_gbps = 102.4
precision = "fp16"
workspace_gb = 0.5

[tflops]
fp16 = 17

[[stacks]]
name = "first"
flavour = "tensorrt"
least = "10.3"
below = "10.4"
dialects = ["base"]
"""


def _write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_targets_that_come_along() -> None:
    assert target.names() == (
        "a100-80gb",
        "h100",
        "h200",
        "l4",
        *ORIN,
        "rtx-4090",
        "rtx-5090",
        "rtx-portable",
        "thor-t5000",
    )


@pytest.mark.parametrize("name", target.names())
def test_a_target_that_comes_along_is_whole(name: str) -> None:
    loaded = target.load(name)
    assert loaded.name == name
    assert loaded.precision == "fp16"
    assert loaded.sources
    assert loaded.notes and "\n" not in loaded.notes
    assert loaded.shapes.text == Range(2, 64, 512)
    assert loaded.shapes.kept == (Range(1, 128, 576) if name in SMALL else Range(1, 192, 3328))
    assert loaded.shapes.runs == (Range(1, 1, 5) if name in SMALL else Range(1, 5, 13))
    assert loaded.shapes.context == (2048 if name in SMALL else 4096)
    # The bundle's text and visual rows must fit a cache together.
    assert loaded.shapes.text.most + loaded.shapes.kept.most < loaded.shapes.context
    for stack in loaded.stacks:
        # RotaryEmbedding and RMSNormalization came with TensorRT 10.15.
        assert ("fused" in stack.dialects) == (stack.flavour == "tensorrt-rtx" or stack.least >= (10, 15))
        assert "base" in stack.dialects


def test_no_library_serves_two_stacks_of_a_target() -> None:
    for name in target.names():
        stacks = target.load(name).stacks
        for one in stacks:
            others = [other.name for other in stacks if other is not one and other.serves(one.flavour, one.least)]
            assert others == [], f"{name}: {one.name}"


def test_figures_become_bytes_and_operations() -> None:
    orin = target.load("orin-agx-64gb")
    assert (orin.memory, orin.workspace) == (64 * 2**30, 4 * 2**30)
    assert orin.bandwidth == pytest.approx(204.8e9)
    assert orin.flops == {"fp16": pytest.approx(42.5e12), "int8": pytest.approx(85e12)}
    portable = target.load("rtx-portable")
    assert (portable.memory, portable.bandwidth, portable.flops) == (None, None, {})
    assert portable.capabilities == ("8.0", "8.6", "8.9", "12.0")


def test_every_key_is_read(tmp_path: Path) -> None:
    text = """
        device = "Card"
        kind = "gpu"
        compute_capability = ["12.0"]
        memory_gb = 32
        bandwidth_gbps = 1792
        precision = "fp32"
        workspace_gb = 1.5
        sources = ["a page"]
        notes = "ours"
        [tflops]
        fp32 = 104.5
        fp16 = 210
        int8 = 838
        fp8 = 419
        [shapes]
        batch = [1, 2, 4]
        text = [3, 50, 100]
        kept = [4, 60, 200]
        runs = [1, 3, 7]
        context = 1000
        [[stacks]]
        name = "new"
        flavour = "tensorrt"
        least = "11.4.1"
        below = "12.0"
        dialects = ["fused", "base"]
        [[stacks]]
        name = "rtx"
        flavour = "tensorrt-rtx"
        least = "1.7.1.116"
        below = "2.0"
        dialects = ["fused"]
    """
    loaded = target.load(_write(tmp_path, text))
    assert loaded == Target(
        name="mine",
        device="Card",
        kind="gpu",
        capabilities=("12.0",),
        memory=32 * GIB,
        bandwidth=1792e9,
        flops={"fp32": 104.5e12, "fp16": 210e12, "int8": 838e12, "fp8": 419e12},
        precision="fp32",
        stacks=(
            Stack("new", "tensorrt", (11, 4, 1), (12, 0), ("fused", "base")),
            Stack("rtx", "tensorrt-rtx", (1, 7, 1, 116), (2, 0), ("fused",)),
        ),
        workspace=3 * GIB // 2,
        shapes=Shapes(Range(1, 2, 4), Range(3, 50, 100), Range(4, 60, 200), 1000, Range(1, 3, 7)),
        sources=("a page",),
        notes="ours",
    )
    assert eval(repr(loaded)) == loaded


def test_what_is_left_out_has_the_defaults_of_the_readme(tmp_path: Path) -> None:
    loaded = target.load(_write(tmp_path, GOOD))
    assert loaded.shapes == Shapes(Range(1, 1, 1), Range(2, 64, 512), Range(1, 192, 3328), 4096, Range(1, 5, 13))
    assert (loaded.sources, loaded.notes) == ((), "")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # unknown keys
        ("memory_gb", "memroy_gb", r"unknown key 'memroy_gb'; allowed: device, .*did you mean 'memory_gb'\?"),
        ("fp16 = 17", "fp61 = 17", r"unknown key 'fp61' in tflops; allowed: fp32, .*did you mean 'fp16'\?"),
        ("least =", "lest =", r"unknown key 'lest' in stacks\[0\]; allowed: name, .*did you mean 'least'\?"),
        ("[tflops]", "[shapes]\nbatches = 1\n[tflops]", r"unknown key 'batches' in shapes; .*did you mean 'batch'\?"),
        ('device = "Board"', 'device = "Board"\nzzz = 1', r"unknown key 'zzz'; allowed: [^;]*$"),
        # missing keys
        ('device = "Board"', "", "the key 'device' is missing; expected a text"),
        ('kind = "jetson"', "", "the key 'kind' is missing; expected one of jetson, gpu, portable"),
        ('compute_capability = ["8.7"]', "", "the key 'compute_capability' is missing"),
        ("memory_gb = 8", "", "the key 'memory_gb' is missing; kind = 'jetson' needs it"),
        ("bandwidth_gbps = 102.4", "", "the key 'bandwidth_gbps' is missing; kind = 'jetson' needs it"),
        ('precision = "fp16"', "", "the key 'precision' is missing"),
        ("workspace_gb = 0.5", "", "the key 'workspace_gb' is missing"),
        ("[[stacks]]", "[[stakcs]]", "unknown key 'stakcs'"),
        ('name = "first"', "", r"the key 'name' is missing in stacks\[0\]"),
        ('below = "10.4"', "", r"the key 'below' is missing in stacks\[0\]; expected a version as text"),
        # wrong types
        ('"Board"', "7", "device = 7; expected a text"),
        ('"Board"', '""', "device = ''; expected a text that is not empty"),
        ('"jetson"', '"server"', "kind = 'server'; expected one of jetson, gpu, portable"),
        ('["8.7"]', '"8.7"', "compute_capability = '8.7'; expected a list of texts"),
        ('["8.7"]', "[8.7]", r"compute_capability = \[8.7\]"),
        ('["8.7"]', '["87"]', r"compute_capability = \['87'\]"),
        ('["8.7"]', '["sm_87"]', r"compute_capability = \['sm_87'\]"),
        ('["8.7"]', '["8.7\\n"]', "compute_capability = "),
        ('["8.7"]', "[]", r"compute_capability = \[\]"),
        ("memory_gb = 8", "memory_gb = true", "memory_gb = True; expected a number"),
        ("memory_gb = 8", "memory_gb = 0", "memory_gb = 0; expected a number above 0"),
        ("memory_gb = 8", "memory_gb = nan", "memory_gb = nan"),
        ("102.4", "inf", "bandwidth_gbps = inf"),
        ("102.4", "-1", "bandwidth_gbps = -1"),
        ("= 0.5", '= "1"', "workspace_gb = '1'"),
        ("fp16 = 17", "fp16 = false", "tflops.fp16 = False"),
        ('precision = "fp16"', 'precision = "int8"', "precision = 'int8'; expected one of fp32, fp16"),
        ('precision = "fp16"', 'precision = "fp16"\nnotes = 1', "notes = 1; expected a text"),
        ('precision = "fp16"', 'precision = "fp16"\nsources = "x"', "sources = 'x'; expected a list of texts"),
        ('precision = "fp16"', 'precision = "fp16"\nshapes = 3', r"shapes = 3; expected a table: \[shapes\]"),
        ("[tflops]\nfp16 = 17", "", "precision = 'fp16'; expected one that .* names nothing"),
        ("fp16 = 17", "fp32 = 5", "precision = 'fp16'; expected one that .* names fp32"),
        ('"tensorrt"', '"trt"', r"stacks\[0\].flavour = 'trt'; expected one of tensorrt, tensorrt-rtx"),
        ('"first"', '"../up"', r"stack name = '../up'"),
        ('"first"', '"a@b"', r"stack name = 'a@b'"),
        # versions and dialects
        ('"10.3"', "10.3", r'stacks\[0\].least = 10.3; expected a version as text, such as "10.3"'),
        ('"10.3"', '"10"', r"stacks\[0\].least = '10'"),
        ('"10.3"', '"10.x"', r"stacks\[0\].least = '10.x'"),
        ('"10.4"', '"10.4-rc1"', r"stacks\[0\].below = '10.4-rc1'"),
        ('"10.4"', '"10.3"', "stack first: least = '10.3'; expected less than below = '10.3'"),
        ('"10.4"', '"10.3.0"', "stack first: least = '10.3'; expected less than below = '10.3.0'"),
        ('"10.4"', '"9.9"', "stack first: least = '10.3'; expected less than below = '9.9'"),
        ('["base"]', "[]", r"stacks\[0\].dialects = \[\]; expected a list of base, fused"),
        ('["base"]', '["ort"]', r"stacks\[0\].dialects = \['ort'\]"),
        ('["base"]', '["base", "base"]', "stack first: dialects = .*each once"),
        # ranges
        ("[tflops]", "[shapes]\nbatch = [2, 1, 4]\n[tflops]", r"shapes.batch = \[2, 1, 4\]; expected 1 <= least"),
        (
            "[tflops]",
            "[shapes]\nkept = [0, 1, 4]\n[tflops]",
            r"shapes.kept = \[0, 1, 4\]; expected three whole numbers",
        ),
        ("[tflops]", "[shapes]\ntext = [1, 2]\n[tflops]", r"shapes.text = \[1, 2\]; expected three"),
        ("[tflops]", "[shapes]\ntext = [1, true, 2]\n[tflops]", r"shapes.text = \[1, True, 2\]; expected three"),
        ("[tflops]", "[shapes]\ncontext = 0\n[tflops]", "shapes.context = 0; expected a whole number"),
        ("[tflops]", "[shapes]\ncontext = 2048.0\n[tflops]", "shapes.context = 2048.0"),
        ("[tflops]", "[shapes]\ncontext = 512\n[tflops]", "shapes.context = 512; expected more than the 512"),
        # keys that do not fit each other
        ('["8.7"]', '["8.7", "8.9"]', "kind = 'jetson' needs exactly one"),
        ("= 0.5", "= 8", "workspace_gb = 8; expected less than memory_gb"),
        ('"jetson"', '"portable"', "memory_gb is given, and kind = 'portable' has none"),
        ("device =", "device", "is not TOML"),
    ],
)
def test_refuses(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    path = _write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(RecipeError, match=message) as caught:
        target.load(path)
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


def test_refuses_two_stacks_of_one_name(tmp_path: Path) -> None:
    path = _write(tmp_path, GOOD + GOOD[GOOD.index("[[stacks]]") :])
    with pytest.raises(RecipeError, match=r"stacks are named \['first', 'first'\]; expected .* a name of its own"):
        target.load(path)


def test_refuses_figures_and_tensorrt_of_a_portable_target() -> None:
    portable = target.load("rtx-portable")
    for change in ({"memory": GIB}, {"bandwidth": 1e9}, {"flops": {"fp16": 1e12}}):
        with pytest.raises(RecipeError, match="is given, and kind = 'portable' has none"):
            dataclasses.replace(portable, **change)
    with pytest.raises(RecipeError, match=r"stack tensorrt-11: .*'portable' needs tensorrt-rtx"):
        dataclasses.replace(portable, stacks=target.load("l4").stacks[:1])
    with pytest.raises(RecipeError, match="expected each once"):
        dataclasses.replace(portable, capabilities=("8.6", "8.6"))


def test_refuses_a_file_name_that_cannot_name_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "my board.toml"
    path.write_text(GOOD, encoding="utf-8")
    with pytest.raises(RecipeError, match="target name 'my board'"):
        target.load(str(path))


def test_unknown_targets(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no target 'orin-agx-64' in .*known: a100.*did you mean 'orin-agx-64gb'\?"):
        target.load("orin-agx-64")
    with pytest.raises(RecipeError, match=r"no target file .*absent\.toml"):
        target.load(str(tmp_path / "absent.toml"))


def test_unknown_stacks() -> None:
    orin = target.load("orin-agx-64gb")
    assert orin.stack("jetpack-7.2").least == (10, 16)
    with pytest.raises(
        UsageError, match=r"orin-agx-64gb has no stack 'jetpack-6'; it has jetpack-6.2, .*did you mean 'jetpack-6.2'\?"
    ):
        orin.stack("jetpack-6")


@pytest.mark.parametrize(
    ("flavour", "version", "stacks"),
    [
        ("tensorrt", (10, 3, 0), {"orin-agx-64gb": "jetpack-6.2", "orin-nano-8gb": "jetpack-6.2"}),
        ("tensorrt", (10, 7, 0), {}),
        ("tensorrt", (10, 13, 3, 9), {"thor-t5000": "jetpack-7.1"}),
        (
            "tensorrt",
            (10, 16, 1, 11),
            {
                "orin-agx-64gb": "jetpack-7.2",
                "orin-nano-8gb": "jetpack-7.2",
                "thor-t5000": "jetpack-7.2",
                "h200": "tensorrt-10",
                "rtx-4090": "tensorrt-10",
            },
        ),
        # NVIDIA supports TensorRT 11 on Jetson from 11.4.1 on.
        ("tensorrt", (11, 4, 0, 106), {"h200": "tensorrt-11", "rtx-4090": "tensorrt-11"}),
        (
            "tensorrt",
            (11, 4, 1, 12),
            {
                "orin-agx-64gb": "jetpack-7.2.2",
                "thor-t5000": "jetpack-7.2.2",
                "h200": "tensorrt-11",
                "rtx-4090": "tensorrt-11",
            },
        ),
        ("tensorrt", (12, 0, 0), {}),
        ("tensorrt-rtx", (1, 7, 1, 116), {"rtx-4090": "tensorrt-rtx", "rtx-portable": "tensorrt-rtx"}),
        ("tensorrt-rtx", (10, 16, 1, 11), {}),
    ],
)
def test_the_stack_of_an_installed_library(flavour: str, version: tuple[int, ...], stacks: dict[str, str]) -> None:
    for name in ("orin-agx-64gb", "orin-nano-8gb", "thor-t5000", "h200", "rtx-4090", "rtx-portable"):
        chosen = target.load(name).choose(flavour, version)
        assert (chosen.name if chosen else None) == stacks.get(name), name


def test_a_version_with_and_without_trailing_zeros_is_one() -> None:
    stack = Stack("mine", "tensorrt", (10, 3, 0), (10, 4), ("base",))
    assert stack.serves("tensorrt", (10, 3))
    assert not stack.serves("tensorrt", (10, 4, 0))
    assert stack.versions == "TensorRT >= 10.3.0, < 10.4"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("orin-agx-64gb", ("orin-agx-64gb", None)),
        ("orin-agx-64gb@jetpack-7.2", ("orin-agx-64gb", "jetpack-7.2")),
        ("mine.toml@jetpack-7.2", ("mine.toml", "jetpack-7.2")),
        ("me@home/mine.toml", ("me@home/mine.toml", None)),
        ("me@home/mine.toml@first", ("me@home/mine.toml", "first")),
        ("a@b.toml", ("a@b.toml", None)),
        ("me@home/mine", ("me@home/mine", None)),
    ],
)
def test_split(text: str, parts: tuple[str, str | None]) -> None:
    assert target.split(text) == parts


@pytest.mark.parametrize("text", ["", "@", "@jetpack-7.2", "orin-agx-64gb@"])
def test_split_refuses_an_empty_part(text: str) -> None:
    with pytest.raises(UsageError, match=f"target '{text}'; expected NAME or NAME@STACK"):
        target.split(text)


def test_the_readme_names_every_key() -> None:
    written = tuple(line.split("`")[1] for line in README.splitlines() if line.startswith("| `"))
    assert written == target.KEYS


def test_the_readme_shows_every_target_as_its_file_has_it() -> None:
    rows = [_target_row(target.load(name)) for name in target.names()]
    assert _rows_below("| target |") == rows


def test_the_readme_shows_every_stack_as_the_files_have_it() -> None:
    rows = {_stack_row(stack) for name in target.names() for stack in target.load(name).stacks}
    written = _rows_below("| stack |")
    assert len(written) == len({stack.name for name in target.names() for stack in target.load(name).stacks})
    assert set(written) == rows


def _rows_below(header: str) -> list[str]:
    lines = README.splitlines()
    (start,) = [number for number, line in enumerate(lines) if line.startswith(header)]
    rows = lines[start + 2 :]
    return rows[: rows.index("")]


def _target_row(shown: Target) -> str:
    """A row of the README's table: what to paste there when this test fails."""
    memory = f"{shown.memory / GIB:g}" if shown.memory else "-"
    bandwidth = f"{shown.bandwidth / 1e9:g}" if shown.bandwidth else "-"
    flops = f"{shown.flops['fp16'] / 1e12:g}" if shown.flops else "-"
    stacks = ", ".join(stack.name for stack in shown.stacks)
    capabilities = ", ".join(shown.capabilities)
    return f"| {shown.name} | {shown.device} | {capabilities} | {memory} | {bandwidth} | {flops} | {stacks} |"


def _stack_row(stack: Stack) -> str:
    return f"| {stack.name} | {stack.versions} | {', '.join(stack.dialects)} |"
