"""The gate over a catalog: who is upstream, what is recorded of a decision, states in bulk."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event

from tests.services.small import ANY, Small
from w2w_registry.catalog.session import Catalog
from w2w_registry.consent.records import Scope, Use
from w2w_registry.consent.rules import Rules
from w2w_registry.errors import ConsentDenied, UnknownPurpose
from w2w_registry.records import ConsentState, Kind, OperationKind, now
from w2w_registry.services.consent import amendments, gate, grants, withdraw
from w2w_registry.services.consent.upstream import consent_states, upstream_of


@pytest.fixture
def small(catalog: Catalog, tmp_path: Path) -> Small:
    return Small(catalog, tmp_path)


def test_a_person_nobody_named_may_be_kept_and_found_only(small: Small) -> None:
    version = small.add("p1")
    assert small.allowed(Use.REGISTER, version)
    assert small.allowed(Use.SEARCH, version)
    for use in (Use.EDIT, Use.MIX, Use.GENERATE, Use.EXPORT, Use.PUBLISH):
        with pytest.raises(ConsentDenied) as caught:
            gate.require(small.registry, use, versions=[version])
        assert caught.value.operation == use
        assert caught.value.reasons == ("no subject is named [through p1@1]",)


def test_products_and_sampled_people_need_nobodys_consent(small: Small) -> None:
    for version in (small.add("shoe", kind=Kind.PRODUCT), small.add("s1", made=OperationKind.SAMPLE)):
        assert small.allowed(Use.PUBLISH, version)
    product = small.add("bag", "maker", kind=Kind.PRODUCT)
    assert not small.allowed(Use.PUBLISH, product)


def test_a_derivative_needs_everyone_upstream(small: Small) -> None:
    a, b = small.add("a", "s1"), small.add("b", "s2")
    small.grant("s1")
    with pytest.raises(ConsentDenied) as caught:
        small.derive("m", a, b, how=Use.MIX)
    assert caught.value.subjects == ("s2",)
    small.grant("s2", Scope(purposes=("research",), derivatives=True))
    mixed = small.derive("m", a, b, how=Use.MIX)
    again = small.derive("m2", mixed)
    assert small.allowed(Use.GENERATE, again)
    assert not small.allowed(Use.GENERATE, again, purpose="ads")
    decision = gate.ask(small.registry, Use.PUBLISH, versions=[again])
    assert [str(r) for r in decision.reasons] == ["s2: publication is not granted [through b@1]"]


def test_losing_leave_for_derivatives_closes_what_was_derived(small: Small) -> None:
    a = small.add("a", "s1")
    small.grant("s1", Scope(purposes=("research",), derivatives=True))
    edited = small.derive("e", a)
    assert small.allowed(Use.GENERATE, edited)
    amendments.narrow(small.registry, "s1", lambda s: replace(s, derivatives=False))
    assert not small.allowed(Use.GENERATE, edited)
    assert small.allowed(Use.GENERATE, a)


def test_time_is_an_argument(small: Small) -> None:
    version = small.add("a", "s1")
    small.grant("s1", replace(ANY, expires_at=now() + timedelta(days=10)))
    assert small.allowed(Use.GENERATE, version)
    assert not small.allowed(Use.GENERATE, version, at=now() + timedelta(days=11))


def test_new_things_are_asked_about_by_subject_and_kind(small: Small) -> None:
    ask = gate.ask
    assert ask(small.registry, Use.TRAIN, kind=Kind.PERSON).allowed
    assert not ask(small.registry, Use.GENERATE, kind=Kind.PERSON).allowed
    assert ask(small.registry, Use.GENERATE, kind=Kind.STYLE).allowed
    small.add("a", "s1")
    grants.grant(small.registry, "s1", Scope(purposes=("research",), forbidden=("train",)))
    assert not ask(small.registry, Use.TRAIN, subjects=["s1"], kind=Kind.PERSON).allowed
    assert ask(small.registry, Use.INVERT, subjects=["s1"], kind=Kind.PERSON).allowed


def test_registry_policy_is_read(catalog: Catalog, tmp_path: Path) -> None:
    strict = Small(catalog, tmp_path, {"unknown": ["register"], "purpose": "ads"})
    version = strict.add("a", "s1")
    assert not strict.allowed(Use.SEARCH, version)
    strict.grant("s1", Scope(purposes=("research",)))
    assert not strict.allowed(Use.GENERATE, version)
    assert strict.allowed(Use.GENERATE, version, purpose="research")


def test_evidence_names_the_records_relied_on(small: Small) -> None:
    version = small.add("a", "s1")
    granted = small.grant("s1")
    decision = gate.require(small.registry, Use.GENERATE, versions=[version])
    assert gate.evidence(decision) == {
        "consent": {
            "use": "generate",
            "purpose": "research",
            "relied_on": {granted["record_id"]: granted["digest"]},
        }
    }


def test_sampling_a_space_warns_about_withdrawn_members(small: Small) -> None:
    small.grant("s1")
    small.member(small.add("a", "s1"))
    assert gate.require(small.registry, Use.SAMPLE, spaces=[small.space_id]).warnings == ()
    from w2w_registry.services.consent import withdraw

    withdraw.withdraw(small.registry, "s1")
    decision = gate.require(small.registry, Use.SAMPLE, spaces=[small.space_id])
    assert [w.subject for w in decision.warnings] == ["s1"]


def test_states_in_bulk_at_a_few_queries(small: Small) -> None:
    granted, unknown, product = small.add("a", "s1"), small.add("b"), small.add("c", kind=Kind.PRODUCT)
    small.grant("s1")
    mixed = small.add("m", parents=[granted, unknown], made=OperationKind.MIX)
    small.add("d", "s2")
    requested = grants.request(small.registry, "s2", Scope(purposes=("research",)))
    assert requested["status"] == "requested"
    statements: list[str] = []
    with small.registry.catalog.read() as session:
        engine = session.get_bind().engine
        event.listen(engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
        found = consent_states(session, [granted, unknown, product, mixed, mixed + 1, 10**6], now())
    assert found == {
        granted: ConsentState.GRANTED,
        unknown: ConsentState.UNKNOWN,
        product: ConsentState.NOT_NEEDED,
        mixed: ConsentState.UNKNOWN,
        mixed + 1: ConsentState.REQUESTED,
    }
    assert len([one for one in statements if not one.startswith(("PRAGMA", "BEGIN"))]) <= 5


def test_a_diamond_is_walked_once(small: Small) -> None:
    small.grant("s1")
    layer = [small.add("root", "s1")]
    for depth in range(12):
        layer = [
            small.add(f"n{depth}-{i}", parents=layer, made=OperationKind.MIX) for i in range(2)
        ]  # 2^12 paths, 25 versions
    with small.registry.catalog.read() as session:
        upstream = upstream_of(session, layer, Rules())
    assert [(u.subject, u.derived, u.through) for u in upstream] == [("s1", True, "root@1")]


@pytest.mark.parametrize("use", [Use.REGISTER, Use.TRAIN, Use.INVERT])
def test_who_withdrew_without_a_record_is_unknown_no_longer(small: Small, use: Use) -> None:
    def allowed() -> bool:
        return gate.ask(small.registry, use, subjects=["s-no"], kind=Kind.PERSON).allowed

    small.add("x", "s-no")
    assert allowed()
    withdraw.withdraw(small.registry, "s-no")
    assert not allowed()
    (reason,) = gate.ask(small.registry, use, subjects=["s-no"], kind=Kind.PERSON).reasons
    assert str(reason) == "s-no: the subject has refused"
    small.grant("s-no")
    assert allowed()


def test_a_purpose_nobody_knows_is_told_and_a_misspelt_one_refused(catalog: Catalog, tmp_path: Path) -> None:
    small = Small(catalog, tmp_path, {"purposes": ["casting"]})
    small.grant("s1", Scope(purposes=("any",)))
    small.grant("s2", Scope(purposes=("puppetry",)))
    granted, named = small.add("p1", "s1"), small.add("p2", "s2")
    nobody = small.add("n", kind=Kind.PRODUCT)

    def told(version: int, purpose: str | None) -> list[str]:
        decision = gate.require(small.registry, Use.GENERATE, versions=[version], purpose=purpose)
        return [str(warning) for warning in decision.warnings]

    for version in (granted, nobody):
        assert told(version, "puppetry") == ["this registry knows no such purpose (puppetry)"]
        for misspelt in ("reserch", "castin", "Advertising"):
            with pytest.raises(UnknownPurpose, match=f"{misspelt}.*did you mean"):
                told(version, misspelt)
        for known in (None, "casting", "advertising"):
            assert told(version, known) == []
    assert told(named, "puppetry") == []  # somebody agreed to it by name
