"""Weight spaces, whom they were fitted on, and the directions found in them."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import ForeignKey, Index, Integer, LargeBinary, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from w2w_registry.catalog.base import Base, Salted, autoincrement
from w2w_registry.catalog.operations import Operation
from w2w_registry.catalog.types import BigInt, Hex, Json, Number, UtcDateTime, Words, choice

if TYPE_CHECKING:
    pass


class SpaceState(StrEnum):
    """``retired``: kept for what lives in it, no longer the newest that a bare name means."""

    ACTIVE = "active"
    RETIRED = "retired"


class Space(Base):
    """One immutable weight space, ``name@number``. Its arrays are the artifact ``artifact_digest``.

    ``digest`` is over everything in it. ``dim``: D; ``components``: k. ``fit_set_digest`` and ``fit_size`` are None
    when the space came from elsewhere without saying. ``explained_variance``: ratio per component.
    """

    __tablename__ = "space"
    __table_args__ = (UniqueConstraint("name", "number"), UniqueConstraint("digest"), autoincrement())

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    name: Mapped[str] = mapped_column(Words)
    number: Mapped[int] = mapped_column(Integer)
    digest: Mapped[str] = mapped_column(Hex)
    base_model: Mapped[str] = mapped_column(Words)
    base_revision: Mapped[str | None] = mapped_column(Words)
    layout_digest: Mapped[str] = mapped_column(Hex, index=True)
    layout: Mapped[Any] = mapped_column(Json)
    dim: Mapped[int] = mapped_column(BigInt)
    rank: Mapped[int] = mapped_column(Integer)
    alpha: Mapped[float] = mapped_column(Number)
    components: Mapped[int] = mapped_column(Integer)
    artifact_digest: Mapped[str] = mapped_column(Hex)
    fit_set_digest: Mapped[str | None] = mapped_column(Hex)
    fit_size: Mapped[int | None] = mapped_column(Integer)
    metric: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    calibration: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    explained_variance: Mapped[list[float] | None] = mapped_column(Json)
    software: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    state: Mapped[SpaceState] = mapped_column(choice(SpaceState, "state"), default=SpaceState.ACTIVE)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("space.id"))
    operation_id: Mapped[str] = mapped_column(ForeignKey("operation.id"))
    created: Mapped[datetime] = mapped_column(UtcDateTime)

    operation: Mapped[Operation] = relationship()

    @property
    def ref(self) -> str:
        """``faces@1``."""
        return f"{self.name}@{self.number}"


class SpaceMember(Salted, Base):
    """One LoRA the space was fitted on, in fit order; whether it is registered, and whom it depicts, is told by its
    ``model_digest`` (``catalog.membership``)."""

    __tablename__ = "space_member"
    __table_args__ = (Index("ix_space_member_model_digest", "model_digest"),)

    space_id: Mapped[int] = mapped_column(ForeignKey("space.id"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    model_digest: Mapped[str] = mapped_column(Hex)
    name: Mapped[str] = mapped_column(Words)


class Direction(Base):
    """A unit vector of one space, float32 little-endian (k), for an attribute."""

    __tablename__ = "direction"
    __table_args__ = (UniqueConstraint("space_id", "name"), autoincrement())

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    space_id: Mapped[int] = mapped_column(ForeignKey("space.id"))
    name: Mapped[str] = mapped_column(Words)
    attribute: Mapped[str] = mapped_column(Words)
    vector: Mapped[bytes] = mapped_column(LargeBinary)
    method: Mapped[str] = mapped_column(Words)
    calibration: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    quality: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    leakage: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    operation_id: Mapped[str] = mapped_column(ForeignKey("operation.id"))
    digest: Mapped[str] = mapped_column(Hex, index=True)
    created: Mapped[datetime] = mapped_column(UtcDateTime)

    operation: Mapped[Operation] = relationship()
