"""Random sequences of operations on both databases: no sequence gets past the policy, and the chain always verifies.

The real services are driven: add, train, invert, edit, mix, sample, generate, export, push to a local Hub and takedown,
between grants, narrowings, withdrawals, invalidations, disputes and protections. What should be allowed is worked out
by a second, simpler reading of the rules (``reading.py``). `make soak` runs more than 10,000 steps; the ordinary tests
a sample.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from sqlalchemy import select

from tests.conftest import fresh_postgres
from tests.diffusion import tiny
from tests.hub.conftest import _plain_uploads  # noqa: F401
from tests.hub.local_hub import LocalHub
from tests.services.audit import workshop
from tests.services.audit.reading import PURPOSES, SUBJECTS, Grant, Made, Model
from tests.services.audit.workshop import Workshop
from w2w_registry.catalog.events import events
from w2w_registry.catalog.models import Release, ReleaseState, Subject
from w2w_registry.consent.records import Scope, Use
from w2w_registry.errors import Conflict, ConsentDenied, LikenessRefused, NotFound, RegistryError
from w2w_registry.records import Kind, now
from w2w_registry.services.audit import log, queries
from w2w_registry.services.consent import amendments, gate, grants, protect, withdraw
from w2w_registry.services.hub import takedown

Fresh = Callable[[], AbstractContextManager[Workshop]]
Outcome = str
counts: Counter[tuple[str, Outcome]] = Counter()
"""How often each operation ran, and how it ended: allowed, denied by the policy, refused by the guard, or done."""
subjects = st.none() | st.sampled_from(SUBJECTS)
purposes = st.sampled_from(PURPOSES)
now_and_then = st.integers(0, 3).map(lambda n: n == 0)
"""Operations of the base model take long: one in four of their turns is carried out."""


class Operations(RuleBasedStateMachine):
    """The rules; ``fresh`` is set by the tests."""

    fresh: Fresh

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.count = 0
        self.guarded = False

    @initialize()
    def begin(self) -> None:
        self.context = self.fresh()
        self.shop = self.context.__enter__()
        self.registry = self.shop.registry

    def teardown(self) -> None:
        if hasattr(self, "shop"):
            self.check_log()
            self.context.__exit__(None, None, None)

    def number(self) -> int:
        self.count += 1
        return self.count

    def pick(self, data: st.DataObject) -> Made:
        return data.draw(st.sampled_from(self.model.versions))

    def attempt(self, what: str, expected: bool, act: Callable[[], Any], used: tuple[Made, ...] = ()) -> Any:
        """Do it; what the policy says has to be what the simple reading says. None when it was denied.

        ``self.guarded``: the policy allows it, but it looks like somebody who is kept out. Whom these tiny models look
        like is chance, so the reading knows only whether anybody is kept out at all.
        """
        self.guarded = False
        try:
            done = act()
        except ConsentDenied as error:
            # who was taken in before somebody who looks like it refused is met by the door when it is used
            self.guarded = expected and any("likeness that was refused" in reason for reason in error.reasons)
            assert self.model.refuses(now()) if self.guarded else not expected, what
            counts[what, "guarded" if self.guarded else "denied"] += 1
            return None
        except NotFound:
            # what is erased is not found any more
            assert any(v.state == "erased" for v in used), what
            counts[what, "denied"] += 1
            return None
        except LikenessRefused:
            assert self.model.refuses(now()), what
            self.guarded = True
            counts[what, "guarded"] += 1
            return None
        assert expected, what
        counts[what, "allowed"] += 1
        return done

    def keep(self, ref: str | None, subject: str | None, needs: bool, *parents: Made) -> None:
        if ref is None:
            return
        made = Made(self.shop.id_of(ref), ref, subject, needs, parents)
        made.state = self.shop.states()[made.id]
        assert made.state in ("active", "held"), made
        if made.state == "held":  # nobody here decides whom it depicts: nothing may be done with it from now on
            counts["hold", "done"] += 1
        self.model.versions.append(made)

    # -- making ------------------------------------------------------------------------------------
    @rule(subject=subjects, kind=st.sampled_from([Kind.PERSON, Kind.PRODUCT]))
    def add(self, subject: str | None, kind: Kind) -> None:
        number, named = self.number(), (subject,) if subject else ()
        expected = self.model.welcomes(Use.REGISTER, subject, "research", now())
        ref = self.attempt("add", expected, lambda: self.shop.add(f"x{number}", number, kind, *named))
        self.keep(ref, subject, kind is Kind.PERSON)

    @rule(subject=subjects, purpose=purposes, really=now_and_then)
    def train(self, subject: str | None, purpose: str, really: bool) -> None:
        self.make_of_photo("train", Use.TRAIN, subject, purpose, really)

    @rule(subject=subjects, purpose=purposes, really=now_and_then)
    def invert(self, subject: str | None, purpose: str, really: bool) -> None:
        self.make_of_photo("invert", Use.INVERT, subject, purpose, really)

    def make_of_photo(self, what: str, use: Use, subject: str | None, purpose: str, really: bool) -> None:
        if not really:
            return
        number, named = self.number(), (subject,) if subject else ()
        expected = self.model.welcomes(use, subject, purpose, now())
        service = self.shop.train if use is Use.TRAIN else self.shop.invert
        ref = self.attempt(what, expected, lambda: service(f"p{number}", number, purpose, *named))
        self.keep(ref, subject, True)

    @rule()
    def sample(self) -> None:
        number = self.number()
        ref = self.attempt("sample", True, lambda: self.shop.sample(f"drawn{number}", number))
        self.keep(ref, None, False)

    @precondition(lambda self: self.model.versions)
    @rule(data=st.data(), purpose=purposes)
    def edit(self, data: st.DataObject, purpose: str) -> None:
        source, number = self.pick(data), self.number()
        expected = self.model.allows(Use.EDIT, [source], purpose, now())
        act = lambda: self.shop.edit(f"e{number}", source.ref, purpose)  # noqa: E731
        self.keep(self.attempt("edit", expected, act, (source,)), None, False, source)

    @precondition(lambda self: self.model.versions)
    @rule(data=st.data(), purpose=purposes)
    def mix(self, data: st.DataObject, purpose: str) -> None:
        sources, number = [self.pick(data), self.pick(data)], self.number()
        expected = self.model.allows(Use.MIX, sources, purpose, now())
        act = lambda: self.shop.mix(f"m{number}", [s.ref for s in sources], purpose)  # noqa: E731
        self.keep(self.attempt("mix", expected, act, tuple(sources)), None, False, *dict.fromkeys(sources))

    # -- using and giving away ---------------------------------------------------------------------
    @precondition(lambda self: self.model.versions)
    @rule(data=st.data(), purpose=purposes, really=now_and_then)
    def generate(self, data: st.DataObject, purpose: str, really: bool) -> None:
        if really:
            self.write_out("generate", Use.GENERATE, self.shop.generate, self.pick(data), purpose)

    @precondition(lambda self: self.model.versions)
    @rule(data=st.data(), purpose=purposes)
    def export(self, data: st.DataObject, purpose: str) -> None:
        self.write_out("export", Use.EXPORT, self.shop.export, self.pick(data), purpose)

    def write_out(
        self, what: str, use: Use, service: Callable[[str, Path, str], None], source: Made, purpose: str
    ) -> None:
        out = self.shop.folder / f"out-{self.number()}"
        expected = self.model.allows(use, [source], purpose, now())
        self.attempt(what, expected, lambda: service(source.ref, out, purpose), (source,))
        assert out.exists() == (expected and not self.guarded), (what, source)

    @precondition(lambda self: self.model.versions)
    @rule(data=st.data(), purpose=purposes)
    def push(self, data: st.DataObject, purpose: str) -> None:
        source = self.pick(data)
        repo = source.repo or f"acme/r{uuid.uuid4().hex}"
        there = self.shop.visible(repo)
        expected = self.model.allows(Use.PUBLISH, [source], purpose, now())
        self.attempt("push", expected, lambda: self.shop.push(source.ref, repo, purpose), (source,))
        assert self.shop.visible(repo) == ((expected and not self.guarded) or there), source
        if expected and not self.guarded and source.repo is None:
            source.repo = repo
            self.model.released.append(source)

    @rule()
    def drain(self) -> None:
        """The Hub is told what was withdrawn; from then on nobody sees it."""
        outcomes = takedown.drain(self.registry, self.shop.client)
        assert all(o.finished for o in outcomes), outcomes
        counts["takedown", "done"] += 1
        for version in self.model.released:
            if version.state != "active":
                assert version.repo is not None
                assert not self.shop.visible(version.repo), version

    @precondition(lambda self: self.model.versions)
    @rule(
        data=st.data(),
        use=st.sampled_from([Use.GENERATE, Use.EXPORT, Use.EDIT, Use.PUBLISH]),
        purpose=purposes,
        days=st.integers(0, 20),
    )
    def look(self, data: st.DataObject, use: Use, purpose: str, days: int) -> None:
        version, at = self.pick(data), now() + timedelta(days=days)
        decision = gate.ask(self.registry, use, versions=[version.id], purpose=purpose, at=at)
        expected = self.model.allows(use, [version], purpose, at)
        guarded = expected and any("likeness that was refused" in str(reason) for reason in decision.reasons)
        assert self.model.refuses(at) if guarded else decision.allowed == expected
        counts["ask the gate", "guarded" if guarded else "allowed" if decision.allowed else "denied"] += 1

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
        before = self.state_of(subject)
        done = grants.grant(self.registry, subject, scope)
        self.model.grants[subject].append(Grant(done["record_id"], tuple(purposes), derivatives, publication, until))
        self.model.refusing.discard(subject)
        if before not in (None, "active"):
            # whoever comes back is no longer kept out, and what only they held back is in service again
            self.model.protected.pop(subject, None)
            self.reread_states()
        counts["grant", "done"] += 1

    @rule(subject=st.sampled_from(SUBJECTS), publication=st.booleans(), data=st.data())
    def narrow(self, subject: str, publication: bool, data: st.DataObject) -> None:
        live = [g for g in self.model.grants[subject] if g.live]
        counts["narrow", "done"] += 1
        if not live:
            with pytest.raises(RegistryError):
                amendments.narrow(self.registry, subject, lambda s: s)
            return
        old = data.draw(st.sampled_from(live))
        change = {"publication": False} if publication else {"derivatives": False, "purposes": ("research",)}
        if "any" not in old.purposes and "research" not in old.purposes and not publication:
            return
        done = amendments.narrow(
            self.registry,
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
        counts["withdraw", "done"] += 1
        if self.state_of(subject) is None:
            with pytest.raises(RegistryError):
                withdraw.withdraw(self.registry, subject, erase=erase)
            return
        withdraw.withdraw(self.registry, subject, erase=erase)
        self.model.refusing.add(subject)
        self.model.end(subject, erase=erase)
        self.compare_states()
        before = self.last_event()
        assert withdraw.withdraw(self.registry, subject, erase=erase)["already"]
        assert self.last_event() == before

    @rule(subject=st.sampled_from(SUBJECTS))
    def invalidate(self, subject: str) -> None:
        if self.model.grants[subject]:
            withdraw.invalidate(self.registry, subject)
            self.model.end(subject)
            self.compare_states()
            counts["invalidate", "done"] += 1

    @rule(subject=st.sampled_from(SUBJECTS), upheld=st.booleans())
    def dispute(self, subject: str, upheld: bool) -> None:
        counts["dispute", "done"] += 1
        live = [g for g in self.model.grants[subject] if g.live]
        if len(live) != 1:
            if not live and self.state_of(subject) is not None:
                with pytest.raises(Conflict):
                    amendments.dispute(self.registry, subject)
            return
        amendments.dispute(self.registry, subject)
        for version in self.model.versions:
            if version.subject == subject and version.state == "active":
                assert not gate.ask(self.registry, Use.GENERATE, versions=[version.id]).allowed
        amendments.resolve(self.registry, subject, upheld=upheld)
        live[0].live = upheld

    @rule(subject=st.sampled_from(SUBJECTS))
    def protect(self, subject: str) -> None:
        """A LoRA of the subject that stays outside: its like is refused from now on."""
        seed = 1_000_000 + self.number()
        protect.protect_subject(self.registry, subject, str(self.shop.lora(seed)))
        if not self.model.depicting(subject):
            self.model.refusing.add(subject)
        self.model.protected.setdefault(subject, []).append(seed)
        counts["protect", "done"] += 1

    @precondition(lambda self: self.model.protected)
    @rule(data=st.data())
    def recreate(self, data: st.DataObject) -> None:
        who = data.draw(st.sampled_from(sorted(self.model.protected)))
        seed = data.draw(st.sampled_from(self.model.protected[who]))
        with pytest.raises(LikenessRefused):
            self.shop.add(f"again{self.number()}", seed, Kind.PERSON)
        counts["recreate", "guarded"] += 1

    # -- the log -----------------------------------------------------------------------------------
    @rule()
    def checkpoint(self) -> None:
        log.checkpoint(self.registry)
        counts["checkpoint", "done"] += 1

    @rule()
    def check_log(self) -> None:
        """The chain holds; what is up without consent is what the query lists; the Hub shows what the catalog says."""
        counts["verify", "done"] += 1
        verdict = log.verify(self.registry)
        assert verdict.ok, verdict.findings
        with self.registry.catalog.read() as session:
            rows = session.execute(select(Release.version_id, Release.repo_id, Release.state)).all()
        up = {ReleaseState.PUBLISHED, ReleaseState.GATED, ReleaseState.TAKEDOWN_QUEUED}
        known = {v.id: v for v in self.model.released}
        lacking = [
            repo
            for version_id, repo, state in rows
            if state in up and not self.model.allows(Use.PUBLISH, [known[version_id]], "research", now())
        ]
        listed = queries.unconsented(self.registry, queries.Filters())
        # what went up before somebody who looks like it refused is listed for the door's sake
        guarded = {row["repo"] for row in listed if "likeness-refused" in row["codes"]}
        assert not guarded or self.model.refuses(now())
        assert {row["repo"] for row in listed} - (guarded - set(lacking)) == set(lacking)
        for repo in {repo for _, repo, _ in rows}:
            shown = any(state in up for _, where, state in rows if where == repo)
            assert self.shop.visible(repo) == shown, repo

    def state_of(self, subject: str) -> str | None:
        with self.registry.catalog.read() as session:
            row = session.get(Subject, subject)
            return None if row is None else row.state.value

    def last_event(self) -> int:
        with self.registry.catalog.read() as session:
            return max((event.seq for event in events(session)), default=0)

    def compare_states(self) -> None:
        states = self.shop.states()
        for version in self.model.versions:
            assert states[version.id] == version.state, version

    def reread_states(self) -> None:
        """A new consent restores what nobody else holds back: checked here, then taken over by the model."""
        states = self.shop.states()
        for version in self.model.versions:
            state = states[version.id]
            if state != version.state:
                assert (version.state, state) in {("blocked", "active"), ("blocked", "held")}, version
                for source, _ in version.upstream():
                    if source.subject is not None and self.model.grants[source.subject]:
                        assert any(g.live for g in self.model.grants[source.subject])
                version.state = state


def run(fresh: Fresh, examples: int, length: int) -> None:
    class Bound(Operations):
        pass

    Bound.fresh = staticmethod(fresh)  # type: ignore[assignment]
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Bound,
        settings=settings(
            max_examples=examples,
            stateful_step_count=length,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build("sd1", tmp_path_factory.mktemp("base"))


@pytest.fixture
def fresh(
    request: pytest.FixtureRequest,
    backend: str,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Fresh]:
    """A factory of furnished registries on one database, beside a running local Hub."""
    workshop.open_models_once(monkeypatch)
    shared = Path("/dev/shm")
    root = str(shared) if shared.is_dir() else None  # a thousand small commits need no disk under them
    template = tmp_path / "template"
    template.mkdir()
    if backend == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), template / "catalog.db")
        workshop.furnish(f"sqlite:///{template}/catalog.db", template, base)
        furnished, server = "", ""
    else:
        server = request.getfixturevalue("postgres_server")
        made = fresh_postgres(server, request.getfixturevalue("postgres_template"))
        url = next(made)
        workshop.furnish(url, template, base)
        furnished = url.split("?")[0].rsplit("/", 1)[1]
    with LocalHub() as hub:
        token = hub.user("acme").token

        @contextmanager
        def opened() -> Iterator[Workshop]:
            with tempfile.TemporaryDirectory(dir=root) as name:
                folder = Path(name)
                home = workshop.copy_home(template, folder)
                urls = iter(()) if backend == "sqlite" else fresh_postgres(server, furnished)
                if backend == "sqlite":
                    shutil.copy(template / "catalog.db", folder / "catalog.db")
                url = next(urls, f"sqlite:///{folder}/catalog.db")
                shop = Workshop(workshop.registry_at(url, home), folder, base, hub, token)
                yield shop
                shop.registry.catalog.close()
                next(urls, None)

        yield opened
    if backend != "sqlite":
        next(made, None)


def report(before: Counter[tuple[str, Outcome]]) -> None:
    """What was done, in words."""
    done = counts - before
    for what in sorted({name for name, _ in done}):
        print(f"{what:14}", ", ".join(f"{n} {how}" for (name, how), n in sorted(done.items()) if name == what))
    print(f"{sum(done.values())} operations")


def test_no_sequence_gets_past_the_policy(fresh: Fresh) -> None:
    run(fresh, examples=3, length=25)


def missing(done: Counter[tuple[str, Outcome]]) -> list[tuple[str, Outcome]]:
    """Which services were never let through, or never turned away."""
    services = ("add", "train", "invert", "edit", "mix", "generate", "export", "push")
    return [(what, how) for what in services for how in ("allowed", "denied") if not done[what, how]]


@pytest.mark.soak
def test_ten_thousand_steps(fresh: Fresh) -> None:
    """At least 5,000 on each database, until every service was both let through and turned away."""
    before = counts.copy()
    while sum((counts - before).values()) < 5_000 or missing(counts - before):
        assert sum((counts - before).values()) < 50_000, missing(counts - before)
        run(fresh, examples=10, length=60)
    report(before)
