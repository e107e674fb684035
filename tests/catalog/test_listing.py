"""Lists and filters: SQL on both databases gives what a plain reading of the language gives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.catalog.build import T0, add_space, add_version, digest, new_operation
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog.listing import list_versions, matching_ids
from w2w_registry.catalog.models import Alias, Label, Space, Subject, Tag, Version, VersionSubject
from w2w_registry.catalog.session import Catalog, UnitOfWork
from w2w_registry.catalog.where import All, Compare, Expression, Field, Not, Numeral, Some, day_bounds, parse_where
from w2w_registry.errors import UsageError
from w2w_registry.records import Kind, VersionState


@dataclass(frozen=True)
class Facts:
    """A version as plain values: the oracle's rows."""

    name: str
    number: int
    kind: str
    state: str
    residual: float | None
    created: datetime
    base_model: str
    space: tuple[str, int]
    operation: str
    subjects: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    labels: dict[str, float | str] = field(default_factory=dict)


FACTS = [
    Facts("a", 1, "person", "active", 0.25, T0, "m/1", ("faces", 1), "import", ("s1",), (), {}, {"beard": 1.0}),
    Facts("a", 2, "person", "active", 0.0, T0 + timedelta(days=1), "m/2", ("faces", 2), "edit", ("s1", "s2"),
          ("prod", "Prod"), {}, {"beard": 0.5, "job": "cook"}),
    Facts("A", 1, "product", "active", 2.5, T0 - timedelta(microseconds=1), "m/1", ("faces", 2), "train", (), ("prod",),
          {"team": "ads", "size": "4.0", "rank": "10"}, {"beard": "yes", "job": "Cook"}),
    Facts("b*[x]?%_", 1, "style", "blocked", None, T0 + timedelta(hours=12), "m_1", ("f@ces", 1), "mix", ("s3",), (),
          {"team": "Ads%", "x y": "", "size": "-0.5"}, {"job": "", "hair hue": -0.0}),
    Facts("ä", 3, "person", "removed", 1e-300, T0 + timedelta(hours=11, minutes=59), "m/1", ("faces", 1), "import", (),
          ("ünï",), {"size": "007", "rank": "9"}, {"job": "100%_*", "beard": 2.0**53}),
    Facts("z'\"\\", 1, "other", "erased", 3.0, T0, "\\", ("faces", 1), "sample", (), (),
          {"team": "it's \"\\\"", "size": "1e3"}, {}),
]  # fmt: skip


def build(uow: UnitOfWork) -> dict[int, Facts]:
    """The facts as rows; version id -> its facts."""
    spaces: dict[tuple[str, int], Space] = {}
    found: dict[int, Facts] = {}
    identities: dict[str, Any] = {}
    for subject in ("s1", "s2", "s3"):
        uow.add(Subject(id=subject, kind="person", created=T0))
    uow.event("subjects")
    for facts in FACTS:
        if facts.space not in spaces:
            spaces[facts.space] = add_space(uow, *facts.space)
        version = add_version(
            uow,
            facts.name,
            spaces[facts.space],
            number=facts.number,
            kind=Kind(facts.kind),
            identity=identities.get(facts.name),
            state=VersionState(facts.state),
            residual=facts.residual,
            created=facts.created,
            base_model=facts.base_model,
            operation=new_operation(facts.operation),
            model_digest=digest(repr(facts)),
        )
        identities[facts.name] = version.identity
        found[version.id] = facts
        for key, value in facts.labels.items():
            text, number = (value, None) if isinstance(value, str) else (None, value)
            uow.add(Label(version_id=version.id, name=key, text=text, number=number))
        uow.add_all(Tag(identity_id=version.identity_id, key=key, value=value) for key, value in facts.tags.items())
        uow.add_all(
            Alias(identity_id=version.identity_id, name=alias, version_id=version.id) for alias in facts.aliases
        )
        uow.add_all(VersionSubject(version_id=version.id, subject_id=subject) for subject in facts.subjects)
        uow.event("details")
    return found


def holds(expression: Expression, facts: Facts) -> bool:
    """The language as its documentation says it, in Python."""
    match expression:
        case All(terms):
            return all(holds(term, facts) for term in terms)
        case Some(terms):
            return any(holds(term, facts) for term in terms)
        case Not(term):
            return not holds(term, facts)
        case Compare():
            values = list(values_of(expression.field, facts))
            if expression.operator == "null":
                return bool(values) == expression.negated
            return any(passes(expression, value) for value in values)


def values_of(asked: Field, facts: Facts) -> Iterator[Any]:
    match asked.kind:
        case "tag":
            yield from [facts.tags[asked.key]] if asked.key in facts.tags else []
        case "label":
            yield from [facts.labels[asked.key]] if asked.key in facts.labels else []
        case "subject":
            yield from facts.subjects
        case "alias":
            yield from facts.aliases
        case "version":
            yield float(facts.number)
        case "residual":
            yield from [] if facts.residual is None else [facts.residual]
        case kind:
            yield getattr(facts, kind)


def passes(compare: Compare, value: Any) -> bool:
    found = any(
        test(compare.operator, value if compare.field.kind != "space" else of_space(value, wanted), wanted)
        for wanted in compare.values
    )
    return found != compare.negated if same_kind(compare, value) else False


def of_space(space: tuple[str, int], wanted: Any) -> str:
    return f"{space[0]}@{space[1]}" if "@" in str(wanted) else space[0]


def same_kind(compare: Compare, value: Any) -> bool:
    return compare.field.kind != "label" or any(isinstance(v, str) == isinstance(value, str) for v in compare.values)


def test(operator: str, value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Numeral):
        number = float(value) if re.fullmatch(r"-?(0|[1-9][0-9]*)([.][0-9]+)?", value) and len(value) <= 100 else None
        same = value == str(wanted) or number == wanted.number
        if operator in ("=", "in", "!="):
            return same == (operator != "!=")
        return number is not None and test(operator, number, wanted.number)
    if isinstance(value, str) != isinstance(wanted, str):
        return False
    if isinstance(wanted, date) and not isinstance(wanted, datetime):
        start, end = day_bounds(wanted)
        before, after = value < start, end is not None and value >= end
        return {
            "=": not before and not after, "in": not before and not after, "!=": before or after,
            "<": before, "<=": not after, ">": after, ">=": not before,
        }[operator]  # fmt: skip
    match operator:
        case "=" | "in":
            return bool(value == wanted)
        case "!=":
            return bool(value != wanted)
        case "<":
            return bool(value < wanted)
        case "<=":
            return bool(value <= wanted)
        case ">":
            return bool(value > wanted)
        case ">=":
            return bool(value >= wanted)
        case "~":
            return wanted in value
    pattern = "".join({"%": ".*", "_": "."}.get(c) or re.escape(c) for c in wanted)
    return re.fullmatch(pattern, value, re.DOTALL) is not None


test.__test__ = False  # type: ignore[attr-defined]

WORDS = (
    "a A ä person product active removed m/1 M/1 m_1 faces faces@2 f@ces@1 s1 prod Prod ads Ads% ad cook Cook yes "
    "import 100%_* \\ b*[x]?%_"
)
texts = st.sampled_from([*WORDS.split(), "", 'it\'s "\\"']) | st.text(max_size=3)
patterns = st.text(alphabet="%_*[]?\\aAdsä1x@.'", max_size=6) | texts
numbers = st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, 2.0, 2.5, 3.0, 1e-300, 2.0**53]) | st.floats(
    allow_nan=False, allow_infinity=False
)
moments = st.sampled_from([T0, T0 + timedelta(days=1), T0 + timedelta(hours=12), T0 - timedelta(microseconds=1)])
days = st.sampled_from([date(2026, 4, 30), date(2026, 5, 1), date(2026, 5, 2), date.max, date(1000, 1, 1)])
text_fields = st.sampled_from(["name", "kind", "state", "base_model", "space", "subject", "operation", "alias"]).map(
    Field
)
tags = st.sampled_from(["team", "x y", "none"]).map(lambda key: Field("tag", key))
labels = st.sampled_from(["beard", "job", "hair hue", "none"]).map(lambda key: Field("label", key))
ordered = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
flags = st.booleans()
sizes = st.sampled_from(["size", "rank", "team"]).map(lambda key: Field("tag", key))
numerals = st.sampled_from(["10", "4", "4.0", "-0.5", "007", "7", "1e3", "1000", "+4", "0"]).map(Numeral)


def comparisons() -> st.SearchStrategy[Expression]:
    def one(fields: Any, operators: Any, values: Any, negated: Any) -> Any:
        return st.builds(lambda f, o, v, n: Compare(f, o, (v,), n), fields, operators, values, negated)

    def listed(fields: Any, values: Any) -> Any:
        many = st.lists(values, min_size=1, max_size=3).map(tuple)
        return st.builds(lambda f, v, n: Compare(f, "in", v, n), fields, many, flags)

    numeric = st.sampled_from(["version", "residual"]).map(Field)
    created = st.just(Field("created"))
    words = text_fields | tags | labels
    no = st.just(False)
    return st.one_of(
        one(words, ordered, texts, no),
        one(words, st.sampled_from(["like", "~"]), patterns, flags),
        one(numeric | labels, ordered, numbers, no),
        one(sizes, ordered, numerals, no),
        one(created, ordered, moments | days, no),
        listed(words, texts),
        listed(numeric, numbers),
        listed(labels, texts | numbers),
        listed(sizes, numerals | texts),
        listed(created, moments | days),
        st.builds(lambda f, n: Compare(f, "null", (), n), words | numeric | created, flags),
    )


expressions = st.recursive(
    comparisons(),
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=1, max_size=3).map(lambda terms: All(tuple(terms))),
        st.lists(inner, min_size=1, max_size=3).map(lambda terms: Some(tuple(terms))),
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Catalog, dict[int, Facts]]]:
    """A catalog with the facts, shared by the examples of this module."""
    from tests.conftest import fresh_postgres, fresh_sqlite

    if request.param == "sqlite":
        urls = fresh_sqlite(request.getfixturevalue("sqlite_template"), tmp_path_factory.mktemp("listing"))
    else:
        urls = fresh_postgres(request.getfixturevalue("postgres_server"), request.getfixturevalue("postgres_template"))
    for url in urls:
        catalog = Catalog(url, event_hash=event_hash)
        with catalog.write("tester") as uow:
            facts = build(uow)
        yield catalog, facts
        catalog.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(expression=expressions)
def test_sql_means_what_the_language_means(filled: tuple[Catalog, dict[int, Facts]], expression: Expression) -> None:
    catalog, facts = filled
    with catalog.read() as session:
        rows = list_versions(session, expression, every_version=True, states=tuple(VersionState))
    assert {row.version.id for row in rows} == {i for i, known in facts.items() if holds(expression, known)}


def names(catalog: Catalog, text: str | None = None, **options: Any) -> list[str]:
    with catalog.read() as session:
        where = parse_where(text) if text else None
        return [f"{row.identity.name}@{row.version.number}" for row in list_versions(session, where, **options)]


def test_the_newest_present_version_of_each_identity_is_listed(filled: tuple[Catalog, dict[int, Facts]]) -> None:
    catalog, _ = filled
    assert names(catalog) == ["A@1", "a@2", "b*[x]?%_@1"]
    assert names(catalog, every_version=True) == ["A@1", "a@2", "a@1", "b*[x]?%_@1"]
    assert names(catalog, "beard = 1") == []
    assert names(catalog, "beard = 1", every_version=True) == ["a@1"]
    assert names(catalog, "state = removed") == ["ä@3"]
    assert names(catalog, limit=1) == ["A@1"]


def test_an_exact_name_is_exact(filled: tuple[Catalog, dict[int, Facts]]) -> None:
    catalog, _ = filled
    assert names(catalog, "name = a") == ["a@2"]
    assert names(catalog, "name = 'b%'") == []
    assert names(catalog, "name like 'b%'") == ["b*[x]?%_@1"]
    assert names(catalog, "name ~ '[x]'") == ["b*[x]?%_@1"]


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("name", ["A@1", "a@2", "b*[x]?%_@1"]),
        ("-name", ["b*[x]?%_@1", "a@2", "A@1"]),
        ("residual", ["a@2", "A@1", "b*[x]?%_@1"]),
        ("-residual", ["A@1", "a@2", "b*[x]?%_@1"]),
        ("created", ["A@1", "b*[x]?%_@1", "a@2"]),
        ("-version", ["a@2", "A@1", "b*[x]?%_@1"]),
        ("space", ["b*[x]?%_@1", "A@1", "a@2"]),
        ("operation", ["a@2", "b*[x]?%_@1", "A@1"]),
        ("label.beard", ["a@2", "A@1", "b*[x]?%_@1"]),
        ("tag.team", ["b*[x]?%_@1", "A@1", "a@2"]),
        ("-tag.team", ["A@1", "b*[x]?%_@1", "a@2"]),
    ],
)
def test_sorting(filled: tuple[Catalog, dict[int, Facts]], sort: str, expected: list[str]) -> None:
    assert names(filled[0], sort=sort) == expected


@pytest.mark.parametrize("sort", ["colour", "", "label.", "alias", "name; drop"])
def test_an_unknown_sort_is_refused(filled: tuple[Catalog, dict[int, Facts]], sort: str) -> None:
    with pytest.raises(UsageError):
        names(filled[0], sort=sort)


def test_filter_ids(filled: tuple[Catalog, dict[int, Facts]]) -> None:
    catalog, facts = filled
    with catalog.read() as session:
        space = session.query(Space).filter_by(name="faces", number=1).one()
        found = matching_ids(session, parse_where("kind = person"), space.id)
        everything = tuple(VersionState)
        with_removed = matching_ids(session, parse_where("kind = person"), space.id, states=everything)
    assert found.dtype.name == "int64"
    assert [facts[i].name for i in found.tolist()] == ["a"]
    assert [facts[i].name for i in with_removed.tolist()] == ["a", "ä"]


def test_no_rows_no_ids(sqlite_catalog: Catalog) -> None:
    with sqlite_catalog.read() as session:
        assert matching_ids(session, parse_where("name = a"), 1).shape == (0,)
        assert list_versions(session) == []
        assert session.get(Version, 1) is None
