"""list, show, remove, aliases, tags, history."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.services.world import BASE
from w2w_registry.errors import BadName, NotFound, UsageError, WhereError
from w2w_registry.records import now
from w2w_registry.services.identities.browsing import browse
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.identities.manage import (
    history,
    parse_moment,
    remove,
    set_alias,
    set_tags,
    show,
    unset_alias,
    unset_tags,
)
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.manage import fit_space


@pytest.fixture
def filled(registry: Registry, loras: Path, retrained: Path) -> Registry:
    fit_space(registry, "tiny", [str(loras)], base_model=BASE)
    add(registry, AddRequest([str(loras / f"p{i:04d}") for i in range(5)], labels={"beard": 1.0}))
    add(registry, AddRequest([str(retrained / "p0002")]))
    return registry


def test_show_has_what_the_contract_names(filled: Registry) -> None:
    value = show(filled, "p0002")
    assert {
        "coordinates_digest", "space", "operation", "labels", "tags", "aliases", "versions"
    } <= value.keys()  # fmt: skip
    assert (value["version"], len(value["versions"])) == (2, 2)
    assert show(filled, "p0002@1")["coordinates_digest"] != value["coordinates_digest"]
    assert value["operation"]["kind"] == "import"


def test_list_filters_sorts_and_limits(filled: Registry) -> None:
    assert [r["identity"] for r in browse(filled)] == [f"p{i:04d}" for i in range(5)]
    assert [r["identity"] for r in browse(filled, sort="-name", limit=2)] == ["p0004", "p0003"]
    assert [r["identity"] for r in browse(filled, where="name = 'p0001'")] == ["p0001"]
    assert browse(filled, where="name = 'P0001'") == []
    assert [r["identity"] for r in browse(filled, where="version = 2")] == ["p0002"]
    with pytest.raises(WhereError):
        browse(filled, where="kind == person")
    with pytest.raises(UsageError):
        browse(filled, sort="beauty")


def test_remove_plans_then_performs(filled: Registry) -> None:
    assert remove(filled, "p0002", perform=False)["versions"] == ["p0002@1", "p0002@2"]
    assert len(browse(filled)) == 5
    set_alias(filled, "production", "p0002@2")
    remove(filled, "p0002@2", perform=True)
    assert show(filled, "p0002")["version"] == 1
    with pytest.raises(NotFound):
        show(filled, "p0002@production")
    remove(filled, "p0002", perform=True)
    with pytest.raises(NotFound):
        remove(filled, "p0002", perform=True)
    assert len(browse(filled)) == 4


def test_an_alias_in_the_place_of_the_identity_is_told_from_a_typo(filled: Registry) -> None:
    with pytest.raises(UsageError) as told:
        set_alias(filled, "p0002", "production")
    assert "the alias comes first" in str(told.value.fields["hint"])
    with pytest.raises(NotFound):
        set_alias(filled, "production", "p9999")


def test_alias_history_by_date(filled: Registry) -> None:
    start = now()
    set_alias(filled, "production", "p0002@1")
    between = now()
    set_alias(filled, "production", "p0002@2")
    set_alias(filled, "production", "p0002@2")
    unset_alias(filled, "production", "p0002")
    rows = history(filled, "p0002")
    assert [(r["alias"], r["version"]) for r in rows] == [("production", 1), ("production", 2), ("production", None)]
    assert rows[0]["until"] == rows[1]["since"]
    assert history(filled, "p0002", at=between.isoformat())[0]["version"] == 1
    assert history(filled, "p0002", at=(start - timedelta(days=1)).isoformat()) == []
    assert history(filled, "p0002", at=now().isoformat()) == []
    with pytest.raises(NotFound):
        unset_alias(filled, "production", "p0002")
    with pytest.raises(BadName):
        set_alias(filled, "2nd", "p0002")


def test_a_date_means_the_end_of_that_day() -> None:
    assert parse_moment("2026-05-01") == datetime(2026, 5, 1, 23, 59, 59, 999_999, tzinfo=UTC)
    assert parse_moment("2026-05-01T12:00+02:00") == datetime(2026, 5, 1, 10, tzinfo=UTC)
    with pytest.raises(UsageError):
        parse_moment("yesterday")


def test_tags(filled: Registry) -> None:
    assert set_tags(filled, "p0001", ["team=ads", "note=a=b"])["tags"] == {"team": "ads", "note": "a=b"}
    assert set_tags(filled, "p0001", ["team=film"])["tags"]["team"] == "film"
    assert [r["identity"] for r in browse(filled, where="tag.team = 'film'")] == ["p0001"]
    assert unset_tags(filled, "p0001", ["team"])["tags"] == {"note": "a=b"}
    with pytest.raises(NotFound):
        unset_tags(filled, "p0001", ["team"])
    with pytest.raises(UsageError):
        set_tags(filled, "p0001", ["team"])
