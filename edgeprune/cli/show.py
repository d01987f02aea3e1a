"""``edgeprune show``: what several methods keep of one picture, side by side."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli.options import BUNDLE, QUIET, SKIP_HASHES, THREADS, json_option
from edgeprune.cli.overlay import overlay_paths, save_picture, stage_label

if TYPE_CHECKING:
    from PIL import Image

    from edgeprune.runtime.answer import Answer
    from edgeprune.runtime.sheet import Sheet
    from edgeprune.runtime.vlm import VLM
    from edgeprune.show.metrics import Measures

_EPILOG = """
What the columns say, of the last stage where nothing else is said; class rows and ends of lines are no patches, a
merged row counts as its reference patch:

\b
tokens     visual rows out of every stage, class rows and merged rows included
gap        spatial coverage: side, in patches, of the largest square without any
           kept patch, after the first and after the last stage; of tiles, across
           all of them or in the overview, of a video, in one frame
diversity  1 minus the mean cosine between pairs of kept patches' encoder
           features: 0 where all are alike; compare with that of all patches
centre     mean row of the kept patches, 0 at the top and 1 at the bottom: 0.5 for
           all patches; scores from causal attention pull it off the middle
attention  share of the class row's attention, in the deepest encoder layer that
           the bundle gives it for, that falls on kept patches
overlap    patches that two methods both keep, over those that either keeps
TTFT       from the picture's file to the first token, of this one run;
           `edgeprune bench` measures it
"""


@dataclass(frozen=True)
class _Shown:
    """One method: its answer, and what its kept patches say."""

    answer: Answer
    measures: Measures

    @property
    def name(self) -> str:
        """Of the method."""
        return str(self.answer.method)

    @property
    def kept(self) -> tuple[int, ...]:
        """Indices out of the last stage."""
        return self.answer.stages[-1].kept


@dataclass(frozen=True)
class _Comparison:
    """All methods, beside the unpruned picture; ``attention`` names the encoder's output that was read, if any."""

    shown: tuple[_Shown, ...]
    unpruned: Measures
    attention: str | None


@click.command(name="show", epilog=_EPILOG)
@BUNDLE
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("question")
@click.option("--keep", required=True, help="Visual tokens on average: 64, 11.1%, or paper:LABEL.")
@click.option("--method", "names", help="Methods, separated by commas; default: all of the bundle that reach --keep.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Draw what every stage kept into this picture (extra: show).",
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=128, show_default=True)
@THREADS
@SKIP_HASHES
@QUIET
@json_option("the comparison")
def command(
    bundle: Path,
    image: Path,
    question: str,
    keep: str,
    names: str | None,
    output: Path | None,
    max_new_tokens: int,
    threads: int | None,
    skip_hashes: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Ask QUESTION about IMAGE with several pruning methods of BUNDLE, and compare what each of them keeps.

    \b
    edgeprune show b/ photo.jpg "What is on the table?" --keep 64 -o kept.png
    """
    from edgeprune.bundle.store import open_bundle
    from edgeprune.cli.extras import require_show
    from edgeprune.runtime.request import Pictures
    from edgeprune.runtime.sheet import make_sheet
    from edgeprune.runtime.vlm import open_vlm

    if output is not None:
        require_show()
        overlay_paths(output, [image], bundle, "-o")
    facts = open_bundle(bundle, check_hashes=False).manifest
    sheet = make_sheet([image], facts.image, facts.vision)  # what cannot be used is told before gigabytes are loaded
    pictures = Pictures([[image]], facts)
    with open_vlm(bundle, threads, not skip_hashes) as vlm:
        chosen, left_out = _choose(vlm, keep, names, (pictures.tokens, pictures.pixels.runs))
        for name, reason in left_out.items():
            click.echo(f"left out {name}: {reason}", err=True)
        found = _compare(vlm, chosen, image, sheet, question, keep, max_new_tokens, quiet)
        if output is not None:
            save_picture(_draw(sheet, question, keep, found), output)
        if as_json:
            asked = {"bundle": str(bundle), "image": str(image), "question": question, "keep": keep}
            grids = [block.numbers.shape for block in sheet.blocks]
            shown = {
                "grid": facts.vision.grid,
                "blocks": grids,
                "left_out": left_out,
                "picture": output and str(output),
            }
            click.echo(json.dumps({**asked, **shown, **_facts(found)}, ensure_ascii=False))
        else:
            click.echo(_text(found))
            click.echo(f"\n{output}" if output else "\nthe picture: give -o kept.png")


def _choose(vlm: VLM, keep: str, names: str | None, sizes: tuple[int, int]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The methods to show, and why others are left out; ``sizes`` are the picture's visual tokens and encoder runs.

    Raises:
        UsageError: nothing is pruned, a method is named twice or is not in the bundle, or a named one, or all,
            cannot reach the budget for this very picture.
    """
    from edgeprune.errors import BudgetError, UsageError

    chosen = tuple(word.strip() for word in names.split(",")) if names else _known(vlm)
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"--method {names} names a method twice")
    errors: dict[str, BudgetError] = {}
    for name in chosen:
        try:
            if vlm.plan(keep, name, *sizes)[0] is None:
                raise UsageError(f"--keep {keep} prunes nothing, so there is nothing to show: give less")
        except BudgetError as error:
            if names:
                raise
            errors[name] = error
    within = tuple(name for name in chosen if name not in errors)
    if not within:
        raise next(iter(errors.values()))
    return within, {name: str(error) for name, error in errors.items()}


def _known(vlm: VLM) -> tuple[str, ...]:
    return tuple(method.name for method in vlm.manifest.methods)


def _compare(
    vlm: VLM, chosen: tuple[str, ...], image: Path, sheet: Sheet, question: str, keep: str, limit: int, quiet: bool
) -> _Comparison:
    from edgeprune.runtime.layout import by_origin
    from edgeprune.show.metrics import deepest_attention, measure

    vlm.prompt.encode(question)  # a question that cannot be asked is told before anything runs
    vision, blocks = vlm.manifest.vision, [block.numbers for block in sheet.blocks]
    encoded = vlm.encode(image)
    output = deepest_attention(encoded)
    features = by_origin(encoded["features"], vision)
    attention = by_origin(encoded[output], vision) if output else None
    shown = []
    for name in chosen:
        if not quiet:
            click.echo(f"running {name}", err=True)
        answer = vlm.generate(question, [image], keep, name, limit)
        stages = [stage.kept for stage in answer.stages]
        shown.append(_Shown(answer, measure(stages, blocks, features, attention)))
    everything = [number for block in blocks for number in block.ravel().tolist()]
    unpruned = measure([everything], blocks, features, attention)
    return _Comparison(tuple(shown), unpruned, output)


def _draw(sheet: Sheet, question: str, keep: str, found: _Comparison) -> Image.Image:
    from edgeprune.runtime.overlay import OverlayStage
    from edgeprune.show.picture import Row, draw_methods

    rows = [
        Row(
            one.name,
            " ".join(one.answer.text.split()),
            tuple(OverlayStage(stage_label(stage), stage.kept, stage.merged) for stage in one.answer.stages),
        )
        for one in found.shown
    ]
    tokens = found.shown[0].answer.stages[0].visual_tokens_in
    title = f"{question}  (keep {keep} of {tokens} visual tokens)"
    return draw_methods(sheet, title, rows)


def _facts(found: _Comparison) -> dict[str, Any]:
    """The comparison as JSON has it."""
    from edgeprune.show.metrics import overlap

    return {
        "attention_output": found.attention,
        "unpruned": asdict(found.unpruned),
        "methods": [
            {
                "method": one.name,
                "measures": asdict(one.measures),
                "overlap": {other.name: overlap(one.kept, other.kept) for other in found.shown if other is not one},
                "answer": asdict(one.answer),
            }
            for one in found.shown
        ],
    }


def _text(found: _Comparison) -> str:
    """The tables, and every method's answer."""
    from edgeprune.bench.table import Grid

    header = ("method", "tokens", "gap", "diversity", "centre", "attention", "TTFT ms")
    lines = [_line(one.name, one.measures, f"{one.answer.ttft_ms:,.0f}") for one in found.shown]
    lines.append(_line("(all patches)", found.unpruned, "-"))
    blocks = [Grid("What each method kept", header, tuple(lines)).text() + "\n" + _attention_note(found.attention)]
    if len(found.shown) > 1:
        blocks.append(_overlaps(found.shown))
    blocks.append("\n".join(f"{one.name}: {one.answer.text}" for one in found.shown))
    return "\n\n".join(blocks)


def _line(name: str, measures: Measures, ttft: str) -> tuple[str, ...]:
    share = measures.attention_share
    return (
        name,
        ", ".join(map(str, measures.tokens)),
        f"{measures.gap_first} > {measures.gap_last}" if len(measures.tokens) > 1 else str(measures.gap_last),
        _number(measures.diversity),
        _number(measures.vertical_centre),
        "n/a" if share is None else f"{share:.1%}",
        ttft,
    )


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _attention_note(output: str | None) -> str:
    if output is None:
        return "attention n/a: no method of this bundle reads the class row's, so its vision graph does not give it"
    return f"attention: of the class row in layer {output.rpartition('_')[2]} of the encoder, counted from 0"


def _overlaps(shown: tuple[_Shown, ...]) -> str:
    """How many patches every two methods share; methods are numbered, for the columns to be narrow."""
    from edgeprune.bench.table import Grid
    from edgeprune.show.metrics import overlap

    header = ("overlap", *(str(number) for number in range(1, len(shown) + 1)))
    lines = tuple(
        (f"{number} {one.name}", *("-" if one is other else f"{overlap(one.kept, other.kept):.2f}" for other in shown))
        for number, one in enumerate(shown, 1)
    )
    return Grid("Patches that two methods both keep, over those that either keeps", header, lines).text()
