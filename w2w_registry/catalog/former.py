"""What changed its value: so that a list can show labels, tags, names and states as they were at a moment.

Tables say how things are; events say that something changed, and by digests alone, so that what is erased is erased.
Each change of a value in ``_PARTS`` therefore leaves a row here with the value that ended then; the unit of work writes
it, whoever makes the change. What a value was at a moment is what the first change after it ended, else what it is now.
Changes from before this table was there (schema 0013) are not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import ForeignKey, Index, select
from sqlalchemy.orm import Mapped, Session, mapped_column
from sqlalchemy.orm.attributes import instance_state

from w2w_registry.catalog.assets import Identity, Label, Tag, Version, VersionSubject
from w2w_registry.catalog.base import Base, Salted, autoincrement
from w2w_registry.catalog.events import events
from w2w_registry.catalog.releases import Release
from w2w_registry.catalog.rows import Key, chunked, has_key, table_of
from w2w_registry.catalog.subjects import Subject
from w2w_registry.catalog.types import BigInt, Number, UtcDateTime, Words
from w2w_registry.records import VersionState

LABEL, TAG, SUBJECT, STATE, NAME, KIND = "label", "tag", "subject", "state", "name", "kind"


class Former(Salted, Base):
    """A value that ended at ``at``, of a version, an identity, a release or a subject.

    ``what``: label, tag, subject, state, name or kind; ``name``: the label's or tag's, or the subject's id. ``number``
    and ``text`` both NULL: there was no such label, tag or subject before.
    """

    __tablename__ = "former"
    __table_args__ = (
        Index("ix_former_version_id", "version_id"),
        Index("ix_former_identity_id", "identity_id"),
        Index("ix_former_release_id", "release_id"),
        Index("ix_former_subject_id", "subject_id"),
        autoincrement(),
    )

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    version_id: Mapped[int | None] = mapped_column(ForeignKey("version.id"))
    identity_id: Mapped[int | None] = mapped_column(ForeignKey("identity.id"))
    release_id: Mapped[int | None] = mapped_column(ForeignKey("release.id"))
    subject_id: Mapped[str | None] = mapped_column(ForeignKey("subject.id"))
    what: Mapped[str] = mapped_column(Words)
    name: Mapped[str] = mapped_column(Words, default="")
    number: Mapped[float | None] = mapped_column(Number)
    text: Mapped[str | None] = mapped_column(Words)
    at: Mapped[datetime] = mapped_column(UtcDateTime)


class _Part(NamedTuple):
    """A value that is kept: ``what`` it is of ``owner`` (a column of ``former``), whose id is in the column ``of``."""

    what: str
    owner: str
    of: str
    name: str | None = None  # column with the label's or tag's name
    number: str | None = None
    text: str | None = None


_PARTS: Final[Mapping[type[Base], tuple[_Part, ...]]] = {
    Label: (_Part(LABEL, "version_id", "version_id", "name", "number", "text"),),
    Tag: (_Part(TAG, "identity_id", "identity_id", "key", text="value"),),
    VersionSubject: (_Part(SUBJECT, "version_id", "version_id", "subject_id", text="subject_id"),),
    Version: (_Part(STATE, "version_id", "id", text="state"),),
    Release: (_Part(STATE, "release_id", "id", text="state"),),
    Subject: (_Part(STATE, "subject_id", "id", text="state"),),
    Identity: (_Part(NAME, "identity_id", "id", text="name"), _Part(KIND, "identity_id", "id", text="kind")),
}
_COMING: Final[Mapping[type[Base], type[Base]]] = {Label: Version, Tag: Identity, VersionSubject: Version}
"""What comes and goes, and what it is of; the others are there as long as what they are of."""

Row = Mapping[str, Any]
Id = TypeVar("Id", int, str)


# -- written by the unit of work ------------------------------------------------------------------------
def ended(session: Session, at: datetime, fresh: Callable[[type[Base], int], bool]) -> list[Former]:
    """A row for every value that the session is about to change, add or delete; ``fresh``: whether something has only
    just been made, so that nothing was before."""
    found: list[dict[str, Any]] = []
    for row in session.deleted:
        if type(row) in _COMING:
            found += _ended(type(row), _values(row, before=True), None)
    for row in session.dirty:
        if type(row) in _PARTS and session.is_modified(row):
            found += _ended(type(row), _values(row, before=True), _values(row))
    for row in session.new:
        owner = _COMING.get(type(row))
        if owner is not None:
            of = _values(row)[_PARTS[type(row)][0].of]
            if of is not None and not fresh(owner, of):
                found += _ended(type(row), None, _values(row))
    return [Former(**one, at=at) for one in found]


def ended_at_once(
    session: Session, model: type[Base], keys: Iterable[Key], new: Row, at: datetime
) -> list[dict[str, Any]]:
    """As ``ended``, for rows that are about to be given the ``new`` values all at once."""
    found: list[dict[str, Any]] = []
    if not new.keys() & {name for part in _PARTS.get(model, ()) for name in (part.number, part.text)}:
        return found
    for chunk in chunked(keys):
        for row in session.connection().execute(select(table_of(model)).where(has_key(model, chunk))).mappings():
            before = dict(row)
            found += _ended(model, before, {**before, **new})
    return [{**one, "at": at} for one in found]


def _values(row: Base, *, before: bool = False) -> dict[str, Any]:
    """A row as column → value: as it will be, or as it is in the table."""
    state = instance_state(row)
    names = {name for part in _PARTS[type(row)] for name in part[2:] if name is not None}
    values = {}
    for name in names:
        history = state.attrs[name].load_history()
        values[name] = (*(history.deleted if before else ()), *history.unchanged, *history.added, None)[0]
    return values


def _ended(model: type[Base], before: Row | None, after: Row | None) -> Iterator[dict[str, Any]]:
    """The columns of a row for every part that ``after`` (None: gone) says otherwise than ``before`` (None: new)."""
    for part in _PARTS[model]:
        old, new = _said(part, before), _said(part, after)
        if old != new:
            row = before if before is not None else after
            assert row is not None
            owners = dict.fromkeys(("version_id", "identity_id", "release_id", "subject_id"))
            name = "" if part.name is None else row[part.name]
            number, text = old
            yield {**owners, part.owner: row[part.of], "what": part.what, "name": name, "number": number, "text": text}


def _said(part: _Part, row: Row | None) -> tuple[float | None, str | None]:
    if row is None:
        return None, None
    number = None if part.number is None else row[part.number]
    text = None if part.text is None else row[part.text]
    return number, None if text is None else str(text)


# -- asked ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Then:
    """What versions, identities and releases were at ``moment``."""

    session: Session
    moment: datetime

    def labels(self, now: Mapping[int, Row], versions: Iterable[int]) -> dict[int, dict[str, Any]]:
        """``now``, what each version's labels are, turned back."""
        return _turned_back(now, self._ended(LABEL, Former.version_id, versions))

    def tags(self, now: Mapping[int, Row], identities: Iterable[int]) -> dict[int, dict[str, Any]]:
        """``now``, what each identity's tags are, turned back."""
        return _turned_back(now, self._ended(TAG, Former.identity_id, identities))

    def subjects(self, now: Mapping[int, Iterable[str]], versions: Iterable[int]) -> dict[int, set[str]]:
        """``now``, whom each version depicts, turned back."""
        named = {version: dict.fromkeys(subjects, "") for version, subjects in now.items()}
        turned = _turned_back(named, self._ended(SUBJECT, Former.version_id, versions))
        return {version: set(subjects) for version, subjects in turned.items()}

    def states(self, versions: Iterable[int]) -> dict[int, str]:
        """States of the versions whose state has changed since."""
        return self._words(STATE, Former.version_id, versions)

    def releases(self, ids: Iterable[int]) -> dict[int, str]:
        """States of the releases whose state has changed since."""
        return self._words(STATE, Former.release_id, ids)

    def subject(self, subject: str) -> str | None:
        """The state of a subject, if it has changed since."""
        return self._words(STATE, Former.subject_id, [subject]).get(subject)

    def names(self, identities: Iterable[int]) -> dict[int, str]:
        """Names of the identities that have been renamed since."""
        return self._words(NAME, Former.identity_id, identities)

    def kinds(self, identities: Iterable[int]) -> dict[int, str]:
        """Kinds of the identities whose kind has changed since."""
        return self._words(KIND, Former.identity_id, identities)

    def _words(self, what: str, owner: Any, ids: Iterable[Id]) -> dict[Id, str]:
        return {key: str(row.text) for key, row in self._ended(what, owner, ids)}

    def _ended(self, what: str, owner: Any, ids: Iterable[Id]) -> Iterator[tuple[Id, Former]]:
        """What ended after the moment, the last first: who follows it ends with what the first change ended."""
        for chunk in chunked(sorted(set(ids))):
            query = select(owner, Former).where(owner.in_(chunk), Former.what == what, Former.at > self.moment)
            yield from self.session.execute(query.order_by(Former.id.desc())).tuples()


def new_name(session: Session, name: str) -> str | None:
    """The name now of the identity in service that was called ``name`` last; None: none was."""
    query = select(Identity.name).join(Former, Former.identity_id == Identity.id)
    query = query.where(Former.what == NAME, Former.text == name, Identity.removed.is_(None))
    return session.scalar(query.order_by(Former.id.desc()).limit(1))


def _turned_back(now: Mapping[int, Row], rows: Iterable[tuple[int, Former]]) -> dict[int, dict[str, Any]]:
    then = {key: dict(values) for key, values in now.items()}
    for key, row in rows:
        values = then.setdefault(key, {})
        value = row.text if row.number is None else row.number
        if value is None:
            values.pop(row.name, None)
        else:
            values[row.name] = value
    return then


def newest_at(session: Session, moment: datetime) -> set[int]:
    """Ids of the versions that were each identity's newest then, those removed since included; erased ones are not
    told of."""
    gone: set[str] = set()
    for event in events(session, action="version.remove", before=moment):
        named = event.objects.get("version", ())
        gone.update(map(str, named if isinstance(named, list) else [named]))
    newest: dict[int, tuple[int, int]] = {}
    query = select(Version.id, Version.identity_id, Version.number).where(
        Version.created <= moment, Version.state != VersionState.ERASED
    )
    for version, identity, number in session.execute(query):
        if str(version) not in gone:
            newest[identity] = max(newest.get(identity, (0, 0)), (number, version))
    return {version for _, version in newest.values()}


def placed_since(session: Session, moment: datetime) -> set[int]:
    """Ids of the versions that were registered before there was a weight space for them, and came into one since."""
    placed = events(session, action="version.place", since=moment)
    return {int(event.objects["version"]) for event in placed if event.at > moment}
