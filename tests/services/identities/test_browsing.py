"""Lists by part of a name, by pattern, with columns, and as they were; one change to many."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lora.loras import st_file
from tests.services.identities.folder import ATTENTION, rand
from w2w_registry.errors import NotFound, UsageError
from w2w_registry.records import iso, now
from w2w_registry.services.identities import browsing, bulk, describing, intake, manage
from w2w_registry.services.identities.items import AddRequest
from w2w_registry.services.provenance.differences import diff
from w2w_registry.services.registry import Registry
from w2w_registry.services.reports.stats import stats


@pytest.fixture
def named(registry: Registry, tmp_path: Path) -> Registry:
    for n, name in enumerate(("Alice", "malice", "bob", "zoë")):
        pair = {f"{ATTENTION}.lora_down.weight": rand(2, 12, seed=n), f"{ATTENTION}.lora_up.weight": rand(16, 2)}
        st_file(tmp_path / "in" / f"{name}.safetensors", pair)
    asked = AddRequest([str(tmp_path / "in")], kind="style", prefix="acme/")
    intake.perform(registry, asked, intake.plan(registry, intake.survey(asked), fit=False))
    return registry


def names(rows: list[dict[str, object]]) -> list[object]:
    return [row["identity"] for row in rows]


def test_by_part_of_a_name_or_a_pattern(named: Registry) -> None:
    assert names(browsing.browse(named, ["ALICE"])) == ["acme/Alice", "acme/malice"]
    assert names(browsing.browse(named, ["*/[ab]*", "zoe\u0308"])) == ["acme/Alice", "acme/bob", "acme/zoë"]
    assert browsing.browse(named, ["nobody"]) == []
    assert names(browsing.browse(named, ["alice"], where="name ~ 'mal'")) == ["acme/malice"]
    with pytest.raises(UsageError):
        browsing.browse(named, ["x" * 400])


def test_as_it_was(named: Registry) -> None:
    manage.set_alias(named, "production", "acme/bob@1")
    then = iso(now())
    manage.remove(named, "acme/bob", perform=True)
    assert "acme/bob" not in names(browsing.browse(named))
    (row,) = browsing.browse(named, ["bob"], at=then)
    assert (row["state"], row["aliases"]) == ("active", {"production": 1})
    assert browsing.browse(named, at="2020-01-01") == []


def test_columns(named: Registry) -> None:
    manage.set_tags(named, "acme/bob", ["team=ads"])
    (row,) = browsing.browse(named, ["bob"])
    shown = browsing.columns_of("identity, tag.team,label.none")
    assert [browsing.cell(row, column) for column in shown] == ["acme/bob", "ads", None]
    with pytest.raises(UsageError, match="no column is named 'nope'"):
        browsing.columns_of("nope")


def test_many_at_once(named: Registry) -> None:
    done = bulk.tag_many(named, ["acme/[ab]*"], {"team": "ads"})
    assert sorted(done["changed"]) == ["acme/Alice", "acme/bob"]
    assert bulk.tag_many(named, [], {"team": "ads"}, where="tag.team = 'ads'")["changed"] == []
    bulk.label_many(named, [], {"cleared": 1.0}, where="tag.team = 'ads'")
    assert names(browsing.browse(named, where="cleared = 1")) == ["acme/Alice", "acme/bob"]
    with pytest.raises(UsageError):
        bulk.tag_many(named, ["acme/bob"], {"a": "b"}, where="kind = style")
    with pytest.raises(NotFound):
        bulk.tag_many(named, ["acme/bob", "acme/none"], {"later": "1"})
    assert browsing.browse(named, where="tag.later is not null") == []  # all or nothing


def test_ratings_favourites_and_collections(named: Registry) -> None:
    bulk.rate(named, ["acme/bob"], 4.5, favourite=True)
    bulk.rate(named, ["acme/Alice"], 3)
    assert names(browsing.browse(named, where="tag.rating >= 4")) == ["acme/bob"]
    bulk.tag_many(named, ["acme/malice", "acme/zoë"], {"rating": "10"})
    bulk.tag_many(named, ["acme/zoë"], {"rating": "good"})
    assert names(browsing.browse(named, sort="tag.rating"))[:3] == ["acme/Alice", "acme/bob", "acme/malice"]
    assert names(browsing.browse(named, sort="-tag.rating"))[:3] == ["acme/malice", "acme/bob", "acme/Alice"]
    for name in ("acme/malice", "acme/zoë"):
        describing.unset_tags(named, name, ["rating"])
    assert names(browsing.browse(named, where="tag.favourite = 1")) == ["acme/bob"]
    bulk.rate(named, ["acme/bob"], None, favourite=False)
    assert browsing.browse(named, where="tag.favourite = 1") == []
    for wrong in ({"rating": 6.0}, {"rating": None}):
        with pytest.raises(UsageError):
            bulk.rate(named, ["acme/bob"], wrong["rating"])
    bulk.collect(named, "summer", [], where="tag.rating >= 3")
    assert bulk.collections(named) == [{"collection": "summer", "identities": 2}]
    bulk.collect(named, "summer", ["acme/bob"], out=True)
    assert names(browsing.browse(named, where=bulk.where_of("summer"))) == ["acme/Alice"]


def test_how_two_differ(named: Registry) -> None:
    found = diff(named, "acme/bob", "acme/Alice")
    assert (found["same_model"], found["related"], found["coordinates"]) == (False, None, None)
    assert found["fields"]["identity"] == ["acme/bob", "acme/Alice"]
    assert abs(found["weights"]["cosine"]) < 1
    same = diff(named, "acme/bob", "acme/bob@1")
    assert (same["same_model"], same["fields"]) == (True, {})
    assert same["weights"]["cosine"] == pytest.approx(1.0)
    assert same["weights"]["difference"] == pytest.approx(0.0, abs=1e-6)


def test_counts(named: Registry) -> None:
    found = stats(named)
    assert (found["identities"], found["versions"]) == (4, 4)
    assert found["by"]["kind"] == {"style": 4}
    assert found["by"]["format"] == {"kohya": 4}
    assert found["bytes"]["artifacts"] > 0
