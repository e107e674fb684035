"""Pictures that left: which mark is whose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ForeignKey, Index, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from w2w_registry.catalog.base import Base, autoincrement
from w2w_registry.catalog.types import BigInt, Hex, UtcDateTime, Words


class Picture(Base):
    """One picture that left. ``mark``: the number in its pixels, None when it is too small to carry one; ``digest``:
    SHA-256 of the file; ``operation``: what made it (generate, sheet…); ``event_seq``: the event that says so."""

    __tablename__ = "picture"
    __table_args__ = (Index("ix_picture_mark", "mark"), Index("ix_picture_digest", "digest"), autoincrement())

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    mark: Mapped[int | None] = mapped_column(BigInt)
    digest: Mapped[str] = mapped_column(Hex)
    operation: Mapped[str] = mapped_column(Words)
    seed: Mapped[int | None] = mapped_column(BigInt)
    event_seq: Mapped[int] = mapped_column(BigInt)
    made: Mapped[datetime] = mapped_column(UtcDateTime)


class PictureVersion(Base):
    """A version that a picture shows."""

    __tablename__ = "picture_version"
    __table_args__ = (Index("ix_picture_version_version_id", "version_id"),)

    picture_id: Mapped[int] = mapped_column(ForeignKey("picture.id"), primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("version.id"), primary_key=True)


class Shown(NamedTuple):
    """A picture with the versions it shows."""

    picture: Picture
    versions: tuple[int, ...]


def pictures_marked(session: Session, marks: Iterable[int]) -> list[Shown]:
    """The pictures that carry one of these numbers."""
    return _with_versions(session, list(session.scalars(select(Picture).where(Picture.mark.in_(sorted(set(marks)))))))


def pictures_by_digest(session: Session, digest: str) -> list[Shown]:
    """The pictures whose file has this SHA-256."""
    return _with_versions(session, list(session.scalars(select(Picture).where(Picture.digest == digest))))


def pictures_of(session: Session, versions: Sequence[int]) -> list[Shown]:
    """The pictures that show one of these versions, oldest first."""
    found: dict[int, Picture] = {}
    for start in range(0, len(versions), 500):
        query = (
            select(Picture)
            .join(PictureVersion, PictureVersion.picture_id == Picture.id)
            .where(PictureVersion.version_id.in_(versions[start : start + 500]))
        )
        found.update((picture.id, picture) for picture in session.scalars(query))
    return _with_versions(session, [found[key] for key in sorted(found)])


def marks_taken(session: Session, marks: Iterable[int]) -> set[int]:
    """Those of the numbers that a picture carries already."""
    query = select(Picture.mark).where(Picture.mark.in_(sorted(set(marks))))
    return {mark for mark in session.scalars(query) if mark is not None}


def _with_versions(session: Session, pictures: Sequence[Picture]) -> list[Shown]:
    shown: dict[int, list[int]] = {picture.id: [] for picture in pictures}
    ids = sorted(shown)
    for start in range(0, len(ids), 500):
        query = select(PictureVersion).where(PictureVersion.picture_id.in_(ids[start : start + 500]))
        for link in session.scalars(query.order_by(PictureVersion.version_id)):
            shown[link.picture_id].append(link.version_id)
    return [Shown(picture, tuple(shown[picture.id])) for picture in pictures]
