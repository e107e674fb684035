"""Whom a space was fitted with is told by model digests: before the fit or after it, for one subject or several."""

from __future__ import annotations

from sqlalchemy import text

from tests.catalog.build import T0, digest, new_identity, new_operation, new_space, new_version
from tests.catalog.test_session import problems, raw
from w2w_registry.catalog import schema
from w2w_registry.catalog.engine import make_engine, parse_url
from w2w_registry.catalog.membership import fitted_models, fitted_subjects, member_keys, spaces_fitted_with
from w2w_registry.catalog.models import SourceFile, Space, SpaceMember, Subject, VersionSubject
from w2w_registry.catalog.session import HEAD, Catalog, UnitOfWork


def subject(uow: UnitOfWork, name: str) -> None:
    uow.add(Subject(id=name, kind="person", created=T0))


def fitted(uow: UnitOfWork, models: list[str]) -> Space:
    space = uow.add(new_space(operation_id=uow.add(new_operation("fit")).id))
    uow.add_all(
        SpaceMember(space_id=space.id, position=i, model_digest=digest(m), name=m) for i, m in enumerate(models)
    )
    return space


def registered(uow: UnitOfWork, space: Space, name: str, model: str, *subjects: str) -> int:
    rows = new_version(new_identity(name), space, model_digest=digest(model))
    uow.add_all(rows)
    uow.session.flush()
    uow.add_all(VersionSubject(version_id=rows[0].id, subject_id=s) for s in subjects)
    return int(rows[0].id)


def test_members_are_known_once_their_models_are_registered(catalog: Catalog) -> None:
    with catalog.write("tester") as uow:
        space = fitted(uow, ["m1", "m2", "m3"])
        assert [m.versions for m in fitted_models(uow.session, space.id)] == [(), (), ()]
        for name in ("s1", "s2"):
            subject(uow, name)
        version = registered(uow, space, "a", "m1", "s1", "s2")
        uow.event("all")
    with catalog.read() as session:
        first, second, _ = fitted_models(session, space.id)
        assert (first.versions, first.subjects) == ((version,), {"s1", "s2"})
        assert (second.versions, second.subjects) == ((), frozenset())
        assert fitted_subjects(session, [space.id]) == {"s1", "s2"}
        assert [s.ref for s in spaces_fitted_with(session, "s2")] == ["faces@1"]
        assert spaces_fitted_with(session, "s3") == []
        assert member_keys(session, [version]) == [(space.id, 0)]


def test_a_resaved_copy_in_the_fit_set_is_its_version(catalog: Catalog) -> None:
    with catalog.write("tester") as uow:
        space = fitted(uow, ["as fp16"])
        subject(uow, "s1")
        version = registered(uow, space, "a", "as fp32", "s1")
        uow.add(
            SourceFile(
                version_id=version, sha256=digest("f"), model_digest=digest("as fp16"), format="peft", dtype="f16",
                name="a", size=1, created=T0,
            )
        )  # fmt: skip
        uow.event("all")
        assert fitted_subjects(uow.session, [space.id]) == {"s1"}


def test_the_older_schema_has_the_links_as_columns_and_nothing_is_lost(catalog: Catalog, catalog_url: str) -> None:
    with catalog.write("tester") as uow:
        space = fitted(uow, ["m1", "m2"])
        subject(uow, "s1")
        version = registered(uow, space, "a", "m1", "s1")
        uow.event("all")
    catalog.close()
    assert schema.downgrade(catalog_url, "0002") == "0002"
    engine = make_engine(parse_url(catalog_url))
    with engine.connect() as connection:
        links = text("SELECT subject_id, version_id FROM space_member ORDER BY position")
        assert [tuple(row) for row in connection.execute(links)] == [("s1", version), (None, None)]
    engine.dispose()
    assert schema.upgrade(catalog_url) == HEAD
    assert schema.check(catalog_url) == []
    assert problems(catalog) == []
    with catalog.read() as session:
        assert fitted_subjects(session, [space.id]) == {"s1"}


def test_migrating_does_not_launder_what_was_tampered_with(catalog: Catalog, catalog_url: str) -> None:
    with catalog.write("tester") as uow:
        space = fitted(uow, ["m1", "m2"])
        uow.event("all")
    raw(catalog_url, "UPDATE space_member SET name = 'somebody else' WHERE position = 1")
    place = ("space_member", f"{space.id}/1")
    assert problems(catalog) == [place]
    catalog.close()
    schema.downgrade(catalog_url, "0002")
    schema.upgrade(catalog_url)
    assert problems(catalog) == [place]
