"""Whom a model depicts, said later: with evidence, by a second person, and it binds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.services.world import BASE, World
from w2w_registry.errors import BadFile, NotFound, SecondPersonNeeded
from w2w_registry.services.audit.log import verify
from w2w_registry.services.consent.subjects import add_subject
from w2w_registry.services.identities import ingest, manage
from w2w_registry.services.identities.assigning import assign
from w2w_registry.services.identities.items import AddRequest
from w2w_registry.services.recording import policies
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.manage import fit_space


def test_a_second_person_says_it_with_evidence(registry: Registry, world: World, tmp_path: Path) -> None:
    policies.adopt(registry, items=["second_person=true", "space_people=2"])
    folder = world.write(tmp_path / "loras", range(6))
    fit_space(registry, "tiny", [str(folder)], base_model=BASE)
    ingest.add(registry, AddRequest([str(folder)]))
    form = tmp_path / "form.pdf"
    form.write_bytes(b"signed")
    other = replace(registry, settings=replace(registry.settings, actor="second"))
    with pytest.raises(NotFound):
        assign(other, "s-17", ["p0001"], evidence=form)
    add_subject(registry, "s-17")
    with pytest.raises(SecondPersonNeeded, match="p0001@1"):
        assign(registry, "s-17", ["p0001"], evidence=form)
    with pytest.raises(BadFile):
        assign(other, "s-17", ["p0001"], evidence=tmp_path / "none")
    assert assign(other, "s-17", ["p000[12]"], evidence=form, perform=False)["assigned"] == ["p0001@1", "p0002@1"]
    assert manage.show(registry, "p0001")["subjects"] == []
    done = assign(other, "s-17", ["p000[12]"], evidence=form)
    assert (done["assigned"], done["blocked"]) == (["p0001@1", "p0002@1"], [])
    assert manage.show(registry, "p0001")["subjects"] == ["s-17"]
    assert assign(other, "s-17", ["p0001"], evidence=form)["unchanged"] == ["p0001@1"]
    assert verify(registry).ok
