"""A person taken out of the catalog, as the inventory in ``personal_data`` has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from w2w_registry.catalog.base import Base
from w2w_registry.catalog.membership import member_keys
from w2w_registry.catalog.models import (
    Alias,
    AliasChange,
    ConsentRecord,
    Coordinates,
    Fingerprint,
    Former,
    Hold,
    Identity,
    InputKind,
    Job,
    Label,
    Operation,
    OperationInput,
    Release,
    ReleaseState,
    SourceFile,
    SpaceMember,
    Tag,
    Takedown,
    Version,
    WeightsSketch,
    Withdrawal,
)
from w2w_registry.catalog.personal_data import COLUMNS, ERASED, Fate, declared_columns
from w2w_registry.catalog.rows import Key, chunked
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.records import VersionState


@dataclass(frozen=True)
class Person:
    """Whose traces go: the subject, every version that depicts it, and the identities nothing else is left of."""

    subject: str
    versions: tuple[int, ...]
    identities: tuple[int, ...]
    members: tuple[Key, ...]
    files: frozenset[str]


def person(session: Session, subject: str, version_ids: Iterable[int]) -> Person:
    """The scope of an erasure, read before anything of it is gone."""
    ids = sorted(set(version_ids))
    touched: set[int] = set()
    files: set[str] = set()
    for chunk in chunked(ids):
        touched.update(session.scalars(select(Version.identity_id).where(Version.id.in_(chunk))))
        files.update(session.scalars(select(SourceFile.sha256).where(SourceFile.version_id.in_(chunk))))
        took = (
            select(OperationInput.digest)
            .join(Version, Version.operation_id == OperationInput.operation_id)
            .where(Version.id.in_(chunk), OperationInput.kind.in_((InputKind.FILE, InputKind.PHOTO, InputKind.HUB)))
        )
        files.update(digest for digest in session.scalars(took) if digest is not None)
    gone = set(ids)
    others: set[int] = set()
    for chunk in chunked(sorted(touched)):
        rows = session.execute(
            select(Version.id, Version.identity_id).where(
                Version.identity_id.in_(chunk), Version.state != VersionState.ERASED
            )
        )
        others.update(identity for version, identity in rows if version not in gone)
    return Person(
        subject, tuple(ids), tuple(sorted(touched - others)), tuple(member_keys(session, ids)), frozenset(files)
    )


def erase(uow: UnitOfWork, who: Person) -> None:
    """Take out of the catalog what says who it was, as ``COLUMNS`` has it. Releases still up keep what their takedown
    needs: ``forget_releases`` is for when it is done."""
    uow.bulk_update(Version, who.versions, {"state": VersionState.ERASED})
    for model, find in ROWS.items():
        _apply(uow, model, find(uow, who))
    forget_releases(uow)
    for identity in who.identities:
        row = uow.session.get_one(Identity, identity)
        row.removed = row.removed or uow.now()
    uow.session.flush()


def forget_releases(uow: UnitOfWork) -> None:
    """Blank where erased models were published, for the releases that are off the Hub; in the plans and receipts of
    their withdrawals too, once none of those is left there."""
    gone = (
        select(Release.id)
        .join(Version, Version.id == Release.version_id)
        .where(Version.state == VersionState.ERASED, Release.state == ReleaseState.DELETED, Release.repo_id != ERASED)
    )
    down = list(uow.session.scalars(gone))
    _apply(uow, Release, [(release,) for release in down])
    for chunk in chunked(down):
        _apply(uow, Takedown, uow.keys(Takedown, Takedown.release_id.in_(chunk)))
    over = [w for w in uow.session.scalars(select(Withdrawal).where(Withdrawal.erase.is_(True))) if _named(w)]
    for withdrawal in over:
        ids = [release["id"] for release in withdrawal.plan["releases"]]
        left = select(Release.id).where(Release.id.in_(ids), Release.state != ReleaseState.DELETED)
        if uow.session.scalar(left.limit(1)) is None:
            _apply(uow, Withdrawal, [(withdrawal.id,)])


def _named(withdrawal: Withdrawal) -> bool:
    """Whether its plan or receipt still says where something was published."""
    receipt = withdrawal.receipt or {"receipt": {"releases_queued": ()}}
    said = [*withdrawal.plan["releases"], *receipt["receipt"]["releases_queued"]]
    return any(release["repo"] != ERASED for release in said)


def _apply(uow: UnitOfWork, model: type[Base], keys: Iterable[Key]) -> None:
    """Do with these rows what their columns' rules say."""
    rows = list(keys)
    rules = {c.name: COLUMNS[f"{model.__tablename__}.{c.name}"] for c in declared_columns(model)}
    if any(rule.fate is Fate.DELETE for rule in rules.values()):
        uow.bulk_delete(model, rows)
        return
    empty = {name: None for name, rule in rules.items() if rule.fate is Fate.NULL}
    if empty:
        uow.bulk_update(model, rows, empty)
    new = {name: rule.value for name, rule in rules.items() if rule.fate is Fate.REPLACE}
    for key in rows if new else ():
        row = uow.session.get_one(model, key if len(key) > 1 else key[0])
        for name, value in new.items():
            setattr(row, name, value(row))
    uow.session.flush()


# -- which rows are about the person ---------------------------------------------------------------
def _by_version(model: Any) -> Callable[[UnitOfWork, Person], list[Key]]:
    return lambda uow, who: _keys(uow, model, model.version_id, who.versions)


def _by_identity(model: Any) -> Callable[[UnitOfWork, Person], list[Key]]:
    return lambda uow, who: _keys(uow, model, model.identity_id, who.identities)


def _keys(uow: UnitOfWork, model: type[Base], column: Any, values: Iterable[Any]) -> list[Key]:
    return [key for chunk in chunked(values) for key in uow.keys(model, column.in_(chunk))]


def _operations(uow: UnitOfWork, who: Person) -> list[Key]:
    made = [select(Version.operation_id).where(Version.id.in_(chunk)) for chunk in chunked(who.versions)]
    return [(operation,) for query in made for operation in uow.session.scalars(query)]


def _inputs(uow: UnitOfWork, who: Person) -> list[Key]:
    """What went into the person's models; their models wherever they went in; and their files and photos in work that
    made no version (a fit). Another person's version keeps what its manifest says of it."""
    own = _keys(uow, OperationInput, OperationInput.operation_id, (key[0] for key in _operations(uow, who)))
    onwards = _keys(uow, OperationInput, OperationInput.version_id, who.versions)
    made_no_version = ~exists().where(Version.operation_id == OperationInput.operation_id)
    elsewhere = [
        key
        for chunk in chunked(sorted(who.files))
        for key in uow.keys(OperationInput, OperationInput.digest.in_(chunk), made_no_version)
    ]
    return list(dict.fromkeys([*own, *onwards, *elsewhere]))


def _former(uow: UnitOfWork, who: Person) -> list[Key]:
    own = uow.keys(Former, Former.subject_id == who.subject)
    return [*_by_version(Former)(uow, who), *_by_identity(Former)(uow, who), *own]


def _jobs(uow: UnitOfWork, who: Person) -> list[Key]:
    about = set(who.versions)
    return [(job.id,) for job in uow.session.scalars(select(Job)) if job.state.get("version") in about]


ROWS: Mapping[type[Base], Callable[[UnitOfWork, Person], Iterable[Key]]] = {
    OperationInput: _inputs,
    Operation: _operations,
    Coordinates: _by_version(Coordinates),
    WeightsSketch: _by_version(WeightsSketch),
    Fingerprint: _by_version(Fingerprint),
    Hold: _by_version(Hold),
    Label: _by_version(Label),
    SourceFile: _by_version(SourceFile),
    Tag: _by_identity(Tag),
    Alias: _by_identity(Alias),
    AliasChange: _by_identity(AliasChange),
    Identity: lambda uow, who: [(i,) for i in who.identities],
    Version: lambda uow, who: [(v,) for v in who.versions],
    SpaceMember: lambda uow, who: who.members,
    ConsentRecord: lambda uow, who: uow.keys(ConsentRecord, ConsentRecord.subject_id == who.subject),
    Job: _jobs,
    Former: _former,  # the last: whatever changes above leaves a row there
}
