"""The policy: every rule by example, and what must hold whatever the records say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2w_registry.consent.policy import Upstream, combined_state, decide, subject_state
from w2w_registry.consent.reasons import ReasonCode
from w2w_registry.consent.records import ConsentRecord, Scope, Status, Use, from_json, to_json
from w2w_registry.consent.rules import Rules
from w2w_registry.errors import SettingError
from w2w_registry.records import ConsentState, Kind

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
RULES = Rules()
MAKING = [Use.EDIT, Use.MIX, Use.GENERATE, Use.EXPORT, Use.PUBLISH]


def record(status: Status = Status.GIVEN, subject: str = "s1", **scope: object) -> ConsentRecord:
    return ConsentRecord("cr-1", subject, status, Scope(**{"purposes": ("research",), **scope}))  # type: ignore[arg-type]


def codes(use: Use, *records: ConsentRecord, derived: bool = False, **kwargs: object) -> set[ReasonCode]:
    decision = decide(use, [Upstream("s1", records, derived)], RULES, NOW, **kwargs)  # type: ignore[arg-type]
    assert decision.allowed == (not decision.reasons)
    return {r.code for r in decision.reasons}


def test_nobody_upstream_needs_nothing() -> None:
    assert decide(Use.PUBLISH, [], RULES, NOW).allowed


@pytest.mark.parametrize("use", MAKING)
def test_unknown_is_not_consent(use: Use) -> None:
    assert codes(use) == {ReasonCode.NO_RECORD}
    assert not decide(use, [Upstream(None)], RULES, NOW).allowed


@pytest.mark.parametrize("use", [Use.REGISTER, Use.SEARCH])
def test_unknown_may_be_registered_and_searched_with_a_warning(use: Use) -> None:
    decision = decide(use, [Upstream("s1")], RULES, NOW)
    assert decision.allowed
    assert [w.code for w in decision.warnings] == [ReasonCode.NO_RECORD]
    assert decision.relied_on == ()
    strict = replace(RULES, unknown=frozenset())
    assert not decide(use, [Upstream("s1")], strict, NOW).allowed


def test_a_covering_record_is_relied_on() -> None:
    consent = record()
    decision = decide(Use.GENERATE, [Upstream("s1", (consent,))], RULES, NOW)
    assert decision.allowed
    assert decision.relied_on == (("cr-1", consent.digest()),)


@pytest.mark.parametrize(
    ("use", "consent", "code"),
    [
        (Use.EDIT, record(), ReasonCode.DERIVATIVES),
        (Use.MIX, record(), ReasonCode.DERIVATIVES),
        (Use.PUBLISH, record(), ReasonCode.PUBLICATION),
        (Use.PUBLISH, record(purposes=("any",)), ReasonCode.PUBLICATION),
        (Use.PUBLISH, record(publication=True, territory=("DE",)), ReasonCode.TERRITORY),
        (Use.GENERATE, record(purposes=("advertising",)), ReasonCode.PURPOSE),
        (Use.GENERATE, record(purposes=("any",), forbidden=("research",)), ReasonCode.FORBIDDEN_PURPOSE),
        (Use.GENERATE, record(forbidden=(Use.GENERATE,)), ReasonCode.FORBIDDEN_USE),
        (Use.GENERATE, record(uses=(Use.TRAIN,)), ReasonCode.USE),
        (Use.GENERATE, record(expires_at=NOW), ReasonCode.EXPIRED),
        (Use.GENERATE, record(valid_from=NOW + DAY), ReasonCode.NOT_YET),
        (Use.GENERATE, record(territory=("DE",)), ReasonCode.TERRITORY),
        (Use.GENERATE, record(Status.REQUESTED), ReasonCode.REQUESTED),
        (Use.GENERATE, record(Status.DISPUTED), ReasonCode.DISPUTED),
        (Use.SEARCH, record(Status.WITHDRAWN), ReasonCode.WITHDRAWN),
        (Use.REGISTER, record(Status.INVALIDATED), ReasonCode.INVALIDATED),
        (Use.SEARCH, record(Status.EXPIRED, forbidden=(Use.SEARCH,)), ReasonCode.EXPIRED),
    ],
)
def test_each_rule_denies_with_its_reason(use: Use, consent: ConsentRecord, code: ReasonCode) -> None:
    assert codes(use, consent) == {code}


def test_any_purpose_grants_derivatives_but_not_publication() -> None:
    assert not codes(Use.EDIT, record(purposes=("any",)), purpose="advertising")
    assert codes(Use.PUBLISH, record(purposes=("any",)), purpose="advertising") == {ReasonCode.PUBLICATION}
    assert not codes(Use.PUBLISH, record(purposes=("any",), publication=True))


def test_using_a_derivative_needs_leave_for_derivatives() -> None:
    assert not codes(Use.GENERATE, record())
    assert codes(Use.GENERATE, record(), derived=True) == {ReasonCode.DERIVATIVES}


def test_territory_by_country_and_by_union() -> None:
    consent = record(territory=("EU",))
    assert not codes(Use.GENERATE, consent, territory="DE")
    assert codes(Use.GENERATE, consent, territory="NO") == {ReasonCode.TERRITORY}
    assert not codes(Use.GENERATE, record(territory=("EEA",)), territory="NO")


def test_two_halves_do_not_make_a_whole() -> None:
    halves = (record(publication=True, purposes=("other",)), record())
    assert codes(Use.PUBLISH, *halves) == {ReasonCode.PURPOSE, ReasonCode.PUBLICATION}


def test_fit_sets_warn_and_do_not_deny() -> None:
    decision = decide(Use.SAMPLE, [], RULES, NOW, fitted_on=[Upstream("s1", (record(Status.WITHDRAWN),))])
    assert decision.allowed
    assert [w.code for w in decision.warnings] == [ReasonCode.WITHDRAWN]


def test_states() -> None:
    assert subject_state([], NOW) is ConsentState.UNKNOWN
    assert subject_state([record()], NOW) is ConsentState.GRANTED
    assert subject_state([record(expires_at=NOW)], NOW) is ConsentState.EXPIRED
    assert subject_state([record(Status.WITHDRAWN), record(Status.REQUESTED)], NOW) is ConsentState.WITHDRAWN
    assert subject_state([record(Status.WITHDRAWN), record()], NOW) is ConsentState.GRANTED
    assert subject_state([record(valid_from=NOW + DAY)], NOW) is ConsentState.REQUESTED
    assert combined_state([]) is ConsentState.NOT_NEEDED
    assert combined_state([ConsentState.GRANTED, ConsentState.UNKNOWN]) is ConsentState.UNKNOWN
    assert combined_state([ConsentState.GRANTED, ConsentState.NOT_NEEDED]) is ConsentState.GRANTED


def test_rules_come_from_registry_toml() -> None:
    rules = Rules.from_settings({"purpose": "ads", "unknown": ["search"], "likeness_kinds": ["person", "character"]})
    assert rules == Rules("ads", None, frozenset({Use.SEARCH}), frozenset({Kind.PERSON, Kind.CHARACTER}))
    assert Rules.from_settings({}) == RULES
    for bad in ({"unknown": ["fly"]}, {"unknown": "search"}, {"purpose": 3}, {"likeness_kinds": ["ghost"]}):
        with pytest.raises(SettingError):
            Rules.from_settings(bad)


# -- properties -------------------------------------------------------------------------------------
uses = st.sampled_from(list(Use))
purposes = st.sampled_from(["research", "ads", "any"])
moments = st.none() | st.integers(-3, 3).map(lambda d: NOW + d * DAY)
scopes = st.builds(
    Scope,
    purposes=st.lists(purposes, min_size=1, max_size=2, unique=True).map(tuple),
    uses=st.none() | st.lists(uses, max_size=6, unique=True).map(tuple),
    forbidden=st.lists(uses.map(str) | st.sampled_from(["research", "ads"]), max_size=2, unique=True).map(tuple),
    derivatives=st.booleans(),
    publication=st.booleans(),
    territory=st.none() | st.lists(st.sampled_from(["DE", "US", "EU"]), max_size=2, unique=True).map(tuple),
    valid_from=moments,
    expires_at=moments,
)
records = st.builds(
    ConsentRecord, st.sampled_from(["a", "b", "c"]), st.just("s1"), st.sampled_from(list(Status)), scopes
)
rules = st.builds(
    Rules, st.just("research"), st.none() | st.sampled_from(["DE", "US"]), st.frozensets(uses, max_size=4)
)
upstreams = st.builds(
    Upstream, st.none() | st.just("s1"), st.lists(records, max_size=3).map(tuple), st.booleans(), st.none()
)
wheres = st.none() | st.sampled_from(["DE", "FR", "US"])


def allowed(use: Use, upstream: list[Upstream], r: Rules, purpose: str | None = None, where: str | None = None) -> bool:
    return decide(use, upstream, r, NOW, purpose=purpose, territory=where).allowed


@given(uses, st.lists(upstreams, max_size=3), upstreams, rules, wheres)
def test_one_more_subject_never_allows_more(
    use: Use, sources: list[Upstream], more: Upstream, r: Rules, where: str | None
) -> None:
    if allowed(use, [*sources, more], r, where=where):
        assert allowed(use, sources, r, where=where)
        assert allowed(use, [more], r, where=where)


@given(uses, upstreams, rules, st.data())
def test_ending_a_record_never_allows_more(use: Use, source: Upstream, r: Rules, data: st.DataObject) -> None:
    if not source.records:
        return
    i = data.draw(st.integers(0, len(source.records) - 1))
    end = data.draw(st.sampled_from([Status.WITHDRAWN, Status.INVALIDATED, Status.DISPUTED]))
    if end is Status.DISPUTED and source.records[i].status is not Status.GIVEN:
        return
    ended = replace(source.records[i], status=end)
    after = replace(source, records=(*source.records[:i], ended, *source.records[i + 1 :]))
    if allowed(use, [after], r):
        assert allowed(use, [source], r)


CUTS: dict[str, Callable[[Scope], Scope]] = {
    "purposes": lambda s: replace(s, purposes=("research",) if s.any_purpose else s.purposes[:1]),
    "uses": lambda s: replace(s, uses=() if s.uses is None else s.uses[1:]),
    "forbid": lambda s: replace(s, forbidden=(*s.forbidden, *map(str, Use))),
    "forbid purpose": lambda s: replace(s, forbidden=(*s.forbidden, "ads")),
    "derivatives": lambda s: replace(s, derivatives=False),
    "publication": lambda s: replace(s, publication=False),
    "territory": lambda s: replace(s, territory=("DE",) if s.territory is None else s.territory[1:]),
    "later": lambda s: replace(s, valid_from=max(s.valid_from or NOW, NOW + DAY)),
    "sooner": lambda s: replace(s, expires_at=min(s.expires_at or NOW, NOW)),
}


@given(
    uses, upstreams, st.lists(st.sampled_from(sorted(CUTS)), min_size=1, max_size=3), rules, purposes, wheres, st.data()
)
def test_narrowing_never_allows_more(
    use: Use, source: Upstream, cuts: list[str], r: Rules, purpose: str, where: str | None, data: st.DataObject
) -> None:
    if not source.records:
        return
    i = data.draw(st.integers(0, len(source.records) - 1))
    scope = source.records[i].scope
    for cut in cuts:
        smaller = CUTS[cut](scope)
        assert smaller.within(scope)
        scope = smaller
    assert scope.within(source.records[i].scope)
    narrowed = replace(source.records[i], scope=scope)
    after = replace(source, records=(*source.records[:i], narrowed, *source.records[i + 1 :]))
    if allowed(use, [after], r, purpose, where):
        assert allowed(use, [source], r, purpose, where)


@given(scopes, st.sampled_from(sorted(CUTS)))
def test_what_was_cut_is_not_within(scope: Scope, cut: str) -> None:
    smaller = CUTS[cut](scope)
    assert smaller.within(scope)
    if smaller != scope and cut != "purposes" and not (cut == "derivatives" and scope.any_purpose):
        widened = set(scope.territory or ()) == {"DE", "EU"} and cut == "territory"
        duplicates = set(smaller.forbidden) == set(scope.forbidden)
        if not widened and (not duplicates or not cut.startswith("forbid")):
            assert not scope.within(smaller)


@given(uses, upstreams, rules)
def test_derived_is_never_freer_than_direct(use: Use, source: Upstream, r: Rules) -> None:
    if allowed(use, [replace(source, derived=True)], r):
        assert allowed(use, [replace(source, derived=False)], r)


@given(st.lists(upstreams, min_size=1, max_size=3), rules)
def test_nothing_is_published_without_a_live_record_naming_publication(sources: list[Upstream], r: Rules) -> None:
    r = replace(r, unknown=r.unknown - {Use.PUBLISH})
    if allowed(Use.PUBLISH, sources, r):
        for source in sources:
            assert any(c.status_at(NOW) is Status.GIVEN and c.scope.publication for c in source.records)


@given(records)
def test_records_survive_json(consent: ConsentRecord) -> None:
    assert from_json(to_json(consent)) == consent
    assert from_json(to_json(consent)).digest() == consent.digest()
