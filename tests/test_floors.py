"""The architecture: what may import what, what importing costs, and what the public names are."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import edgeprune

ROOT = Path(__file__).parents[1]
HOST_ONLY = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "safetensors", "huggingface_hub")


def python(code: str, *arguments: str) -> str:
    """Run code in a fresh interpreter; returns its stdout."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


BLOCK = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {HOST_ONLY!r}:
            raise ImportError('blocked: ' + name)
sys.meta_path.insert(0, Blocked())
"""


def test_the_device_tower_imports_without_the_host_packages() -> None:
    python(
        BLOCK
        + """
import pkgutil, importlib
packages = 'errors local bundle catalog recipes budget estimate power demo show runtime'
for package in packages.split():
    module = importlib.import_module('edgeprune.' + package)
    for found in pkgutil.walk_packages(getattr(module, '__path__', []), module.__name__ + '.'):
        importlib.import_module(found.name)
"""
    )


def test_a_whole_run_without_the_host_packages(bundle_tiny: Path, tmp_path: Path) -> None:
    out = python(
        BLOCK
        + """
from PIL import Image
Image.new('RGB', (60, 40), 'red').save(sys.argv[2] + '/a.png')
sys.argv = ['edgeprune', 'run', sys.argv[1], sys.argv[2] + '/a.png', 'what?', '--keep', '20',
            '--max-new-tokens', '3', '--overlay', sys.argv[2] + '/kept.png', '--json']
from edgeprune.cli import main
main()
""",
        str(bundle_tiny),
        str(tmp_path),
    )
    assert '"generated_tokens": 3' in out
    assert (tmp_path / "kept.png").stat().st_size > 1000


def seconds(*arguments: str) -> float:
    """The best of several runs of the interpreter."""
    times = []
    for _ in range(7):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, cwd=ROOT)
        times.append(time.perf_counter() - start)
    return min(times)


def test_import_is_fast() -> None:
    assert seconds("-c", "import edgeprune") - seconds("-c", "") < 0.05


def test_help_and_estimate_are_fast() -> None:
    """On a busy machine, in units of what every program with a command line pays: importing click takes 0.05 s."""
    click = seconds("-c", "import click")
    words = ("llava-1.5-7b", "--method", "visiondrop", "--keep", "64", "--target", "orin-agx-64gb")
    assert seconds("-m", "edgeprune", "--help") < max(0.2, 4 * click)
    assert seconds("-m", "edgeprune", "estimate", *words) < max(0.3, 6 * click)


def test_import_loads_nothing_heavy() -> None:
    loaded = python("import sys, edgeprune; print(' '.join(m.split('.')[0] for m in sys.modules))").split()
    assert not {"numpy", "PIL", "click", "torch", "onnxruntime", "tokenizers"} & set(loaded)


def test_public_names() -> None:
    assert edgeprune.__all__ == ["VLM", "Answer", "EdgePruneError", "Sampling", "__version__", "open"]
    for name in edgeprune.__all__:
        assert getattr(edgeprune, name) is not None


def test_import_contracts() -> None:
    done = subprocess.run(["lint-imports"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout
