"""Identities, their versions, and what is known about each: coordinates, files, labels, tags, aliases."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, LargeBinary, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from w2w_registry.catalog.base import LATE, Base, Salted, autoincrement, where_given
from w2w_registry.catalog.operations import Operation
from w2w_registry.catalog.spaces import Space
from w2w_registry.catalog.types import BigInt, Hex, Number, UtcDateTime, Words, choice
from w2w_registry.records import Kind, VersionState


class Identity(Salted, Base):
    """A named asset. ``removed`` is set while it has no version in service; the name stays taken."""

    __tablename__ = "identity"
    __table_args__ = (UniqueConstraint("name"), autoincrement())

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    name: Mapped[str] = mapped_column(Words)
    kind: Mapped[Kind] = mapped_column(choice(Kind, "kind"))
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    removed: Mapped[datetime | None] = mapped_column(UtcDateTime)


PLAIN_ADAPTER = "LoRA"
"""What a version is whose ``adapter`` says nothing."""
SERVED = (VersionState.ACTIVE, VersionState.HELD)
"""States of versions that a search finds."""


class Version(Base):
    """One immutable version of an identity: everything but state, digests of files erased since, and ``changed_seq``.

    ``space_id``: the space it was registered in, None when no space fits it (yet): it is then kept as the file it is.
    ``base_model``: None when nothing says which. ``adapter``: what kind of adapter it is when it is no plain LoRA
    (``DoRA``, ``LoHa``…), None for a LoRA. ``model_digest``: what the model does, whatever file it came in.
    ``manifest_digest``, ``artifact_digest``, ``preview_digest`` name artifacts. ``changed_seq`` is the event of the
    last change of this row or its coordinates, kept by the unit of work; an index is topped up by it.
    """

    __tablename__ = "version"
    __table_args__ = (
        UniqueConstraint("identity_id", "number"),
        UniqueConstraint("operation_id"),
        Index("ix_version_model_digest", "model_digest"),
        Index("ix_version_changed_seq", "changed_seq"),
        Index("ix_version_created", "created"),
        Index("ix_version_space_id_state", "space_id", "state"),
        where_given("ix_version_artifact_digest", "artifact_digest"),
        where_given("ix_version_preview_digest", "preview_digest"),
        where_given("ix_version_manifest_digest", "manifest_digest"),
        autoincrement(),
    )

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    identity_id: Mapped[int] = mapped_column(ForeignKey("identity.id"))
    number: Mapped[int] = mapped_column(Integer)
    model_digest: Mapped[str] = mapped_column(Hex)
    space_id: Mapped[int | None] = mapped_column(ForeignKey("space.id"))
    operation_id: Mapped[str] = mapped_column(ForeignKey("operation.id"))
    state: Mapped[VersionState] = mapped_column(choice(VersionState, "state"), default=VersionState.ACTIVE)
    residual: Mapped[float | None] = mapped_column(Number)
    base_model: Mapped[str | None] = mapped_column(Words)
    base_revision: Mapped[str | None] = mapped_column(Words)
    manifest_digest: Mapped[str | None] = mapped_column(Hex)
    artifact_digest: Mapped[str | None] = mapped_column(Hex)
    preview_digest: Mapped[str | None] = mapped_column(Hex)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    changed_seq: Mapped[int] = mapped_column(BigInt)
    adapter: Mapped[str | None] = mapped_column(Words, info=LATE)

    identity: Mapped[Identity] = relationship()
    space: Mapped[Space | None] = relationship()
    operation: Mapped[Operation] = relationship()


class VersionSubject(Base):
    """Whom a version depicts by its own account; whom it inherits from its ancestors is the lineage's business."""

    __tablename__ = "version_subject"
    __table_args__ = (Index("ix_version_subject_subject_id", "subject_id"),)

    version_id: Mapped[int] = mapped_column(ForeignKey("version.id"), primary_key=True)
    subject_id: Mapped[str] = mapped_column(ForeignKey("subject.id"), primary_key=True)


class Coordinates(Base):
    """Coordinates of a version in a space: ``data`` is float32 little-endian (k), ``digest`` its SHA-256."""

    __tablename__ = "coordinates"
    __table_args__ = (Index("ix_coordinates_version_id", "version_id"),)

    space_id: Mapped[int] = mapped_column(ForeignKey("space.id"), primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("version.id"), primary_key=True)
    k: Mapped[int] = mapped_column(Integer)
    digest: Mapped[str] = mapped_column(Hex)
    data: Mapped[bytes] = mapped_column(LargeBinary)

    version: Mapped[Version] = relationship()


class SourceFile(Salted, Base):
    """A file a version came in: several when the same model was added again re-saved. ``name`` is a base name."""

    __tablename__ = "source_file"
    __table_args__ = (
        UniqueConstraint("version_id", "sha256"),
        Index("ix_source_file_sha256", "sha256"),
        Index("ix_source_file_model_digest", "model_digest"),
        autoincrement(),
    )

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("version.id"))
    sha256: Mapped[str] = mapped_column(Hex)
    model_digest: Mapped[str] = mapped_column(Hex)
    format: Mapped[str] = mapped_column(Words)
    dtype: Mapped[str] = mapped_column(Words)
    name: Mapped[str] = mapped_column(Words)
    size: Mapped[int] = mapped_column(BigInt)
    created: Mapped[datetime] = mapped_column(UtcDateTime)

    version: Mapped[Version] = relationship()


class Label(Salted, Base):
    """An attribute of a version: a number or a text, never both."""

    __tablename__ = "label"
    __table_args__ = (
        UniqueConstraint("version_id", "name"),
        CheckConstraint("(number IS NULL) <> (text IS NULL)", name="one_value"),
        Index("ix_label_name_number", "name", "number"),
        autoincrement(),
    )

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("version.id"))
    name: Mapped[str] = mapped_column(Words)
    number: Mapped[float | None] = mapped_column(Number)
    text: Mapped[str | None] = mapped_column(Words)


class Tag(Salted, Base):
    """A user's own key and value on an identity."""

    __tablename__ = "tag"
    __table_args__ = (
        UniqueConstraint("identity_id", "key"),
        Index("ix_tag_key_value", "key", "value"),
        autoincrement(),
    )

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    identity_id: Mapped[int] = mapped_column(ForeignKey("identity.id"))
    key: Mapped[str] = mapped_column(Words)
    value: Mapped[str] = mapped_column(Words)


class Alias(Base):
    """What an alias of an identity means now."""

    __tablename__ = "alias"
    __table_args__ = (
        UniqueConstraint("identity_id", "name"),
        Index("ix_alias_version_id", "version_id"),
        autoincrement(),
    )

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    identity_id: Mapped[int] = mapped_column(ForeignKey("identity.id"))
    name: Mapped[str] = mapped_column(Words)
    version_id: Mapped[int] = mapped_column(ForeignKey("version.id"))

    version: Mapped[Version] = relationship()


class AliasChange(Base):
    """What an alias meant from ``at`` on; ``version_id`` None: unset."""

    __tablename__ = "alias_change"
    __table_args__ = (Index("ix_alias_change_identity_id_alias_at", "identity_id", "alias", "at"), autoincrement())

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    identity_id: Mapped[int] = mapped_column(ForeignKey("identity.id"))
    alias: Mapped[str] = mapped_column(Words)
    version_id: Mapped[int | None] = mapped_column(ForeignKey("version.id"))
    at: Mapped[datetime] = mapped_column(UtcDateTime)
