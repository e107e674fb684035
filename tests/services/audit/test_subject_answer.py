"""What a subject is told, against an independent walk of the whole log: nothing is missing, nothing is of others.

The walk knows nothing of the services: it reads every event, follows what it names and which rows it changed, and asks
a ledger kept beside the history whom each version draws. `make soak` runs 1,000 random histories, the ordinary tests a
few.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from tests.marking.pictures import scene
from tests.services.small import ANY, Small
from w2w_registry.catalog.event_log import Event
from w2w_registry.catalog.holds import Hold
from w2w_registry.catalog.models import Release, Takedown
from w2w_registry.catalog.session import Catalog
from w2w_registry.catalog.subjects import ConsentEvent, ConsentRecord, GuardReference
from w2w_registry.consent.records import Notice, Use
from w2w_registry.errors import RegistryError
from w2w_registry.services.audit import log
from w2w_registry.services.audit.subject import about_subject
from w2w_registry.services.consent import amendments, gate, receipts, resolve, withdraw
from w2w_registry.services.identities import describing, manage
from w2w_registry.services.recording import pictures
from w2w_registry.services.recording.pictures import Outgoing
from w2w_registry.services.recording.versions import Held

pytest.importorskip("c2pa")
PEOPLE = ("subject-a", "subject-b", "subject-c", "subject-d")
STEPS = 14


class History:
    """Random operations by the services, and a ledger of whom each version draws."""

    def __init__(self, small: Small, seed: int) -> None:
        self.small, self.rng = small, random.Random(seed)
        self.own: dict[int, set[str]] = {}
        self.parents: dict[int, tuple[int, ...]] = {}
        self.judged: dict[int, set[str]] = {}
        self.likes: dict[int, int] = {}
        self.names: dict[int, str] = {}
        self.photos: dict[int, str] = {}
        self.pictures = 0

    def run(self, steps: int) -> None:
        for person in self.rng.sample(PEOPLE, 3):
            self.small.grant(person, notice=Notice(recipients=(f"studio of {person}",)))
            self._add(person)
        doing: list[Callable[[], None]] = [
            self._one_more, self._derive, self._derive, self._mix, self._release, self._picture, self._picture,
            self._refused, self._label, self._tag, self._rename, self._member, self._receipt, self._dispute,
            self._withdraw, self._erase, self._grant_again, self._remove, self._hold, self._hold,
            self._resolve, self._resolve,
        ]  # fmt: skip
        for _ in range(steps):
            try:
                self.rng.choice(doing)()
            except RegistryError:
                continue  # turned away: that is in the log too, or nothing happened

    @property
    def draws(self) -> dict[int, set[str]]:
        """Whom each version draws: whom it names, and whom what it was made of draws."""
        found: dict[int, set[str]] = {}
        for version in sorted(self.own):
            found[version] = self.own[version].union(*(found[parent] for parent in self.parents.get(version, ())))
        return found

    def _some(self) -> int:
        return self.rng.choice(sorted(self.own))

    def _name(self) -> str:
        return f"model-{len(self.names) + 1:03d}"

    def _add(self, *people: str) -> int:
        photo = f"photo-{len(self.names)}" if self.rng.random() < 0.5 else None
        name = self._name()
        made = self.small.add(name, *people, photo=photo)
        self.own[made], self.names[made] = set(people), name
        return made

    def _one_more(self) -> None:
        self._add(*self.rng.sample(PEOPLE[:3], self.rng.randint(1, 2)))

    def _derive(self) -> None:
        parent, name = self._some(), self._name()
        made = self.small.derive(name, parent)
        self.own[made], self.parents[made], self.names[made] = set(), (parent,), name

    def _mix(self) -> None:
        parents, name = (self._some(), self._some()), self._name()
        made = self.small.derive(name, *parents, how=Use.MIX)
        self.own[made], self.parents[made], self.names[made] = set(), parents, name

    def _release(self) -> None:
        version = self._some()
        self.small.release(version, f"acme/{self.names[version]}")

    def _picture(self) -> None:
        shown = tuple({self._some() for _ in range(self.rng.randint(1, 2))})
        leaving = Outgoing(scene(np.random.default_rng(1), 32), {}, "p.png", "generate", shown, seed=1)
        gate.require(self.small.registry, Use.GENERATE, versions=shown)
        ready = pictures.prepare(self.small.registry, [leaving])
        with self.small.registry.catalog.write("curator") as uow:
            uow.event("version.generate", {"version": list(shown)}, **pictures.record(uow, ready))

    def _refused(self) -> None:
        gate.require(self.small.registry, Use.EXPORT, versions=[self._some()], purpose="film")

    def _label(self) -> None:
        describing.label(self.small.registry, self.names[self._some()], {"beard": 1.0})

    def _tag(self) -> None:
        manage.set_tags(self.small.registry, self.names[self._some()], [f"team={self.rng.randint(1, 9)}"])

    def _rename(self) -> None:
        version = self._some()
        describing.rename(self.small.registry, self.names[version], f"{self.names[version]}x")
        self.names[version] += "x"

    def _member(self) -> None:
        self.small.member(self._some())

    def _receipt(self) -> None:
        receipts.receipt(self.small.registry, self.rng.choice(PEOPLE))

    def _dispute(self) -> None:
        person = self.rng.choice(PEOPLE)
        amendments.dispute(self.small.registry, person)
        amendments.resolve(self.small.registry, person, upheld=self.rng.random() < 0.5)

    def _withdraw(self) -> None:
        withdraw.withdraw(self.small.registry, self.rng.choice(PEOPLE), protect=self.rng.random() < 0.5)

    def _erase(self) -> None:
        if self.rng.random() < 0.3:
            withdraw.withdraw(self.small.registry, self.rng.choice(PEOPLE), erase=True)

    def _grant_again(self) -> None:
        self.small.grant(self.rng.choice(PEOPLE), ANY)

    def _hold(self) -> None:
        """Somebody adds a model that resembles another one and names somebody else."""
        person, like, name = self.rng.choice(PEOPLE[:3]), self._some(), self._name()
        held = Held(like, f"{self.names[like]}@1", "weights", "another subject", self.rng.random())
        made = self.small.add(name, person, held=held)
        self.own[made], self.names[made], self.likes[made] = {person}, name, like

    def _resolve(self) -> None:
        """Another person decides, or decides anew."""
        version, other = self.rng.choice(sorted(self.likes) or [self._some()]), self._some()
        if self.rng.random() < 0.5:
            resolve.resolve(self.small.registry, f"{self.names[version]}@1", distinct=True, reason="other eyes")
            found: set[str] = set()
        else:
            resolve.resolve(
                self.small.registry, f"{self.names[version]}@1", same_as=f"{self.names[other]}@1", reason="one face"
            )
            found = self.draws[other]
        self.own[version] -= self.judged.pop(version, set())
        self.judged[version] = found - self.own[version]
        self.own[version] |= found

    def _remove(self) -> None:
        manage.remove(self.small.registry, self.names[self._some()], perform=True)


def walk(history: History) -> dict[str, set[int]]:
    """Subject -> the events that concern it, by everything that each event names or changed."""
    found: dict[str, set[int]] = {person: set() for person in PEOPLE}
    draws = history.draws
    with history.small.registry.catalog.read() as session:
        events = list(session.scalars(select(Event).order_by(Event.seq)))
        of_identity: dict[int, set[int]] = {}
        of_release = {r.id: r.version_id for r in session.scalars(select(Release))}
        of_takedown = {t.id: t.release_id for t in session.scalars(select(Takedown))}
        of_record = {r.id: r.subject_id for r in session.scalars(select(ConsentRecord))}
        of_consent_event = {str(e.id): of_record[e.record_id] for e in session.scalars(select(ConsentEvent))}
        of_reference = {str(g.id): g.subject_id for g in session.scalars(select(GuardReference))}
    for event in events:
        if event.action == "version.add":
            of_identity.setdefault(event.objects["identity"], set()).add(event.objects["version"])
    for event in events:
        versions: set[Any] = set()
        people: set[str] = set()
        for kind, value in event.objects.items():
            for one in value if isinstance(value, list) else [value]:
                if kind in ("version", "versions"):
                    versions.add(one)
                elif kind == "identity":
                    versions |= of_identity[one]
                elif kind == "release":
                    versions.add(of_release[one])
                elif kind == "takedown":
                    versions.add(of_release[of_takedown[one]])
                elif kind == "subject":
                    people.add(one)
                elif kind == "record":
                    people.add(of_record[one])
        for table, key, *_ in event.changes:
            if table == "version":
                versions.add(int(key))
            elif table in ("version_subject", "picture_version"):
                versions.add(int(key.split("/")[table == "picture_version"]))
            elif table == "subject":
                people.add(key)
            elif table == "consent_record":
                people.add(of_record[key])
            elif table == "consent_event" and key in of_consent_event:
                people.add(of_consent_event[key])
            elif table == "guard_reference" and key in of_reference:
                people.add(of_reference[key])
            elif table == "release":
                versions.add(of_release[int(key)])
        for version in versions - {None}:
            people |= draws[version]
        for person in people & set(PEOPLE):
            found[person].add(event.seq)
    return found


def check(history: History) -> int:
    """Hold every answer against the walk; how many answers there were."""
    expected, answers, draws = walk(history), 0, history.draws
    with history.small.registry.catalog.read() as session:
        holds = [(h.version_id, h.like_id, h.same_as) for h in session.scalars(select(Hold))]
    for person in PEOPLE:
        try:
            rows = about_subject(history.small.registry, person)
        except RegistryError:
            assert not expected[person]
            continue
        answers += 1
        told = {int(r["id"]) for r in rows if r["what"] in ("operation", "refusal", "event")}
        with history.small.registry.catalog.read() as session:
            spaces = {e.seq for e in session.scalars(select(Event).where(Event.action.startswith("space.")))}
        missing, foreign = expected[person] - told, told - expected[person] - spaces
        assert (missing, foreign) == (set(), set()), person
        mine = {v for v, people in draws.items() if person in people}
        assert len([r for r in rows if r["what"] == "version"]) == len(mine)
        text = " ".join(str(value) for row in rows for value in row.values())
        for other in set(PEOPLE) - {person}:
            assert other not in text, (person, other)
        assert len([r for r in rows if r["what"] == "hold"]) == sum(1 for hold in holds if mine & set(hold))
        for version in set(draws) - mine:
            assert f"{history.names[version]}@" not in text
        shown = sum(1 for r in rows if r["what"] == "picture")
        left = [r for r in rows if r["what"] == "operation" and r["state"] == "version.generate"]
        assert shown == len(left)
    return answers


@pytest.fixture
def fresh(sqlite_template: Path, tmp_path: Path) -> Callable[[int], Small]:
    from w2w_registry.audit.chain import event_hash

    def make(number: int) -> Small:
        import shutil

        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(sqlite_template, folder / "catalog.db")
        return Small(Catalog(f"sqlite:///{folder}/catalog.db", event_hash=event_hash), folder)

    return make


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_missing_and_nothing_is_of_others(fresh: Callable[[int], Small], seed: int) -> None:
    history = History(fresh(seed), seed)
    history.run(STEPS)
    assert check(history) >= 3
    assert log.verify(history.small.registry).ok


@pytest.mark.soak
@pytest.mark.parametrize("first", range(1000, 2000, 100))
def test_a_thousand_histories(fresh: Callable[[int], Small], tmp_path: Path, first: int) -> None:
    import shutil

    answers = 0
    for seed in range(first, first + 100):
        history = History(fresh(seed), seed)
        history.run(STEPS * 2)
        answers += check(history)
        history.small.registry.catalog.close()
        shutil.rmtree(tmp_path / str(seed))
    print(f"\n100 histories from {first}, {answers} answers: nothing missing, nothing of others")
    assert answers >= 300
