"""Methods through a family's bundle: rows kept, and logits, as the numpy references have them.

Every method that can serve LLaVA-NeXT; of the other families one for each kind of stage that there is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from edgeprune import catalog
from edgeprune.budget.schedule import reach, site_of
from edgeprune.eager.model import Inputs
from edgeprune.runtime.chain import Clock, Prefill, Text
from edgeprune.runtime.layout import whole
from tests.families.conformance.case import KINDS, QUESTION, Case, MakeCase, frames, noise
from tests.families.conformance.pruned import expect
from tests.methods.references import same_rows

SEED = 3


PAIRS = [
    (name, method)
    for name, kind in KINDS.items()
    for method in (kind.methods or [known for known in catalog.names() if known != "cdpruner"])
]


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_a_method(make_case: MakeCase, name: str, method: str) -> None:
    case = make_case(name)
    if case.vlm.manifest.method(method) is None and KINDS[name].methods is None:
        pytest.skip("the family cannot carry it")
    size = KINDS[name].sizes[0]
    shown = frames(case, size) if case.medium == "video" else [noise(size)]
    encoded = case.vlm.prompt.encode(QUESTION)
    check(case, method, shown, case.inputs(shown, "", QUESTION), Text(encoded.parts, encoded.question))


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("llava_next", "visionzip"),
        ("llava_next", "fastv"),
        ("llava_next", "flowcut"),
        ("qwen2_5_vl", "visionzip"),
        ("qwen2_5_vl", "vscan"),
    ],
)
def test_two_pictures_with_words_between(make_case: MakeCase, name: str, method: str) -> None:
    """Of other shapes and sizes; both keep rows."""
    case = make_case(name)
    shown = [noise(size, seed) for seed, size in enumerate(KINDS[name].sizes[1::-1])]
    marker = case.vlm.prompt.marker
    question = f"Look at {marker}, then at {marker} and say what it is."
    inputs, encoded = case.written(question, shown), case.vlm.prompt.encode(question, 2)
    assert encoded.parts == case.text(inputs, case.pixels(shown)).parts
    assert all(encoded.parts)
    found = check(case, method, shown, inputs, Text(encoded.parts, encoded.question))
    facts = case.vlm.manifest
    first, second = whole(facts.layout, facts.vision, case.pixels(shown).pictures)
    for rows in (first, second):
        assert np.isin(rows.origin[rows.origin >= 0], found.stages[-1].kept[0]).any()


def check(case: Case, method: str, shown: Sequence[Image.Image], inputs: Inputs, text: Text) -> Prefill:
    """A pruned prompt through the bundle and through the references."""
    facts, entry, pixels = case.vlm.manifest, case.vlm.manifest.method(method), case.pixels(shown)
    assert entry is not None
    tokens = sum(len(rows.origin) for rows in whole(facts.layout, facts.vision, pixels.pictures))
    low, high = reach(method, site_of(facts, entry, tokens, pixels.runs))
    _, schedule = case.vlm.plan((2 * low + high) // 3, method, tokens, pixels.runs)
    assert schedule is not None
    case.vlm.chain.open_method(entry)
    found = case.vlm.chain.prefill(pixels, text, entry, schedule, Clock(), SEED)
    expected = expect(case, entry, schedule, pixels, inputs, text, SEED)
    assert [stage.cut for stage in found.stages] == list(entry.places)
    for stage, kept in zip(found.stages, expected.kept, strict=True):
        assert stage.kept[0].tolist() == kept.tolist(), stage.cut
    same_rows(found.logits[0], expected.logits)
    assert np.isfinite(found.logits).all()
    return found
