"""What labels, tags and states were: every change keeps what it ended, whoever makes it; erasure keeps nothing."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import select

from tests.services.small import ANY, Small
from w2w_registry.catalog.assets import Label
from w2w_registry.catalog.former import Former
from w2w_registry.catalog.lookup import label_rows
from w2w_registry.catalog.resolve import version_for
from w2w_registry.catalog.session import Catalog
from w2w_registry.errors import RegistryError
from w2w_registry.records import iso
from w2w_registry.services.audit.log import verify
from w2w_registry.services.consent import amendments
from w2w_registry.services.consent.showing import show
from w2w_registry.services.consent.withdraw import withdraw
from w2w_registry.services.hub.listing import list_releases
from w2w_registry.services.identities import bulk, describing, manage
from w2w_registry.services.identities.assigning import assign
from w2w_registry.services.identities.browsing import browse
from w2w_registry.services.identities.manage import parse_moment
from w2w_registry.services.recording.labels import parse_labels


@pytest.fixture
def small(catalog: Catalog, tmp_path: Path) -> Small:
    return Small(catalog, tmp_path)


def moment() -> datetime:
    return datetime.now(UTC)


def then(small: Small, at: datetime, name: str = "a") -> tuple[dict[str, float | str], dict[str, str], str]:
    """Labels, tags and state that a list shows of an identity as of ``at``."""
    (row,) = browse(small.registry, [name], at=at.isoformat())
    return dict(row.labels), dict(row.tags), row.state


def test_a_list_shows_what_was_so_then(small: Small) -> None:
    small.grant("s1")
    small.release(small.add("a", "s1"), "acme/a")
    published = moment()
    seen = []

    def look() -> None:
        seen.append((moment(), then(small, moment())))

    look()
    describing.label(small.registry, "a", parse_labels(["mood=sad", "age=3"]))
    manage.set_tags(small.registry, "a", ["team=ads"])
    look()
    describing.label(small.registry, "a", parse_labels(["mood=glad"]))
    bulk.rate(small.registry, ["a"], 4)
    look()
    describing.unlabel(small.registry, "a", ["mood"])
    manage.unset_tags(small.registry, "a", ["team"])
    look()
    describing.label(small.registry, "a", parse_labels(["mood=proud"]))
    withdraw(small.registry, "s1")
    look()
    assert [state for _, (_, _, state) in seen] == ["active"] * 4 + ["blocked"]
    assert [labels.get("mood") for _, (labels, _, _) in seen] == [None, "sad", "glad", None, "proud"]
    assert [tags.get("team") for _, (_, tags, _) in seen] == [None, "ads", "ads", None, None]
    for at, was in seen:  # and it stays so
        assert then(small, at) == was
    assert [row.state for row in list_releases(small.registry)] == ["takedown-queued"]
    assert [row.state for row in list_releases(small.registry, moment=published)] == ["published"]
    assert verify(small.registry).ok


def test_erasure_keeps_nothing_of_it(small: Small) -> None:
    small.add("a", "s1")
    describing.label(small.registry, "a", parse_labels(["name=anna"]))
    describing.label(small.registry, "a", parse_labels(["name=berta"]))
    describing.rename(small.registry, "a", "carla")
    withdraw(small.registry, "s1", erase=True)
    with small.registry.catalog.read() as session:
        left = {(row.what, row.subject_id, row.text) for row in session.scalars(select(Former))}
    assert left == {("state", "s1", "withdrawn")}  # the pseudonym, as in the log
    assert verify(small.registry).ok


def test_what_comes_back_in_the_same_breath(small: Small) -> None:
    version = small.add("a", labels={"mood": "sad"})
    before = moment()
    with small.registry.catalog.write("curator") as uow:  # one event, the row deleted and written anew
        uow.delete(label_rows(uow.session, version)["mood"])
        uow.session.flush()
        uow.add_all([Label(version_id=version, name="mood", text="glad")])
        uow.event("label.set", {"version": version})
    after = moment()
    with small.registry.catalog.write("curator") as uow:
        (row,) = uow.keys(Label, Label.version_id == version)
        uow.bulk_update(Label, [row], {"number": 1.0, "text": None})
        uow.event("label.set", {"version": version})
    assert [then(small, at)[0]["mood"] for at in (before, after, moment())] == ["sad", "glad", 1.0]


PEOPLE = ("s1", "s2", "s3")


class History:
    """Random changes to a registry, by its services, and what lists said between them."""

    def __init__(self, small: Small, seed: int, evidence: Path) -> None:
        self.small, self.random, self.evidence = small, Random(seed), evidence
        evidence.write_text("a signed form")
        self.names = [self._added(None), self._added("s1"), self._added("s2")]
        small.grant("s1", NARROW)

    def step(self) -> None:
        name, subject = self.random.choice(self.names), self.random.choice(PEOPLE)
        change = self.random.choice(CHANGES)
        with suppress(RegistryError):  # what cannot be done now: withdrawing twice, the label it does not have
            change(self, name, subject)

    def answers(self, at: str | None) -> list[Any]:
        registry = self.small.registry
        when = None if at is None else parse_moment(at)
        shown = []
        for subject in PEOPLE:
            with suppress(RegistryError):
                value = show(registry, subject, moment=when)
                shown.append((value.subject, value.state, value.consent))
                shown += [(r["record_id"], r["status"], _granted(r)) for r in value.records]
        rows = [row.to_json() for row in browse(registry, at=at)]
        return [rows, [(r.repo, r.state, r.consent) for r in list_releases(registry, moment=when)], shown]

    def _added(self, subject: str | None, name: str | None = None) -> str:
        name = name or f"n{self.random.randrange(10**9)}"
        self.small.add(name, *([subject] if subject else []), labels={"job": self.random.choice("abc")})
        return name

    def add(self, name: str, subject: str) -> None:
        self.names.append(self._added(subject))

    def newer(self, name: str, subject: str) -> None:
        self._added(subject, name)

    def derive(self, name: str, subject: str) -> None:
        with self.small.registry.catalog.read() as session:
            parent = version_for(session, name).id
        child = f"{name}-{self.random.randrange(10**6)}"
        self.small.derive(child, parent)
        self.names.append(child)

    def label(self, name: str, subject: str) -> None:
        value = self.random.choice(["baker", "3", "4.5"])
        describing.label(self.small.registry, name, parse_labels([f"{self.random.choice('xy')}={value}"]))

    def unlabel(self, name: str, subject: str) -> None:
        describing.unlabel(self.small.registry, name, [self.random.choice("xy")])

    def tag(self, name: str, subject: str) -> None:
        bulk.rate(self.small.registry, [name], self.random.randrange(6), favourite=self.random.choice([None, True]))

    def untag(self, name: str, subject: str) -> None:
        manage.unset_tags(self.small.registry, name, ["rating"])

    def rename(self, name: str, subject: str) -> None:
        new = f"m{self.random.randrange(10**9)}"
        describing.rename(self.small.registry, name, new)
        self.names[self.names.index(name)] = new

    def alias(self, name: str, subject: str) -> None:
        manage.set_alias(self.small.registry, "live", f"{name}@1")

    def remove(self, name: str, subject: str) -> None:
        manage.remove(self.small.registry, name, perform=True)

    def release(self, name: str, subject: str) -> None:
        with self.small.registry.catalog.read() as session:
            version = version_for(session, name).id
        self.small.release(version, f"acme/{self.random.randrange(10**9)}")

    def depict(self, name: str, subject: str) -> None:
        assign(self.small.registry, subject, [name], evidence=self.evidence)

    def grant(self, name: str, subject: str) -> None:
        self.small.grant(subject, NARROW if self.random.random() < 0.5 else ANY)

    def narrow(self, name: str, subject: str) -> None:
        amendments.narrow(self.small.registry, subject, lambda scope: replace(scope, publication=False))

    def dispute(self, name: str, subject: str) -> None:
        amendments.dispute(self.small.registry, subject)

    def settle(self, name: str, subject: str) -> None:
        amendments.resolve(self.small.registry, subject, upheld=self.random.random() < 0.7)

    def withdraw(self, name: str, subject: str) -> None:
        withdraw(self.small.registry, subject)


CHANGES = [
    change for name, change in vars(History).items() if not name.startswith("_") and name not in ("step", "answers")
]
NARROW = replace(ANY, purposes=("research", "service"))


def _granted(record: dict[str, Any]) -> Any:
    scope = record["scope"]
    return scope["purposes"], scope["publication"], scope["valid_from"]


@pytest.mark.parametrize("seed", [0])
def test_at_a_moment_a_list_says_what_it_said_then(small: Small, tmp_path: Path, seed: int) -> None:
    history = History(small, seed, tmp_path / "form.txt")
    said: list[tuple[str, list[Any]]] = []
    for _ in range(30):
        history.step()
        said.append((iso(moment()), history.answers(None)))
    assert len({repr(answers) for _, answers in said}) > 15, "hardly anything happened"
    for at, answers in said:
        assert history.answers(at) == answers
    assert verify(small.registry).ok
