"""One training process: its model, optimiser, place in the curriculum, checkpoint and log.

Processes draw different pictures and sum one flat gradient, so they stay equal. Rank 0 measures the time, and what
it measured travels with the gradient: all processes leave a stage at the same step.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from edgeprune.demo.questions import ask
from tools.demo_training import words
from tools.demo_training.directory import write_directory
from tools.demo_training.drop import draw_plan, keep_rows
from tools.demo_training.network import GRID, PATCH, build, project, see
from tools.demo_training.packing import Packed, answer_loss, pack
from tools.demo_training.pictures import Pictures, draw_pictures
from tools.demo_training.placed import placed
from tools.demo_training.probes import Probes
from tools.demo_training.stages import STAGES, Stage

WARM_UP = 60  # steps
CLIP = 1.0
SAVE_EVERY_S = 60.0
STAGE_SEEDS = 10_000_000  # seeds of one stage; the stages together stay below the held-out ones


class Run:
    """What a process trains with. ``done`` and ``spent_s`` count steps and seconds of each stage."""

    def __init__(self, rank: int, size: int, device: str, seed: int, out: Path) -> None:
        self.rank, self.size, self.device, self.out = rank, size, device, out
        self.tokenizer = words.tokenizer()
        self.model = build(words.VOCABULARY, words.IMAGE, words.PAD, words.BOS, words.EOS, seed).to(device)
        self.probes = Probes().to(device)
        named = [*self.model.named_parameters(), *self.probes.named_parameters()]
        decayed = [p for n, p in named if p.ndim > 1 and "embed" not in n]
        plain = [p for n, p in named if not (p.ndim > 1 and "embed" not in n)]
        self.parameters = decayed + plain
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), fused=True)
        self.draws = torch.Generator().manual_seed(seed * 1000 + 17)  # the same in every process
        self.done = {stage.name: 0 for stage in STAGES}
        self.spent_s = {stage.name: 0.0 for stage in STAGES}

    @staticmethod
    def start(rank: int, size: int, device: str, seed: int, out: Path, resume: bool) -> Run:
        """Join the other processes and take up the checkpoint if asked to."""
        if size > 1:
            rendezvous = out / "rendezvous"
            if rank == 0:
                rendezvous.unlink(missing_ok=True)
            time.sleep(0.0 if rank == 0 else 3.0)  # a stale file would be joined instead
            dist.init_process_group("gloo", init_method=f"file://{rendezvous.resolve()}", rank=rank, world_size=size)
        run = Run(rank, size, device, seed, out)
        if resume:
            run.load()
        return run

    def load(self) -> None:
        """Take up the checkpoint."""
        state = torch.load(self.out / "training.pt", map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.probes.load_state_dict(state["probes"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.draws.set_state(state["draws"].cpu())
        self.done |= state["done"]
        self.spent_s |= state["spent_s"]

    def save(self) -> None:
        """Write the checkpoint (rank 0), whole or not at all."""
        if self.rank:
            return
        state = {
            "model": self.model.state_dict(),
            "probes": self.probes.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "draws": self.draws.get_state(),
            "done": self.done,
            "spent_s": self.spent_s,
        }
        part = self.out / "training.pt.part"
        torch.save(state, part)
        part.replace(self.out / "training.pt")

    def train(self, index: int, stage: Stage, seconds: float) -> None:
        """Go through ``stage`` until it has had ``seconds``, those before a resume included."""
        before = self.spent_s[stage.name]
        if before >= seconds:
            return
        begun = saved = time.monotonic()
        bar = tqdm(total=round(seconds), initial=round(before), desc=stage.name, unit="s", disable=self.rank > 0)
        sums: dict[str, float] = {}
        first = self.done[stage.name]
        part = before / seconds
        while part < 1:
            step = self.done[stage.name]
            rate = stage.peak * min(1.0, (step - first + 1) / WARM_UP) * _fall(part, stage.last)
            figures = self.step(index, stage, rate)
            part = self.agree((before + time.monotonic() - begun) / seconds)
            self.done[stage.name] = step + 1
            self.spent_s[stage.name] = part * seconds
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value
                sums["#" + name] = sums.get("#" + name, 0.0) + 1
            if (step + 1) % 25 == 0:
                self.report(stage, step + 1, sums, bar)
                sums = {}
            if time.monotonic() - saved > SAVE_EVERY_S:
                self.save()
                saved = time.monotonic()
        bar.close()
        self.save()
        if self.rank == 0:
            (self.out / f"after-{stage.name}.pt").write_bytes((self.out / "training.pt").read_bytes())

    def step(self, index: int, stage: Stage, rate: float) -> dict[str, float]:
        """Draw, go forward and back, add the processes' gradients, update."""
        each = stage.batch // self.size
        start = index * STAGE_SEEDS + (self.done[stage.name] * self.size + self.rank) * each
        pictures = placed(draw_pictures(stage.view, range(start, start + each)), self.device)
        loss, figures = self.loss(stage, pictures)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = self.share_gradients()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return {**figures, "norm": norm, "rate": rate}

    def loss(self, stage: Stage, pictures: Pictures) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of a batch, and figures to watch."""
        seen = see(self.model, pictures.patches, pictures.place)
        loss, figures = self.probes(seen, pictures)
        loss = loss * stage.probes
        if stage.answers:
            plan = draw_plan(stage, stage.view.grid**2, self.draws)
            rows = project(self.model, keep_rows(seen, pictures, plan))
            answers, answered = answer_loss(self.model, rows, self.pack(stage, pictures), plan.cuts)
            loss = loss + answers
            figures |= answered | {"rows": float(rows.shape[1])}
        return loss, figures

    def pack(self, stage: Stage, pictures: Pictures) -> Packed:
        """Ask about the pictures, each from its own seed."""
        asked = []
        for shapes, corner, seed in zip(pictures.shapes, pictures.corner, pictures.seeds, strict=True):
            middle = (GRID / 2 - corner[0]) * PATCH, (GRID / 2 - corner[1]) * PATCH
            rng = np.random.default_rng((seed, 1))
            asked.append(ask(rng, shapes, stage.view.grid * PATCH, middle, stage.per_kind, stage.hard_no))
        return placed(pack(self.tokenizer, asked), self.device)

    def share_gradients(self) -> float:
        """Average the gradients over the processes and clip them; returns their norm before."""
        with_gradient = [p for p in self.parameters if p.grad is not None]
        flat = torch.cat([p.grad.flatten() for p in with_gradient])
        if self.size > 1:
            dist.all_reduce(flat)
            flat /= self.size
        norm = float(flat.norm())
        flat *= min(1.0, CLIP / (norm + 1e-6))
        for p, piece in zip(with_gradient, flat.split([p.numel() for p in with_gradient]), strict=True):
            p.grad.copy_(piece.view_as(p))
        return norm

    def agree(self, value: float) -> float:
        """Rank 0's value, everywhere."""
        if self.size == 1:
            return value
        told = torch.tensor([value])
        dist.broadcast(told, 0)
        return float(told)

    def report(self, stage: Stage, step: int, sums: dict[str, float], bar: Any) -> None:
        """Append means to the log (rank 0)."""
        if self.rank:
            return
        means = {k: round(v / sums["#" + k], 4) for k, v in sums.items() if not k.startswith("#")}
        bar.n = round(self.spent_s[stage.name])
        bar.set_postfix({k: v for k, v in means.items() if k in ("answer", "p_shape")})
        with (self.out / "log.jsonl").open("a") as log:
            log.write(json.dumps({"stage": stage.name, "step": step, "s": bar.n, **means}) + "\n")

    def finish(self) -> None:
        """Write the Hugging Face directory."""
        if self.rank == 0:
            write_directory(self.model, self.out / "checkpoint")
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()


def _fall(part: float, last: float) -> float:
    """1 for the first half of a stage, then a half cosine to ``last``."""
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * max(0.0, 2 * part - 1)))
