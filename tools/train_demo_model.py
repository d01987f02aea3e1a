"""Train the demo model from nothing: drawn scenes, a curriculum, and a Hugging Face directory at the end.

Two single-thread processes that add their gradients are faster on a small CPU than two threads in one. The time is
given in minutes and shared among the stages; a checkpoint after each stage (and every few minutes) lets ``--resume``
go on. Knows nothing of pruning beyond leaving rows out.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from tools.demo_training.stages import STAGES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for the checkpoint")
    parser.add_argument("--minutes", type=float, default=63.5, help="training time in all")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of what is dropped")
    parser.add_argument("--processes", type=int, default=2, help="each with one thread; 1 on a GPU")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda with one process")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/training.pt")
    parser.add_argument("--until", choices=[stage.name for stage in STAGES], help="stop after this stage")
    options = parser.parse_args()
    if options.device != "cpu" and options.processes != 1:
        parser.error("a GPU trains in one process: add --processes 1")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.processes == 1:
        train(0, options)
    else:
        from torch.multiprocessing.spawn import spawn

        os.environ["OMP_NUM_THREADS"] = "1"
        spawn(train, (options,), nprocs=options.processes)


def train(rank: int, options: argparse.Namespace) -> None:
    import torch

    from tools.demo_training.run import Run

    if options.device == "cpu":
        torch.set_num_threads(1)
    run = Run.start(rank, options.processes, options.device, options.seed, options.out, options.resume)
    total = sum(stage.share for stage in STAGES)
    for index, stage in enumerate(STAGES):
        run.train(index, stage, options.minutes * 60 * stage.share / total)
        if stage.name == options.until:
            break
    run.finish()


if __name__ == "__main__":
    main()
