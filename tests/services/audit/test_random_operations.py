"""Random sequences of operations on both databases: no sequence gets past the policy, and the chain always verifies.

What should be allowed is worked out by a second, much simpler reading of the rules over the test's own model of who
granted what and what was made from what. `make soak` runs more than 10,000 steps; the ordinary tests a sample.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.conftest import fresh_postgres
from tests.services.small import Small
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog.session import Catalog
from w2w_registry.consent.records import Scope, Use
from w2w_registry.errors import Conflict, ConsentDenied, RegistryError
from w2w_registry.records import Kind, OperationKind, now
from w2w_registry.services.audit import log, queries
from w2w_registry.services.consent import gate, grants, withdraw

SUBJECTS = ("s1", "s2", "s3")
PURPOSES = ("research", "ads")


@dataclass
class Grant:
    """The model's record: live until something ends it."""

    record: str
    purposes: tuple[str, ...]
    derivatives: bool
    publication: bool
    until: Any
    live: bool = True


@dataclass
class Made:
    """The model's version."""

    id: int
    subject: str | None
    needs: bool
    parents: tuple[Made, ...] = ()
    state: str = "active"

    def upstream(self) -> Iterator[tuple[Made, bool]]:
        yield self, False
        for parent in self.parents:
            for one, _ in parent.upstream():
                yield one, True


@dataclass
class Model:
    grants: dict[str, list[Grant]] = field(default_factory=lambda: {s: [] for s in SUBJECTS})
    versions: list[Made] = field(default_factory=list)
    released: list[Made] = field(default_factory=list)

    def allows(self, use: Use, versions: list[Made], purpose: str, at: Any) -> bool:
        if any(v.state != "active" for v in versions):
            return False
        for version in versions:
            for source, derived in version.upstream():
                if source.subject is None:
                    if source.needs:
                        return False
                    continue
                if not any(self._covers(g, use, derived, purpose, at) for g in self.grants[source.subject]):
                    return False
        return True

    @staticmethod
    def _covers(grant: Grant, use: Use, derived: bool, purpose: str, at: Any) -> bool:
        everything = "any" in grant.purposes
        return (
            grant.live
            and (everything or purpose in grant.purposes)
            and (everything or grant.derivatives or not (derived or use in (Use.EDIT, Use.MIX)))
            and (grant.publication or use is not Use.PUBLISH)
            and (grant.until is None or at < grant.until)
        )

    def depicting(self, subject: str) -> list[Made]:
        return [v for v in self.versions if any(s.subject == subject for s, _ in v.upstream())]


Fresh = Callable[[], AbstractContextManager[tuple[Catalog, Path]]]
steps_done = 0


class Operations(RuleBasedStateMachine):
    """The rules; ``fresh`` is set by the tests."""

    fresh: Fresh

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.count = 0

    @initialize()
    def begin(self) -> None:
        self.context = self.fresh()
        catalog, folder = self.context.__enter__()
        self.small = Small(catalog, folder)

    def teardown(self) -> None:
        if hasattr(self, "small"):
            self.check_log()
            self.context.__exit__(None, None, None)

    def name(self, prefix: str) -> str:
        global steps_done
        steps_done += 1
        self.count += 1
        return f"{prefix}{self.count}"

    def pick(self, data: st.DataObject) -> Made:
        return data.draw(st.sampled_from(self.model.versions))

    # -- making ------------------------------------------------------------------------------------
    @rule(subject=st.none() | st.sampled_from(SUBJECTS), kind=st.sampled_from([Kind.PERSON, Kind.PRODUCT]))
    def add(self, subject: str | None, kind: Kind) -> None:
        subjects = (subject,) if subject else ()
        ended = subject is not None and any(not g.live for g in self.model.grants[subject])
        live = subject is not None and any(g.live for g in self.model.grants[subject])
        try:
            gate.require(self.small.registry, Use.REGISTER, subjects=subjects, kind=kind)
        except ConsentDenied:
            assert ended
            return
        assert not ended or live
        made = self.small.add(self.name("x"), *subjects, kind=kind)
        self.model.versions.append(Made(made, subject, kind is Kind.PERSON))

    @rule()
    def sample(self) -> None:
        made = self.small.add(self.name("drawn"), made=OperationKind.SAMPLE)
        self.model.versions.append(Made(made, None, False))

    @precondition(lambda self: self.model.versions)
    @rule(data=st.data(), mix=st.booleans(), purpose=st.sampled_from(PURPOSES))
    def derive(self, data: st.DataObject, mix: bool, purpose: str) -> None:
        parents = [self.pick(data)] + ([self.pick(data)] if mix else [])
        use = Use.MIX if mix else Use.EDIT
        expected = self.model.allows(use, parents, purpose, now())
        try:
            made = self.small.derive(self.name("e"), *{p.id: p for p in parents}, how=use, purpose=purpose)
        except ConsentDenied:
            assert not expected
            return
        assert expected
        self.model.versions.append(Made(made, None, False, tuple(parents)))

    @precondition(lambda self: self.model.versions)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        version = self.pick(data)
        expected = self.model.allows(Use.PUBLISH, [version], "research", now())
        try:
            self.small.release(version.id, self.name("acme/r"))
        except ConsentDenied:
            assert not expected
            return
        assert expected
        self.model.released.append(version)

    @precondition(lambda self: self.model.versions)
    @rule(
        data=st.data(),
        use=st.sampled_from([Use.GENERATE, Use.EXPORT, Use.EDIT, Use.PUBLISH]),
        purpose=st.sampled_from(PURPOSES),
        days=st.integers(0, 20),
    )
    def look(self, data: st.DataObject, use: Use, purpose: str, days: int) -> None:
        version, at = self.pick(data), now() + timedelta(days=days)
        found = self.small.allowed(use, version.id, purpose=purpose, at=at)
        assert found == self.model.allows(use, [version], purpose, at)
        self.name("")

    # -- consent -----------------------------------------------------------------------------------
    @rule(
        subject=st.sampled_from(SUBJECTS),
        purposes=st.lists(st.sampled_from([*PURPOSES, "any"]), min_size=1, max_size=2, unique=True),
        derivatives=st.booleans(),
        publication=st.booleans(),
        days=st.none() | st.integers(1, 20),
    )
    def grant(self, subject: str, purposes: list[str], derivatives: bool, publication: bool, days: int | None) -> None:
        until = None if days is None else now() + timedelta(days=days)
        scope = Scope(tuple(purposes), derivatives=derivatives, publication=publication, expires_at=until)
        was_withdrawn = self.small_state(subject) == "withdrawn"
        done = self.small.grant(subject, scope)
        self.model.grants[subject].append(Grant(done["record_id"], tuple(purposes), derivatives, publication, until))
        if was_withdrawn:
            self.reread_states()
        self.name("")

    @rule(subject=st.sampled_from(SUBJECTS), publication=st.booleans(), data=st.data())
    def narrow(self, subject: str, publication: bool, data: st.DataObject) -> None:
        live = [g for g in self.model.grants[subject] if g.live]
        self.name("")
        if not live:
            with pytest.raises(RegistryError):
                grants.narrow(self.small.registry, subject, lambda s: s)
            return
        old = data.draw(st.sampled_from(live))
        change = {"publication": False} if publication else {"derivatives": False, "purposes": ("research",)}
        if "any" not in old.purposes and "research" not in old.purposes and not publication:
            return
        done = grants.narrow(
            self.small.registry,
            subject,
            lambda s: replace(s, **change),  # type: ignore[arg-type]
            record_id=old.record,
        )
        scope = done["scope"]
        old.record = done["record_id"]
        old.purposes, old.derivatives = tuple(scope["purposes"]), scope["derivatives"]
        old.publication = scope["publication"]

    @rule(subject=st.sampled_from(SUBJECTS), erase=st.booleans())
    def withdraw(self, subject: str, erase: bool) -> None:
        self.name("")
        if self.small_state(subject) is None:
            with pytest.raises(RegistryError):
                withdraw.withdraw(self.small.registry, subject, erase=erase)
            return
        withdraw.withdraw(self.small.registry, subject, erase=erase)
        for grant in self.model.grants[subject]:
            grant.live = False
        for version in self.model.depicting(subject):
            if erase:
                version.state = "erased"
            elif version.state == "active":
                version.state = "blocked"
        self.compare_states()
        before = len(self.small.events())
        assert withdraw.withdraw(self.small.registry, subject, erase=erase)["already"]
        assert len(self.small.events()) == before

    @rule(subject=st.sampled_from(SUBJECTS))
    def invalidate(self, subject: str) -> None:
        self.name("")
        if not self.model.grants[subject]:
            return
        withdraw.invalidate(self.small.registry, subject)
        for grant in self.model.grants[subject]:
            grant.live = False
        for version in self.model.depicting(subject):
            if version.state == "active":
                version.state = "blocked"
        self.compare_states()

    @rule(subject=st.sampled_from(SUBJECTS), upheld=st.booleans())
    def dispute(self, subject: str, upheld: bool) -> None:
        self.name("")
        live = [g for g in self.model.grants[subject] if g.live]
        if len(live) != 1:
            if not live and self.small_state(subject) is not None:
                with pytest.raises(Conflict):
                    grants.dispute(self.small.registry, subject)
            return
        grants.dispute(self.small.registry, subject)
        for version in self.model.versions:
            if version.subject == subject and version.state == "active":
                assert not self.small.allowed(Use.GENERATE, version.id)
        grants.resolve(self.small.registry, subject, upheld=upheld)
        live[0].live = upheld

    # -- the log -----------------------------------------------------------------------------------
    @rule()
    def checkpoint(self) -> None:
        log.checkpoint(self.small.registry)
        self.name("")

    @rule()
    def check_log(self) -> None:
        verdict = log.verify(self.small.registry)
        assert verdict.ok, verdict.findings
        rows = queries.unconsented(self.small.registry, queries.Filters())
        up = [v for v in self.model.released if v.state in ("active", "blocked")]
        lacking = [v for v in up if not self.model.allows(Use.PUBLISH, [v], "research", now())]
        # what is gone for good is queued for deletion; it is listed until the Hub has answered
        assert len(rows) == len(lacking) + sum(v.state == "erased" for v in self.model.released)

    def small_state(self, subject: str) -> str | None:
        from w2w_registry.catalog.models import Subject

        with self.small.registry.catalog.read() as session:
            row = session.get(Subject, subject)
            return None if row is None else row.state.value

    def compare_states(self) -> None:
        for version in self.model.versions:
            assert self.small.state(version.id) == version.state, version

    def reread_states(self) -> None:
        """A new consent restores what nobody else holds back: checked here, then taken over by the model."""
        for version in self.model.versions:
            state = self.small.state(version.id)
            if state != version.state:
                assert (version.state, state) == ("blocked", "active")
                for source, _ in version.upstream():
                    if source.subject is not None and self.model.grants[source.subject]:
                        assert any(g.live for g in self.model.grants[source.subject])
                version.state = state


def run(fresh: Fresh, examples: int, steps: int) -> None:
    class Bound(Operations):
        pass

    Bound.fresh = staticmethod(fresh)  # type: ignore[assignment]
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Bound,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture
def fresh(request: pytest.FixtureRequest, backend: str) -> Fresh:
    """A factory of fresh, empty catalogs on one database."""
    shared = Path("/dev/shm")
    root = str(shared) if shared.is_dir() else None  # a thousand small commits need no disk under them

    @contextmanager
    def sqlite() -> Iterator[tuple[Catalog, Path]]:
        template: Path = request.getfixturevalue("sqlite_template")
        with tempfile.TemporaryDirectory(dir=root) as folder:
            shutil.copy(template, Path(folder) / "catalog.db")
            catalog = Catalog(f"sqlite:///{folder}/catalog.db", event_hash=event_hash)
            yield catalog, Path(folder)
            catalog.close()

    @contextmanager
    def postgresql() -> Iterator[tuple[Catalog, Path]]:
        server, template = request.getfixturevalue("postgres_server"), request.getfixturevalue("postgres_template")
        urls = fresh_postgres(server, template)
        with tempfile.TemporaryDirectory(dir=root) as folder:
            catalog = Catalog(next(urls), event_hash=event_hash)
            yield catalog, Path(folder)
            catalog.close()
            next(urls, None)

    return sqlite if backend == "sqlite" else postgresql


def test_no_sequence_gets_past_the_policy(fresh: Fresh) -> None:
    run(fresh, examples=3, steps=25)


@pytest.mark.soak
def test_ten_thousand_steps(fresh: Fresh) -> None:
    """At least 5,000 on each database."""
    before = steps_done
    while steps_done - before < 5_000:
        run(fresh, examples=10, steps=60)
    print(f"{steps_done - before} operations")
