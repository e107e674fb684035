"""Column types with one meaning on SQLite and PostgreSQL, and the canonical form of each for row digests.

Whatever is written, the value read back has the same canonical form on both databases; a row digest may
therefore be taken from the values in memory when they are written and checked years later from the table.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    DateTime,
    Dialect,
    Double,
    Enum,
    Integer,
    LargeBinary,
    String,
    TypeDecorator,
)
from sqlalchemy.types import TypeEngine

from w2w_registry.records import canonical_json, iso


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC, whole microseconds: ``timestamptz`` on PostgreSQL, fixed-width RFC 3339 text on SQLite.

    A naive value is taken as UTC, as ``records.iso`` does.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        # SQLite has no moment type; text of one width sorts as time does
        kind: TypeEngine[Any] = String(27) if dialect.name == "sqlite" else DateTime(timezone=True)
        return dialect.type_descriptor(kind)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if dialect.name == "sqlite":
            return iso(value)
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return datetime.fromisoformat(value) if isinstance(value, str) else value.astimezone(UTC)


class Json(TypeDecorator[Any]):
    """A JSON value, stored as its canonical text on both databases; ``None`` is SQL NULL.

    Not ``jsonb``: it rewrites numbers (``1e300`` comes back as an integer), which would change digests.
    Changes inside a value are not noticed: assign a new value.
    """

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else normal_json(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


class Number(TypeDecorator[float]):
    """A finite double. Negative zero is stored as zero, because SQLite loses its sign."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        return None if value is None else _finite(value)


class Words(TypeDecorator[str]):
    """Text compared and sorted by code point on both databases; what neither can hold becomes ``U+FFFD``.

    (PostgreSQL refuses NUL, both refuse lone surrogates, which file names with undecodable bytes have.)
    """

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(String(collation="C") if dialect.name == "postgresql" else String())

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(str(value))


BigInt = BigInteger().with_variant(Integer, "sqlite")  # SQLite autoincrements INTEGER only; it is 64 bits there
Hex = String(64)  # a SHA-256


def choice(values: type[StrEnum], name: str) -> Enum:
    """A closed set of words, kept as text with a CHECK constraint ``ck_<table>_<name>``."""
    return Enum(
        values,
        name=name,
        native_enum=False,
        create_constraint=True,
        length=20,
        values_callable=lambda kind: [member.value for member in kind],
    )


def storable(text: str) -> str:
    """``text`` with what the databases cannot hold replaced by U+FFFD."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").replace("\0", "\ufffd")


class JsonText(str):
    """A JSON value as ``normal_json`` gives it: a ``Json`` column takes it for the value, so that it is made once."""


def normal_json(value: Any) -> JsonText:
    """Canonical JSON of ``value`` as it reads back: keys are strings before they are sorted."""
    return value if isinstance(value, JsonText) else normalised(value)[1]


def normalised(value: Any) -> tuple[Any, JsonText]:
    """A value with the same canonical JSON as ``value`` has when it reads back, and that text."""
    text = canonical_json(value)
    kept = storable(text)
    if kept == text and _keyed_by_text(value):
        return value, JsonText(text)
    plain = json.loads(kept)
    return plain, JsonText(canonical_json(plain))


def _keyed_by_text(value: Any) -> bool:
    """Whether all keys are texts already, so that sorting them as they are is sorting them as texts."""
    kind = type(value)
    if kind is dict:
        for key, item in value.items():  # as a loop: a generator would cost as much as what it asks
            if type(key) is not str or not (type(item) is str or _keyed_by_text(item)):
                return False
        return True
    if kind is list or kind is tuple:
        return all(map(_keyed_by_text, value))
    return value is None or kind in _PLAIN


_PLAIN = frozenset({str, int, float, bool})


def handed_over(kind: TypeEngine[Any], dialect: Dialect) -> Callable[[Any], Any] | None:
    """How a column of this type hands a value, None among them, to the driver, None for as it is: what SQLAlchemy does,
    in fewer calls for those that most columns are."""
    if isinstance(kind, Words):
        return lambda value: None if value is None else _text(value)
    if isinstance(kind, Json):
        return lambda value: None if value is None else normal_json(value)
    if isinstance(kind, UtcDateTime) and dialect.name == "sqlite":
        return lambda value: None if value is None else iso(value)
    return kind.dialect_impl(dialect).bind_processor(dialect)


def _text(value: Any) -> str:
    if type(value) is str and value.isascii() and "\0" not in value:
        return value
    return storable(str(value))


def canonical_form(kind: TypeEngine[Any]) -> Callable[[Any], Any]:
    """The function that brings a non-null value of a column of this type into its form for digests."""
    if isinstance(kind, UtcDateTime):
        return iso
    if isinstance(kind, Json):
        return normal_json
    if isinstance(kind, (Number, Double)):
        return lambda value: repr(_finite(value))
    if isinstance(kind, LargeBinary):
        return lambda value: hashlib.sha256(value).hexdigest()
    if isinstance(kind, Boolean):
        return bool
    if isinstance(kind, (Integer, BigInteger)):
        return int
    if isinstance(kind, Enum):
        return lambda value: str(getattr(value, "value", value))
    if isinstance(kind, (Words, String)):
        return _text
    raise TypeError(f"a column of type {kind!r} has no form for digests")


def stored_form(kind: TypeEngine[Any]) -> Callable[[Any], Any]:
    """The same form from a non-null value as the driver returns it, unconverted.

    Verification reads what is really there: a value that no longer fits its column (SQLite lets anything in) has a
    form too, one that no proper value has.
    """
    if isinstance(kind, UtcDateTime):
        return lambda value: value if isinstance(value, str) else _kept(value, datetime, iso)
    if isinstance(kind, (Number, Double)):
        return lambda value: repr(float(value)) if type(value) in (int, float) else _unreadable(value)
    if isinstance(kind, LargeBinary):
        return lambda value: _kept(value, bytes, lambda data: hashlib.sha256(data).hexdigest())
    if isinstance(kind, Boolean):
        return lambda value: bool(value) if value in (0, 1) else _unreadable(value)
    if isinstance(kind, (Integer, BigInteger)):
        return lambda value: _kept(value, int, int)
    if isinstance(kind, (Json, Words, String)):
        return lambda value: _kept(value, str, str)
    raise TypeError(f"a column of type {kind!r} has no form for digests")


def _kept(value: Any, kind: type, form: Callable[[Any], Any]) -> Any:
    return form(value) if isinstance(value, kind) else _unreadable(value)


def _unreadable(value: Any) -> dict[str, str]:
    return {"unreadable": f"{type(value).__name__} {value!r}"}


def _finite(value: float) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"a number column holds finite values, not {number}")
    return number + 0.0
