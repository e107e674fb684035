"""The declarative base: constraint names, which tables are audited, the salt of rows that may hold personal data."""

from __future__ import annotations

import secrets
from typing import Any, ClassVar

from sqlalchemy import Index, MetaData, String, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Base of every table. ``audited``: each change of a row is recorded, with the row's digest, in an event."""

    metadata = MetaData(naming_convention=NAMING)
    audited: ClassVar[bool] = True


def new_salt() -> str:
    """128 random bits."""
    return secrets.token_hex(16)


class Salted:
    """For rows that may hold personal data.

    Events keep the digest of every audited row for ever. A name or a label is easy to guess, so its digest alone
    would still betray it after erasure. The salt makes the digest a commitment that says nothing once the row (or its
    salt, which changes with every update) is gone.
    """

    salt: Mapped[str] = mapped_column(String(32), default=new_salt, sort_order=1000)


LATE: dict[str, bool] = {"late": True}
"""``info`` of a column added after the first schema: digests leave it out while it is NULL, so that events recorded
before the column was there still hold."""


def audited_models() -> list[type[Base]]:
    """Every audited model, by table name."""
    found: list[type[Base]] = [m.class_ for m in Base.registry.mappers if m.class_.audited]
    return sorted(found, key=table_name)


def table_name(model: type[Base]) -> str:
    return str(model.__tablename__)


def autoincrement(**more: Any) -> dict[str, Any]:
    """Table options for integer ids: SQLite must never give an id of a deleted row to a new one."""
    return {"sqlite_autoincrement": True, **more}


def where_given(name: str, column: str, *more: str) -> Index:
    """An index of the rows where ``column`` is not NULL, for a column that mostly is: what is looked up is a value."""
    given = text(f"{column} IS NOT NULL")
    return Index(name, column, *more, sqlite_where=given, postgresql_where=given)
