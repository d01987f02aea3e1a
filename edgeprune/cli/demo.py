"""``edgeprune demo``: the whole chain on the model that ships with edgeprune."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli.options import DEMO_ID, QUIET, THREADS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from edgeprune.bundle.store import Bundle
    from edgeprune.demo.scenes import Scene
    from edgeprune.eval.accuracy import Accuracy
    from edgeprune.runtime.vlm import VLM

_BUDGETS = ("all", "192", "128", "64", "32", "16")
_SHOWN = ("all", "64", "32")
_LONGEST_ANSWER = 8  # tokens; the model answers in one or two words


@click.command(name="demo")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("edgeprune-demo"), show_default=True)
@click.option("--scenes", type=click.IntRange(min=1), default=24, show_default=True, help="Held-out scenes to use.")
@THREADS
@QUIET
def command(output: Path, scenes: int, threads: int | None, quiet: bool) -> None:
    """Export the demo model with VisionDrop, ask it about pictures at several budgets, compare with PyTorch eager.

    Writes the bundle and a picture of what each stage kept to the output folder; a bundle that is there is reused.
    """
    from edgeprune.cli.extras import require_eager, require_export

    require_export()
    require_eager()
    import torch

    from edgeprune import demo
    from edgeprune.demo.scenes import HELD_OUT_SEED, draw_scene
    from edgeprune.eval.accuracy import table
    from edgeprune.runtime.ort import OrtBackend
    from edgeprune.runtime.vlm import VLM

    backend = OrtBackend(threads)
    torch.set_num_threads(backend.threads)
    bundle = _bundle(output, quiet)
    with VLM(bundle, backend) as vlm:
        _show_pictures(vlm, demo.PICTURES)
        overlay = _overlay(vlm, demo.PICTURES, output)
        held_out = [draw_scene(HELD_OUT_SEED + index) for index in range(scenes)]
        rows = _measure(vlm, demo.CHECKPOINT, held_out, quiet)
    click.echo(f"\naccuracy and time to first token on {scenes} held-out scenes (questions per kind in brackets)\n")
    click.echo(table(rows))
    click.echo(f"\nwhat each stage kept: {overlay}")
    click.echo(f'ask yourself:         edgeprune run {bundle.root} PICTURE "What color is the circle?" --keep 64')


def _bundle(output: Path, quiet: bool) -> Bundle:
    """The demo's bundle, exported if it is not there.

    Raises:
        OutputError: another model's bundle is there.
    """
    from edgeprune import demo
    from edgeprune.bundle.store import open_bundle
    from edgeprune.checkpoint.source import Source
    from edgeprune.cli.bars import Bars
    from edgeprune.errors import OutputError
    from edgeprune.export.bundle import Request, export_bundle

    bundle = output / "bundle"
    if bundle.exists():
        opened = open_bundle(bundle)
        if opened.manifest.model.id != DEMO_ID:
            raise OutputError(f"{bundle} holds {opened.manifest.model.id}, not the demo model; give another -o")
        click.echo(f"using the bundle {bundle}")
        return opened
    click.echo(f"exporting the demo model with VisionDrop to {bundle}")
    request = Request(Source(demo.CHECKPOINT, DEMO_ID, None), ["visiondrop"])
    return export_bundle(request, bundle, progress=Bars(quiet))


def _show_pictures(vlm: VLM, pictures: Path) -> None:
    for entry in json.loads((pictures / "questions.json").read_text(encoding="utf-8")):
        click.echo(f"\n{entry['picture']}")
        for question in entry["questions"]:
            answers = []
            for keep in _SHOWN:
                path = pictures / entry["picture"]
                answer = vlm.generate(question["text"], [path], keep, max_new_tokens=_LONGEST_ANSWER)
                answers.append(f"{keep}: {answer.text}")
            click.echo(f"  {question['text']:<52} {'   '.join(answers)}   (right: {question['answer']})")


def _overlay(vlm: VLM, pictures: Path, output: Path) -> Path:
    from edgeprune.cli.overlay import write_overlay

    entry = json.loads((pictures / "questions.json").read_text(encoding="utf-8"))[0]
    path = pictures / entry["picture"]
    answer = vlm.generate(entry["questions"][0]["text"], [path], 64, max_new_tokens=_LONGEST_ANSWER)
    target = output / "kept-64.png"
    write_overlay(vlm, target, path, answer)
    return target


def _measure(vlm: VLM, checkpoint: Path, scenes: Sequence[Scene], quiet: bool) -> list[Accuracy]:
    from tqdm import tqdm

    from edgeprune.eval.accuracy import measure

    questions = sum(len(scene.questions) for scene in scenes)
    rows = []
    with tqdm(
        total=questions * (len(_BUDGETS) + 1), desc="measuring", unit=" answers", disable=quiet, file=sys.stderr
    ) as bar:
        rows.append(measure("PyTorch eager", _eager(checkpoint), scenes, bar.update))
        for keep in _BUDGETS:

            def ask(image: Image.Image, question: str, keep: str = keep) -> tuple[str, float]:
                answer = vlm.generate(question, [image], keep, max_new_tokens=_LONGEST_ANSWER)
                return answer.text, answer.ttft_ms

            rows.append(measure(f"edgeprune --keep {keep}", ask, scenes, bar.update))
    return rows


def _eager(checkpoint: Path) -> Any:
    """Hugging Face's model as an answerer."""
    from time import perf_counter

    import torch

    from edgeprune.eager.model import EagerModel

    model = EagerModel(checkpoint, "fp32")
    eos = model.model.generation_config.eos_token_id
    ends = set(eos) if isinstance(eos, list) else {eos}

    def ask(image: Image.Image, question: str) -> tuple[str, float]:
        start = perf_counter()
        batch = model.preprocess([image], question)
        logits, cache = model.prefill(model.embed(batch["input_ids"], model.see(batch).rows))
        ids = [int(logits.argmax())]
        ttft_ms = (perf_counter() - start) * 1e3
        while ids[-1] not in ends and len(ids) < _LONGEST_ANSWER:
            logits, cache = model.decode(torch.tensor(ids[-1:]), cache)
            ids.append(int(logits.argmax()))
        return model.processor.tokenizer.decode(ids, skip_special_tokens=True), ttft_ms

    return ask
