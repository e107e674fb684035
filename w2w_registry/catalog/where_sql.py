"""``where`` expressions as SQL conditions on a version (joined with its identity), the same on both databases.

Values are always bound. A comparison is never NULL, so ``not`` means what it says.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from sqlalchemy import Double, and_, bindparam, cast, exists, false, func, literal, not_, or_, true
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from w2w_registry.catalog.assets import PLAIN_ADAPTER, Alias, Identity, Label, Tag, Version, VersionSubject
from w2w_registry.catalog.operations import Operation
from w2w_registry.catalog.spaces import Space
from w2w_registry.catalog.types import UtcDateTime, Words
from w2w_registry.catalog.where import All, Compare, Expression, Field, Not, Numeral, Some, Value, day_bounds

Sql = Any  # a SQLAlchemy boolean column expression


def condition(expression: Expression) -> Sql:
    """The condition; the query it goes into selects from ``version`` joined with ``identity``."""
    match expression:
        case All(terms):
            return and_(true(), *map(condition, terms))
        case Some(terms):
            return or_(false(), *map(condition, terms))
        case Not(term):
            return not_(condition(term))
        case Compare():
            return _compare(expression)


def labels_of_bare_words(expression: Expression) -> list[Field]:
    """The fields that can only be labels and do not say so, in the order they stand."""
    match expression:
        case All(terms) | Some(terms):
            return [field for term in terms for field in labels_of_bare_words(term)]
        case Not(term):
            return labels_of_bare_words(term)
        case Compare():
            return [expression.field] if expression.field.position is not None else []


def mentions(expression: Expression, field: str) -> bool:
    """Whether a field of this kind occurs anywhere."""
    match expression:
        case All(terms) | Some(terms):
            return any(mentions(term, field) for term in terms)
        case Not(term):
            return mentions(term, field)
        case Compare():
            return expression.field.kind == field


def _compare(compare: Compare) -> Sql:
    kind, key = compare.field.kind, compare.field.key
    if kind in _COLUMNS:
        column, test = _COLUMNS[kind]
        return _single(compare, column, test)
    if kind == "space":
        return _related(compare, _space, Space.id == Version.space_id)
    if kind == "operation":
        return _related(compare, _text(Operation.kind), Operation.id == Version.operation_id)
    if kind == "subject":
        return _related(compare, _text(VersionSubject.subject_id), VersionSubject.version_id == Version.id)
    if kind == "alias":
        return _related(compare, _text(Alias.name), Alias.version_id == Version.id)
    if kind == "tag":
        return _related(compare, _tag, Tag.identity_id == Version.identity_id, Tag.key == key)
    assert kind == "label"
    return _related(compare, _label, Label.version_id == Version.id, Label.name == key, *_label_kind(compare))


def _single(compare: Compare, column: Any, test: Any) -> Sql:
    if compare.operator == "null":
        return column.is_not(None) if compare.negated else column.is_(None)
    return and_(column.is_not(None), _negate(compare, test(column)(compare.operator, compare.values)))


def _related(compare: Compare, test: Any, *joined: Any) -> Sql:
    """True when a related row passes; ``is null`` when there is none."""
    if compare.operator == "null":
        there = _exists(*joined)
        return there if compare.negated else not_(there)
    return _exists(*joined, _negate(compare, test(compare.operator, compare.values)))


def _exists(*conditions: Any) -> Sql:
    # correlated with these two only: the query around may hold the other tables for reasons of its own
    return exists().where(*conditions).correlate(Version, Identity)


def _negate(compare: Compare, found: Sql) -> Sql:
    return not_(found) if compare.negated else found


def _text(column: Any) -> Any:
    def test(operator: str, values: tuple[Value, ...]) -> Sql:
        bound = [literal(str(value), Words) for value in values]
        if operator == "in":
            return _CodePoints(column).in_([str(value) for value in values])
        if operator == "like":
            return _ExactLike(column, bound[0], literal(_glob(str(values[0])), Words))
        if operator == "~":
            return _Position(column, bound[0]) > 0
        return _order(_CodePoints(column), operator, bound[0])

    return test


def _number(column: Any) -> Any:
    def test(operator: str, values: tuple[Value, ...]) -> Sql:
        # as doubles, or PostgreSQL would round 2.5 to compare it with an integer
        exact = cast(column, Double)
        bound = [bindparam(None, value, Double) for value in values]
        return or_(*(exact == value for value in bound)) if operator == "in" else _order(exact, operator, bound[0])

    return test


def _moment(column: Any) -> Any:
    def test(operator: str, values: tuple[Value, ...]) -> Sql:
        if operator in ("in", "=", "!="):
            same = or_(*(_on(column, value) for value in values))
            return not_(same) if operator == "!=" else same
        start, end = _bounds(values[0])
        match operator:
            case "<":
                return column < _at(start)
            case ">=":
                return column >= _at(start)
            case "<=" if isinstance(values[0], datetime):
                return column <= _at(start)
            case ">" if isinstance(values[0], datetime):
                return column > _at(start)
            case "<=":
                return true() if end is None else column < _at(end)
            case _:
                return false() if end is None else column >= _at(end)

    return test


def _on(column: Any, value: Value) -> Sql:
    start, end = _bounds(value)
    if isinstance(value, datetime):
        return column == _at(start)
    return column >= _at(start) if end is None else and_(column >= _at(start), column < _at(end))


def _bounds(value: Value) -> tuple[datetime, datetime | None]:
    if isinstance(value, datetime):
        return value, None
    assert isinstance(value, date)
    return day_bounds(value)


def _at(moment: datetime) -> Any:
    return literal(moment, UtcDateTime)


def _space(operator: str, values: tuple[Value, ...]) -> Sql:
    """``faces`` is compared with the name, ``faces@2`` with name and number."""
    full = Space.name + literal("@", Words) + cast(Space.number, Words)
    if operator == "in":
        return or_(*(_space("=", (value,)) for value in values))
    return _text(full if "@" in str(values[0]) else Space.name)(operator, values)


def _tag(operator: str, values: tuple[Value, ...]) -> Sql:
    """Numbers compare with tags that are numbers; equal is also what is written alike (``007``)."""
    if operator in ("=", "!=", "in"):
        alike = [_text(Tag.value)("in", values)]
        numbers = tuple(value.number for value in values if isinstance(value, Numeral))
        same = or_(*alike, *([func.coalesce(_number(AsNumber(Tag.value))("in", numbers), false())] if numbers else []))
        return not_(same) if operator == "!=" else same
    if isinstance(values[0], Numeral):
        return func.coalesce(_number(AsNumber(Tag.value))(operator, (values[0].number,)), false())
    return _text(Tag.value)(operator, values)


def _label(operator: str, values: tuple[Value, ...]) -> Sql:
    numbers, texts = _by_kind(values)
    tests = []
    if numbers:
        tests.append(and_(Label.number.is_not(None), _number(Label.number)(operator, numbers)))
    if texts:
        tests.append(and_(Label.text.is_not(None), _text(Label.text)(operator, texts)))
    return or_(*tests)


def _label_kind(compare: Compare) -> list[Sql]:
    """The label is a number where a number is asked for, a text where a text is: ``not like`` is no way round that."""
    if compare.operator == "null":
        return []
    numbers, texts = _by_kind(compare.values)
    return [or_(*([Label.number.is_not(None)] if numbers else []), *([Label.text.is_not(None)] if texts else []))]


def _by_kind(values: tuple[Value, ...]) -> tuple[tuple[float, ...], tuple[str, ...]]:
    return tuple(v for v in values if isinstance(v, float)), tuple(v for v in values if isinstance(v, str))


def _order(column: Any, operator: str, value: Any) -> Sql:
    match operator:
        case "=":
            return column == value
        case "!=":
            return column != value
        case "<":
            return column < value
        case "<=":
            return column <= value
        case ">":
            return column > value
    assert operator == ">="
    return column >= value


_COLUMNS = {
    "name": (Identity.name, _text),
    "kind": (Identity.kind, _text),
    "version": (Version.number, _number),
    "state": (Version.state, _text),
    "residual": (Version.residual, _number),
    "created": (Version.created, _moment),
    "base_model": (Version.base_model, _text),
    "adapter": (func.coalesce(Version.adapter, PLAIN_ADAPTER), _text),
}


def _glob(pattern: str) -> str:
    """A ``like`` pattern for SQLite's GLOB, which unlike its LIKE tells upper from lower case."""
    parts = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}
    return "".join(parts.get(character, character) for character in pattern)


class _CodePoints(FunctionElement[str]):
    """A text column, ordered by code point."""

    inherit_cache = True
    name = "code_points"
    type = Words()


class AsNumber(FunctionElement[float]):
    """A text that is a plain decimal number (``-2``, ``4.50``; no exponent, at most 100 characters), else NULL."""

    inherit_cache = True
    name = "as_number"
    type = Double()


class _Position(FunctionElement[int]):
    """Position of a text in another, 0 when it is not in it."""

    inherit_cache = True
    name = "position"


class _ExactLike(FunctionElement[bool]):
    """``column like pattern``, case-sensitive: (column, LIKE pattern, GLOB pattern)."""

    inherit_cache = True
    name = "exact_like"


@compiles(_CodePoints)
def _code_points_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))


@compiles(_CodePoints, "postgresql")
def _code_points_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    return f'({compiler.process(element.clauses, **options)} COLLATE "C")'


@compiles(AsNumber)
def _as_number_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    text = compiler.process(element.clauses, **options)
    plain = f"{text} NOT GLOB '*[^0-9.-]*' AND length({text}) <= 100 AND json_valid({text})"
    return f"(CASE WHEN {plain} THEN CAST({text} AS REAL) END)"


@compiles(AsNumber, "postgresql")
def _as_number_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    text = compiler.process(element.clauses, **options)
    plain = f"{text} ~ '^-?(0|[1-9][0-9]*)([.][0-9]+)?$' AND length({text}) <= 100"
    return f"(CASE WHEN {plain} THEN CAST({text} AS double precision) END)"


@compiles(_Position)
def _position_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return f"instr({compiler.process(element.clauses, **options)})"


@compiles(_Position, "postgresql")
def _position_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    return f"strpos({compiler.process(element.clauses, **options)})"


@compiles(_ExactLike)
def _like_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    column, _, glob = element.clauses
    return f"({compiler.process(column, **options)} GLOB {compiler.process(glob, **options)})"


@compiles(_ExactLike, "postgresql")
def _like_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    column, pattern, _ = element.clauses
    return f"({compiler.process(column, **options)} LIKE {compiler.process(pattern, **options)} ESCAPE '')"
