"""A version in no weight space: kept, listed, shown, its provenance told; what needs coordinates says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.services.world import BASE
from w2w_registry.errors import UsageError
from w2w_registry.records import Kind, OperationKind, now
from w2w_registry.services.consent.door import Door
from w2w_registry.services.identities import browsing, manage
from w2w_registry.services.provenance.lineage import show_manifest
from w2w_registry.services.recording.likeness import UNKNOWN
from w2w_registry.services.recording.versions import Activity, NewVersion, record_version
from w2w_registry.services.registry import Registry
from w2w_registry.services.search.found import Query
from w2w_registry.services.search.query import search
from w2w_registry.services.spaces.manage import fit_space


@pytest.fixture
def kept(registry: Registry, loras: Path) -> Registry:
    fit_space(registry, "tiny", [str(loras)], base_model=BASE)
    new = NewVersion("dora", Kind.STYLE, None, "a" * 64, None, None, UNKNOWN, adapter="DoRA")
    with registry.catalog.write("tester") as uow:
        record_version(uow, new, Activity(OperationKind.IMPORT, now()), Door(registry, uow.session).admit(new))
    return registry


def test_it_is_listed_and_shown(kept: Registry) -> None:
    (line,) = browsing.browse(kept, where="adapter = DoRA")
    assert (line["identity"], line["space"], line["base_model"]) == ("dora", None, None)
    shown = manage.show(kept, "dora")
    assert (shown["adapter"], shown["space"], shown["versions"][0]["space"]) == ("DoRA", None, None)
    assert show_manifest(kept, "dora")["manifest"]["space"] is None
    assert browsing.browse(kept, sort="space")  # no error, and it is last or alone
    assert not browsing.browse(kept, where="space is not null")


def test_what_needs_coordinates_says_so(kept: Registry) -> None:
    with pytest.raises(UsageError, match="dora is in no weight space"):
        search(kept, Query("dora"))
