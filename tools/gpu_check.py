"""One command for any machine with an NVIDIA GPU: builds, verifies and measures, and says what was reached.

    python tools/gpu_check.py --out gpu/                        everything: minutes on a datacenter GPU
    python tools/gpu_check.py --out gpu/ --time-limit 500       what fits into 500 seconds
    python tools/gpu_check.py --out gpu/ --device cpu --shapes tiny      a check of this tool, without a GPU

1. Tries TensorRT, then TensorRT-RTX, then ONNX Runtime with CUDA: each builds a tiny random model, runs it, and has
   every graph and the chain verified against PyTorch. The first that works goes on; why another did not is reported.
2. Writes random checkpoints of LLaVA-1.5-7B's shape, and runs PyTorch eager on them, full and pruned.
3. Exports, builds and loads the chain, compares its logits with eager's, and measures both in turns.

The table goes to stdout, gpu_check.md and gpu_check.json; the last line of stdout is the same JSON. Both files are
written anew after every round. Exit code 1: no GPU, the backend that was asked for does not work, or a part broke; 3: a
check found a difference.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    root = str(Path(__file__).resolve().parents[1])
    if root not in sys.path:  # run as a file, Python looks beside it only
        sys.path.insert(0, root)
    from edgeprune.errors import EdgePruneError
    from tools.gpu.bench import Rounds
    from tools.gpu.run import run
    from tools.gpu.settings import Settings
    from tools.gpu.table import markdown

    on_gpu = options.device == "cuda"
    settings = Settings(
        shapes=tuple(options.shapes or (["llava-1.5-7b", "llava-next-7b"] if on_gpu else ["tiny"])),
        device=options.device,
        backend=options.backend,
        dialect=options.dialect,
        dtype=options.dtype or ("fp16" if on_gpu else "fp32"),
        layers=options.layers,
        keeps=tuple(options.keeps.split(",")) if options.keeps else None,
        rounds=Rounds(options.warmup, options.repeats, options.decode_repeats, options.new_tokens),
        work=options.work or options.out / "work",
        out=options.out,
        time_limit=options.time_limit,
    )
    try:
        report = run(settings)
    except EdgePruneError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    print(markdown(report))
    print()
    print(report.to_json())
    if report.errors:
        raise SystemExit(1)
    if report.failures:
        raise SystemExit(3)


def _parser() -> argparse.ArgumentParser:
    shapes = ("tiny", "tiny-next", "llava-1.5-7b", "llava-next-7b")
    backends = ("auto", "tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime-cpu", "eager")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the report goes")
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", help="where models go, up to 45 GB; what is there is used (OUT/work)"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shapes", nargs="+", choices=shapes, metavar="SHAPE", help=f"of {', '.join(shapes)}")
    parser.add_argument("--layers", type=_count, metavar="N", help="decoder layers, where the shape has more")
    parser.add_argument("--backend", choices=backends, default="auto", help="eager: no compiled backend")
    parser.add_argument(
        "--dialect", choices=("fused", "base", "both"), help="of the graphs; default: fused where the backend takes it"
    )
    parser.add_argument("--dtype", choices=("fp16", "fp32"), help="default: fp16 on a GPU, fp32 on a CPU")
    parser.add_argument("--keeps", metavar="all,192,64", help="budgets instead of the paper's")
    parser.add_argument("--repeats", type=_count, default=10, metavar="N", help="prefills that count (10)")
    parser.add_argument("--warmup", type=_count, default=3, metavar="N", help="rounds that do not (3)")
    parser.add_argument("--decode-repeats", type=_count, default=2, metavar="N", help="rounds that decode, too (2)")
    parser.add_argument("--new-tokens", type=_count, default=32, metavar="N", help="tokens decoded in a round (32)")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="skip what does not fit, and say so")
    return parser


def _count(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number from 1 on")
    return int(text)


if __name__ == "__main__":
    main()
