"""What made versions and spaces, and from what: the provenance graph."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from w2w_registry.catalog.base import Base, Salted, where_given
from w2w_registry.catalog.types import BigInt, Hex, Json, UtcDateTime, Words, choice

RESEMBLES: Final = "resembles"
"""Role of an input that nothing was computed from, but that the result came out near."""


class InputKind(StrEnum):
    """What an operation can take in."""

    VERSION = "version"
    FILE = "file"
    PHOTO = "photo"
    SPACE = "space"
    DIRECTION = "direction"
    HUB = "hub"


class Operation(Salted, Base):
    """One activity: import, train, invert, edit, mix, sample, pull; fit and import of spaces and directions.

    ``params``: every parameter that affects the result. ``models``: name -> revision or digest of each model used.
    ``seed`` is below 2**63.
    """

    __tablename__ = "operation"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    kind: Mapped[str] = mapped_column(Words)
    agent: Mapped[str] = mapped_column(Words)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    params: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    seed: Mapped[int | None] = mapped_column(BigInt)
    code_version: Mapped[str] = mapped_column(Words)
    models: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)


class OperationInput(Salted, Base):
    """One input. ``digest``: SHA-256 of the file or photo, or the digest of the space or direction; ``ref``: what to
    call it (a file's base name, ``faces@1``, ``owner/repo@commit``)."""

    __tablename__ = "operation_input"
    __table_args__ = (
        where_given("ix_operation_input_version_id_operation_id", "version_id", "operation_id"),
        Index("ix_operation_input_digest", "digest"),
    )

    operation_id: Mapped[str] = mapped_column(ForeignKey("operation.id"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    role: Mapped[str] = mapped_column(Words)
    kind: Mapped[InputKind] = mapped_column(choice(InputKind, "kind"))
    version_id: Mapped[int | None] = mapped_column(ForeignKey("version.id"))
    digest: Mapped[str | None] = mapped_column(Hex)
    ref: Mapped[str | None] = mapped_column(Words)

    operation: Mapped[Operation] = relationship()
