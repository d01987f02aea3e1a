"""Which TensorRT has which name, and whether edgeprune uses only names that every one of them has.

    python tools/tensorrt_api.py --check          fail if a name is used that some version lacks; needs no TensorRT
    python tools/tensorrt_api.py --wheels DIR     read NVIDIA's binding wheels in DIR, write tools/tensorrt_api.json

The wheels are those of WHEELS, fetched by ``pip download --no-deps --dest DIR`` for the Python that runs this. They
need NVIDIA's libraries to work, but not to be looked at: each module is imported beside empty libraries, made with the
C compiler, that have only the few functions the loader asks for.

What is checked: attributes of variables that are named as TensorRT's objects are (see RECEIVERS), and of the module's
classes. A name that some version has and another lacks must be asked for: ``getattr(x, "b", None)``, or after
``Library.member("A", "b")`` in the same function, behind which only the versions are counted that have what was asked
for. A name that no version has is taken for one of ours, but in the module itself.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tools" / "tensorrt_api.json"
SOURCES = ("edgeprune/runtime/trt.py", "edgeprune/runtime/engine.py", "edgeprune/nvidia/*.py", "edgeprune/engines/*.py")
WHEELS = (
    "tensorrt-cu12-bindings==10.3.0",
    "tensorrt-cu13-bindings==10.13.3.9",
    "tensorrt-cu13-bindings==10.16.1.11",
    "tensorrt-cu13-bindings==11.4.0.106",
    "tensorrt-rtx-cu13-bindings==1.7.1.116",
)
RECEIVERS: dict[str, tuple[str, ...]] = {
    "module": ("",),
    "runtime": ("Runtime",),
    "engine": ("ICudaEngine",),
    "context": ("IExecutionContext",),
    "config": ("IBuilderConfig", "IRuntimeConfig"),
    "builder": ("Builder",),
    "network": ("INetworkDefinition",),
    "parser": ("OnnxParser",),
    "profile": ("IOptimizationProfile",),
    "tensor": ("ITensor",),
    "layer": ("ILayer", "IAttentionInputLayer"),
    "attention": ("IAttention",),
}
"""What a variable of this name may be; "" is the module itself."""


@dataclass(frozen=True)
class Table:
    """The names of every version.

    Attributes:
        versions: "tensorrt 10.3.0", in order.
        names: "Class.member" or a name of the module, to the versions that have it.
    """

    versions: tuple[str, ...]
    names: dict[str, frozenset[str]]

    def having(self, owner: str, name: str) -> frozenset[str]:
        """The versions in which a class, or the module (""), has a name."""
        return self.names.get(f"{owner}.{name}" if owner else name, frozenset())

    def to_json(self) -> str:
        """Names by the versions that have them and by class, a line per class."""
        groups: dict[str, dict[str, list[str]]] = {}
        for full, there in sorted(self.names.items()):
            owner, _, name = full.rpartition(".")
            group = groups.setdefault(", ".join(version for version in self.versions if version in there), {})
            group.setdefault(owner, []).append(name)
        value = {where: {owner: " ".join(names) for owner, names in group.items()} for where, group in groups.items()}
        return json.dumps({"versions": self.versions, "names": value}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Table:
        """Read what ``to_json`` wrote."""
        value = json.loads(text)
        names = {
            f"{owner}.{name}" if owner else name: frozenset(where.split(", "))
            for where, group in value["names"].items()
            for owner, listed in group.items()
            for name in listed.split()
        }
        return cls(tuple(value["versions"]), names)


@dataclass(frozen=True)
class Use:
    """An attribute in a source: where, of what variable, and what was asked for before it."""

    place: str
    receiver: str
    name: str
    asked: tuple[str, ...] = ()


def uses(path: Path, shown: str) -> Iterator[Use]:
    """The attributes in a Python file, but for those that Python itself defines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    asked = [
        (_asks(node), node.lineno, function.end_lineno or 0)
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and _asks(node)
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not node.attr.startswith("__"):
            before = tuple(name for name, line, last in asked if line < node.lineno <= last)
            yield Use(f"{shown}:{node.lineno}", _last_name(node.value), node.attr, before)


def of_tensorrt(table: Table, use: Use) -> dict[str, frozenset[str]]:
    """The classes that the name may be one of, and which versions have it there."""
    owners = RECEIVERS.get(use.receiver, ())
    if table.having("", use.receiver):  # a class of the module
        owners = (use.receiver,)
    return {owner: there for owner in owners if (there := table.having(owner, use.name))}


def problem(table: Table, use: Use) -> str | None:
    """What is wrong with a use; None if nothing is."""
    found = of_tensorrt(table, use)
    if not found:
        is_ours = use.receiver != "module" and not table.having("", use.receiver)
        return None if is_ours else f"{use.place}: no TensorRT has {use.receiver}.{use.name}"
    there = frozenset[str]().union(*found.values())
    coming = frozenset(table.versions).intersection(*(table.having("", name) for name in use.asked))
    lacking = [version for version in table.versions if version in coming - there]
    return f"{use.place}: {use.receiver}.{use.name} is not in {', '.join(lacking)}" if lacking else None


def read_wheels(folder: Path) -> Table:
    """The names in the wheels of WHEELS.

    Raises:
        SystemExit: one is missing, or does not import.
    """
    versions: list[str] = []
    names: dict[str, set[str]] = {}
    for wanted in WHEELS:
        package, _, number = wanted.partition("==")
        found = sorted(folder.glob(f"{package.replace('-', '_')}-{number}-*.whl"))
        if not found:
            raise SystemExit(f"{folder} has no {wanted}: pip download --no-deps --dest {folder} {wanted}")
        version = f"{'tensorrt-rtx' if 'rtx' in package else 'tensorrt'} {number}"
        versions.append(version)
        for name in _names(found[0]):
            names.setdefault(name, set()).add(version)
    return Table(tuple(versions), {name: frozenset(there) for name, there in names.items()})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Hold edgeprune against the names that TensorRT's versions have.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true", help="fail if a name is used that some version lacks")
    what.add_argument("--wheels", type=Path, metavar="DIR", help="where NVIDIA's binding wheels lie")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="DIR", help="of the sources")
    options = parser.parse_args(arguments)
    if options.wheels:
        TABLE.write_text(read_wheels(options.wheels).to_json(), encoding="utf-8")
        return
    table = Table.from_json(TABLE.read_text(encoding="utf-8"))
    paths = sorted(path for pattern in SOURCES for path in options.root.glob(pattern))
    found = [use for path in paths for use in uses(path, path.relative_to(options.root).as_posix())]
    wrong = [line for use in found if (line := problem(table, use))]
    if wrong:
        raise SystemExit("\n".join(wrong))
    checked = sum(bool(of_tensorrt(table, use)) for use in found)
    print(f"{checked} uses of TensorRT's names in {len(paths)} files; all {len(table.versions)} versions have them")


def _asks(node: ast.Call) -> str:
    """``A.b`` of a call ``library.member("A", "b")``; empty for any other."""
    if not (isinstance(node.func, ast.Attribute) and node.func.attr == "member"):
        return ""
    return ".".join(str(word.value) for word in node.args if isinstance(word, ast.Constant))


def _last_name(node: ast.expr) -> str:
    """``engine`` of ``self._engine``, without underscores in front."""
    if isinstance(node, ast.Attribute):
        return node.attr.lstrip("_")
    return node.id.lstrip("_") if isinstance(node, ast.Name) else ""


# --- wheels -----------------------------------------------------------------------------------------------------

_LOOK = """
import importlib.util, json, sys
path, name = sys.argv[1:]
spec = importlib.util.spec_from_file_location(name, path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
names = []
for name in dir(module):
    if name.startswith("_"):
        continue
    found = getattr(module, name)
    names.append(name)
    if isinstance(found, type):
        names += [f"{name}.{member}" for member in dir(found) if not member.startswith("_")]
print(json.dumps(names))
"""


def _names(wheel: Path) -> list[str]:
    """Names of the module in a wheel, imported beside empty libraries in a process of its own."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        (library,) = (path for path in folder.rglob("tensorrt*.so") if path.parent.name.endswith("_bindings"))
        for name in _needed(library):
            source = folder / "empty.c"
            source.write_text("".join(f"void *{function}(void) {{ return 0; }}\n" for function in _functions(library)))
            _output("cc", "-shared", "-fPIC", "-o", str(folder / name), str(source))
        command = ["env", f"LD_LIBRARY_PATH={folder}", sys.executable, "-c", _LOOK, str(library), library.stem]
        names: list[str] = json.loads(_output(*command))
        return names


def _needed(library: Path) -> list[str]:
    """NVIDIA's libraries that a module is linked with."""
    found = re.findall(r"\(NEEDED\).*\[(lib(?:nv|tensorrt)[^]]*)\]", _output("readelf", "-d", str(library)))
    return sorted(found)


def _functions(library: Path) -> list[str]:
    """C functions that a module takes from them."""
    table = _output("readelf", "-W", "--dyn-syms", str(library))
    found = re.findall(r"FUNC\s+GLOBAL\s+DEFAULT\s+UND\s+(\w+)", table)
    return sorted({name for name in found if re.search(r"_INTERNAL$|PluginRegistry$|^initLib|^getNvOnnx", name)})


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    return done.stdout


if __name__ == "__main__":
    main()
