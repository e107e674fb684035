"""From what people write to rows."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.catalog.build import T0, add_space, add_version, digest, new_identity, new_operation
from w2w_registry.catalog import lookup, resolve
from w2w_registry.catalog.models import (
    Alias,
    AliasChange,
    Direction,
    Identity,
    Label,
    SourceFile,
    SpaceState,
    Subject,
    Tag,
    VersionSubject,
)
from w2w_registry.catalog.session import Catalog, UnitOfWork
from w2w_registry.errors import NotFound
from w2w_registry.records import IdentityRef, VersionState


def alice(uow: UnitOfWork) -> Identity:
    """``acme/alice`` with versions 1 active, 2 active, 3 blocked, 4 removed; production = 1."""
    space = add_space(uow)
    first = add_version(uow, "acme/alice", space)
    identity = first.identity
    states = [VersionState.ACTIVE, VersionState.BLOCKED, VersionState.REMOVED]
    for number, state in enumerate(states, 2):
        add_version(uow, "acme/alice", space, number=number, identity=identity, state=state)
    uow.add(Alias(identity_id=identity.id, name="production", version_id=first.id))
    uow.event("alias.set")
    return identity


@pytest.mark.parametrize(
    ("ref", "number"),
    [("acme/alice", 2), ("acme/alice@1", 1), ("acme/alice@3", 3), ("acme/alice@production", 1)],
)
def test_references(catalog: Catalog, ref: str, number: int) -> None:
    with catalog.write("tester") as uow:
        alice(uow)
    with catalog.read() as session:
        assert resolve.version_for(session, ref).number == number
        assert resolve.version_for(session, IdentityRef.parse(ref)).number == number
        assert resolve.version_for(session, "acme/alice@4", any_state=True).number == 4
        assert resolve.version_for(session, "acme/alice", any_state=True).number == 2


@pytest.mark.parametrize(
    ("ref", "what", "near"),
    [
        ("acme/alicia", "identity", ("acme/alice",)),
        ("Acme/Alice", "identity", ("acme/alice",)),
        ("nobody-like-that", "identity", ()),
        ("acme/alice@4", "version", ("acme/alice@3", "acme/alice@2", "acme/alice@1")),
        ("acme/alice@prodction", "alias", ("acme/alice@production",)),
    ],
)
def test_what_is_not_there_is_said_with_what_is_near(
    catalog: Catalog, ref: str, what: str, near: tuple[str, ...]
) -> None:
    with catalog.write("tester") as uow:
        alice(uow)
    with catalog.read() as session, pytest.raises(NotFound) as caught:
        resolve.version_for(session, ref)
    assert (caught.value.what, caught.value.near) == (what, near)


def test_a_blocked_identity_is_found_a_removed_one_is_not(catalog: Catalog) -> None:
    with catalog.write("tester") as uow:
        space = add_space(uow)
        add_version(uow, "blocked", space, state=VersionState.BLOCKED)
        add_version(uow, "removed", space, state=VersionState.REMOVED)
    with catalog.read() as session:
        assert resolve.version_for(session, "blocked").state is VersionState.BLOCKED
        with pytest.raises(NotFound):
            resolve.version_for(session, "removed")
        assert resolve.version_for(session, "removed", any_state=True).number == 1


def test_suggestions_among_many_names(sqlite_catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "_ALL_NAMES", 50)
    with sqlite_catalog.write("tester") as uow:
        uow.add_all(new_identity(f"p{i:04}") for i in range(200))
        uow.event("many")
    with sqlite_catalog.read() as session:
        assert "p0100" in resolve.near_identities(session, "p0100x")


def test_spaces(catalog: Catalog) -> None:
    with catalog.write("tester") as uow:
        for number in (1, 2, 3):
            add_space(uow, "faces", number, state=SpaceState.RETIRED if number == 3 else SpaceState.ACTIVE)
        add_space(uow, "old", state=SpaceState.RETIRED)
    with catalog.read() as session:
        assert resolve.space_for(session, "faces").ref == "faces@2"
        assert resolve.space_for(session, "faces@3").ref == "faces@3"
        assert resolve.space_for(session, "old").ref == "old@1"
        default = resolve.default_space(session)
        assert default is not None
        assert default.ref == "faces@2"
        with pytest.raises(NotFound) as caught:
            resolve.space_for(session, "face")
        assert caught.value.near[0].startswith("faces@")
        with pytest.raises(NotFound):
            resolve.space_for(session, "faces@4")


def test_no_space_yet(sqlite_catalog: Catalog) -> None:
    with sqlite_catalog.read() as session:
        assert resolve.default_space(session) is None


def test_directions_and_subjects(catalog: Catalog) -> None:
    with catalog.write("tester") as uow:
        space, other = add_space(uow), add_space(uow, "other")
        fitted = uow.add(new_operation("direction"))
        direction = Direction(
            space_id=space.id, name="beard", attribute="beard", vector=b"", method="logistic",
            digest=digest("d"), created=T0, operation_id=fitted.id,
        )  # fmt: skip
        uow.add(direction)
        uow.add(Subject(id="s1", kind="person", created=T0))
        uow.event("direction.fit")
    with catalog.read() as session:
        assert resolve.direction_named(session, space, "beard").id == direction.id
        for where, name in ((space, "bread"), (other, "beard")):
            with pytest.raises(NotFound):
                resolve.direction_named(session, where, name)
        assert resolve.subject_by_id(session, "s1").kind == "person"
        with pytest.raises(NotFound) as caught:
            resolve.subject_by_id(session, "s2")
        assert "near" not in caught.value.fields


def test_what_an_alias_meant_on_a_date(catalog: Catalog) -> None:
    day = timedelta(days=1)
    with catalog.write("tester") as uow:
        identity = alice(uow)
        one, two = (resolve.version_for(uow.session, f"acme/alice@{n}") for n in (1, 2))
        for at, alias, version in (
            (T0, "production", one),
            (T0 + day, "production", two),
            (T0 + 2 * day, "production", None),
            (T0 + 3 * day, "production", one),
            (T0, "staging", two),
        ):
            uow.add(AliasChange(identity_id=identity.id, alias=alias, version_id=version and version.id, at=at))
        uow.event("alias.history")
    with catalog.read() as session:
        meant = [
            found.number if (found := resolve.alias_at(session, identity, "production", T0 + n * day)) else None
            for n in (-1, 0, 0.5, 1, 1.5, 2, 3, 9)
        ]
        assert meant == [None, 1, 1, 2, 2, None, 1, 1]
        periods = resolve.alias_history(session, identity)
        assert [(p.alias, p.number, p.start, p.end) for p in periods] == [
            ("production", 1, T0, T0 + day),
            ("production", 2, T0 + day, T0 + 2 * day),
            ("production", None, T0 + 2 * day, T0 + 3 * day),
            ("production", 1, T0 + 3 * day, None),
            ("staging", 2, T0, None),
        ]
        assert len(resolve.alias_history(session, identity, "staging")) == 1


def test_lookups_of_many_at_once(catalog: Catalog) -> None:
    with catalog.write("tester") as uow:
        space, other = add_space(uow), add_space(uow, "other")
        uow.add_all(Subject(id=s, kind="person", created=T0) for s in ("s1", "s2"))
        uow.event("subjects")
        versions = [add_version(uow, f"p{i}", space, labels={"x": float(i)}) for i in range(5)]
        twin = add_version(uow, "twin", other, model_digest=versions[0].model_digest)
        versions[4].state = VersionState.REMOVED
        for i, version in enumerate(versions):
            for sha in (digest(("file", i)), digest("same")):
                uow.add(
                    SourceFile(
                        version=version, sha256=sha, model_digest=version.model_digest, format="peft", dtype="f32",
                        name="x", size=1, created=T0,
                    )
                )  # fmt: skip
        uow.add(Tag(identity_id=versions[1].identity_id, key="team", value="ads"))
        uow.add(Label(version_id=versions[1].id, name="job", text="cook"))
        uow.add(Alias(identity_id=versions[1].identity_id, name="production", version_id=versions[1].id))
        uow.add_all(VersionSubject(version_id=versions[2].id, subject_id=s) for s in ("s2", "s1"))
        uow.event("details")
        ids = [version.id for version in versions]
        people = [version.identity_id for version in versions]
    with catalog.read() as session:
        assert sorted(lookup.versions_by_id(session, [*ids, 10**6])) == ids
        assert str(lookup.refs_of(session, ids)[ids[3]]) == "p3@1"
        assert lookup.labels_of(session, ids)[ids[1]] == {"job": "cook", "x": 1.0}
        assert lookup.tags_of(session, people) == {people[1]: {"team": "ads"}}
        assert lookup.aliases_of(session, people) == {people[1]: {"production": 1}}
        assert lookup.subjects_of(session, ids) == {ids[2]: ("s1", "s2")}
        assert lookup.versions_of_subject(session, "s1") == [ids[2]]
        model = versions[0].model_digest
        assert lookup.versions_by_model(session, [model]) == {model: [ids[0], twin.id]}
        assert lookup.versions_by_model(session, [versions[4].model_digest]) == {}
        assert lookup.taken_names(session, ["p0", "p9"]) == {"p0": people[0]}
        assert lookup.refs_of(session, range(10**6, 10**6 + 2000)) == {}
