"""edgeprune uses only names that every TensorRT has that it claims to run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.tensorrt_api import TABLE, WHEELS, Table, Use, main, problem, read_wheels

SOURCE = """
def build(library, engine, config):
    module = library.module
    context = engine.create_execution_context(module.ExecutionContextAllocationStrategy.USER_MANAGED)
    getattr(context, "is_stream_capturable", None)
    {line}
    if library.member("CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE"):
        config = engine.create_runtime_config()
        config.cuda_graph_strategy = 1
    config.profile_of_ours = module.__name__
"""


@pytest.fixture(scope="module")
def table() -> Table:
    return Table.from_json(TABLE.read_text())


def check(root: Path, line: str = "pass") -> None:
    path = root / "edgeprune" / "engines" / "some.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SOURCE.format(line=line))
    main(["--check", "--root", str(root)])


def test_edgeprune_uses_what_all_versions_have(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--check"])
    uses, files = (int(word) for word in capsys.readouterr().out.split()[:7] if word.isdigit())
    assert uses > 30 and files > 10


def test_a_name_that_was_asked_for_is_no_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(tmp_path)
    assert "5 uses of TensorRT's names in 1 files" in capsys.readouterr().out


LINES = {
    "engine.create_execution_context_without_device_memory()": "is not in tensorrt 11.4.0.106, tensorrt-rtx 1.7.1.116",
    "engine.create_runtime_config()": "engine.create_runtime_config is not in tensorrt 10.3.0",
    "context.is_stream_capturable(0)": "is not in tensorrt 10.3.0, tensorrt 10.13.3.9, tensorrt 10.16.1.11",
    "module.BuilderFlag.FP16": "BuilderFlag.FP16 is not in tensorrt 11.4.0.106, tensorrt-rtx 1.7.1.116",
    "module.NetworkDefinitionCreationFlag.EXPLICIT_BATCH": "EXPLICIT_BATCH is not in",
    "module.ICudaEngines": "no TensorRT has module.ICudaEngines",
    "module.DataType.FLOAT32": "no TensorRT has DataType.FLOAT32",
    "self._engine.create_runtime_config()": "some.py:6: engine.create_runtime_config is not in tensorrt 10.3.0",
}


@pytest.mark.parametrize("line", LINES)
def test_a_name_that_some_version_lacks_is_found(tmp_path: Path, line: str) -> None:
    with pytest.raises(SystemExit) as caught:
        check(tmp_path, line)
    assert LINES[line] in str(caught.value)


def test_asking_for_one_thing_does_not_excuse_another(table: Table) -> None:
    asked = ("LayerType.ATTENTION_INPUT",)  # since 10.14
    assert problem(table, Use("a.py:1", "attention", "decomposable")) is not None
    assert problem(table, Use("a.py:1", "attention", "decomposable", asked)) is None
    found = problem(table, Use("a.py:1", "context", "is_stream_capturable", asked))
    assert found == "a.py:1: context.is_stream_capturable is not in tensorrt 10.16.1.11, tensorrt 11.4.0.106"


def test_the_table_is_what_nvidias_bindings_say(table: Table) -> None:
    """Facts that are known from elsewhere: release notes and the installed TensorRT-RTX."""
    old, rtx = "tensorrt 10.3.0", "tensorrt-rtx 1.7.1.116"
    assert len(table.versions) == len(WHEELS) and {old, rtx} < set(table.versions)
    for owner, name in (("ICudaEngine", "is_shape_inference_io"), ("IExecutionContext", "set_device_memory"),
                        ("IExecutionContext", "update_device_memory_size_for_shapes"), ("", "Runtime")):  # fmt: skip
        assert table.having(owner, name) == set(table.versions)
    assert table.having("", "IRuntimeCache") == {rtx}
    assert old not in table.having("", "IAttention")
    trt = pytest.importorskip("tensorrt_rtx")
    if trt.__version__.startswith("1.7.1"):
        for owner in ("ICudaEngine", "IExecutionContext", "IBuilderConfig"):
            mine = {name.rpartition(".")[2] for name in table.names if name.startswith(f"{owner}.")}
            there = {name for name in mine if rtx in table.having(owner, name)}
            assert there == {name for name in dir(getattr(trt, owner)) if not name.startswith("_")}


def test_the_file_is_what_is_written(table: Table) -> None:
    assert table.to_json() == TABLE.read_text()


def test_a_wheel_that_is_not_there_is_named_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no tensorrt-cu12-bindings==10\.3\.0: pip download --no-deps --dest"):
        read_wheels(tmp_path)
