"""One bundle for each family and medium, shared by all tests here."""

from __future__ import annotations

import pytest

from tests.conftest import MakeCheckpoint, MakeOnce
from tests.families.conformance.case import KINDS, Case, MakeCase


@pytest.fixture(scope="session")
def make_case(make_checkpoint: MakeCheckpoint, make_once: MakeOnce) -> MakeCase:
    """Exports a family's shape once, and opens it beside the checkpoint."""
    from edgeprune import catalog
    from edgeprune.catalog.carry import obstacle
    from edgeprune.checkpoint.source import resolve
    from edgeprune.export.bundle import Request, export_bundle
    from edgeprune.families.family import family_of, open_family

    opened: dict[str, Case] = {}

    def make(name: str) -> Case:
        kind = KINDS[name]
        checkpoint = make_checkpoint(kind.shape)
        source = resolve(str(checkpoint))
        family = family_of(checkpoint)
        model = open_family(family, source, kind.medium)
        facts = model.vision_facts, model.image().kind, family, model.decoder_facts.layers
        cards = [catalog.card(method) for method in catalog.names() if method != "cdpruner"]
        carried = tuple(card.name for card in cards if obstacle(card, *facts) is None)
        methods = carried if kind.methods is None else kind.methods
        request = Request(source, methods, medium=kind.medium)
        bundle = make_once(f"bundles/{name}-conformance", lambda folder: export_bundle(request, folder))
        if name not in opened:
            opened[name] = Case(name, bundle, checkpoint, kind.medium)
        return opened[name]

    return make
