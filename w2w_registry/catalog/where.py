"""The ``--where`` language: a small, safe parser. ``where_sql`` compiles what comes out of it.

    kind = person and beard > 0.5 and (tag.team = 'ads' or alias = production) and created >= 2026-05-01

Fields: ``name``, ``kind``, ``version``, ``state``, ``residual``, ``created``, ``base_model``, ``adapter``, ``space``,
``subject``, ``operation``, ``alias``, ``tag.KEY``, ``label.NAME``; any other word has to be the name of a label that
some version has. Names with blanks are quoted: ``tag."due date"``, ``"hair hue" > 0.2``.

Operators: ``= != < <= > >=``, ``in (…)``, ``like`` (``%`` any run, ``_`` one character), ``~`` (contains), each of the
last three with ``not`` before it, ``is null``, ``is not null``; ``and``, ``or``, ``not``, parentheses.

Meaning:
- Exact means exact: whole values, by code point, upper case is not lower case.
- Every comparison is true or false. With something that is not there it is false, ``!=`` and ``not in`` too;
  ``not team = 'ads'`` (a negated comparison) is true then. ``is null`` asks whether it is there.
- Subjects' ids are compared without regard to case.
- ``subject`` and ``alias`` may have several values: a comparison is true when it is for one of them.
- ``space = faces`` means any version of it, ``space = faces@2`` that one.
- A date without a time is the whole day, in UTC.
- A label is a number or a text; compared with the other kind it is false. A tag is a text; where it reads as a plain
  decimal number, ``< <= > >=`` with a number compare the numbers, and ``=`` with a number is true of 4 and of 4.0.
- What only some values can be (kind, state, operation) is compared with those only.
- ``held`` alone is short for ``state = held``.

Consent is a matter of records, ancestors and time: services filter by it after the query, it is no field here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import NamedTuple, NoReturn

from w2w_registry.errors import WhereError
from w2w_registry.records import Kind, OperationKind, VersionState, composed

MAX_LENGTH = 10_000  # characters
MAX_DEPTH = 50  # of parentheses and negations
MAX_TERMS = 300  # comparisons, and values in one list

Value = str | float | date | datetime


@dataclass(frozen=True)
class Field:
    """What is asked about. ``kind``: one of ``FIELDS``, ``tag`` or ``label`` (then ``key`` names it).

    ``position``: where a bare word stands that can only be a label; None for ``label.NAME``, which says so itself.
    """

    kind: str
    key: str = ""
    position: int | None = field(default=None, compare=False)


class Numeral(str):
    """A number written without quotes where a text is asked for: the text as it was typed, and its ``number``."""

    @property
    def number(self) -> float:
        return float(self)


@dataclass(frozen=True)
class Compare:
    """One comparison. ``operator``: = != < <= > >= in, like, ~, null; ``values``: one, or for ``in`` some.

    ``negated``: ``not in``, ``not like``, ``not ~``, ``is not null``. Values are ``date`` only for ``created``,
    else ``str`` or ``float``.
    """

    field: Field
    operator: str
    values: tuple[Value, ...]
    negated: bool = False


@dataclass(frozen=True)
class Not:
    term: Expression


@dataclass(frozen=True)
class All:
    """``and``; of nothing: true."""

    terms: tuple[Expression, ...]


@dataclass(frozen=True)
class Some:
    """``or``."""

    terms: tuple[Expression, ...]


Expression = Compare | Not | All | Some

TEXT, NUMBER, MOMENT, TAG, ANY = "text", "number", "date", "tag", "any"
FIELDS = {
    "name": TEXT,
    "kind": TEXT,
    "version": NUMBER,
    "state": TEXT,
    "residual": NUMBER,
    "created": MOMENT,
    "base_model": TEXT,
    "adapter": TEXT,
    "space": TEXT,
    "subject": TEXT,
    "operation": TEXT,
    "alias": TEXT,
}
"""Fields of their own and what their values are."""

CHOICES: dict[str, tuple[str, ...]] = {
    "kind": tuple(map(str, Kind)),
    "state": tuple(map(str, VersionState)),
    "operation": tuple(map(str, OperationKind)),
}
"""Fields that only some values can be equal to."""


def parse_where(text: str) -> Expression:
    """The meaning of an expression.

    Raises:
        WhereError: fields expression, position (0-based character), reason (what was expected, what was found).
    """
    if len(text) > MAX_LENGTH:
        raise WhereError(expression=text[:60] + "…", position=60, reason=f"longer than {MAX_LENGTH} characters")
    return _Parser(composed(text)).parse()


class _Token(NamedTuple):
    kind: str  # atom, string, operator, end
    text: str
    start: int
    tight: bool  # nothing between it and the token before


_TOKEN = re.compile(
    r"""(?P<space>\s+)
    | (?P<string>'(?:[^']|'')*'|"(?:[^"]|"")*")
    | (?P<operator><=|>=|!=|<>|==|[=<>~(),])
    | (?P<atom>[\w.+\-/@:]+)""",
    re.VERBOSE,
)
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_DATETIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?(?:[Zz]|[+-]\d{2}:\d{2})?", re.ASCII)
_KEYWORDS = {"and", "or", "not", "in", "like", "is", "null"}
_SYMBOLS = {"=", "!=", "<", "<=", ">", ">=", "~"}


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._scan()
        self._at = 0
        self._depth = 0
        self._terms = 0

    def parse(self) -> Expression:
        found = self._any()
        if self._next.kind != "end":
            self._fail("'and', 'or' or the end")
        return found

    # -- grammar: any := all {or all}; all := term {and term}; term := not term | ( any ) | comparison -------------
    def _any(self) -> Expression:
        return self._chain("or", self._all, Some)

    def _all(self) -> Expression:
        return self._chain("and", self._term, All)

    def _chain(
        self, word: str, part: Callable[[], Expression], join: Callable[[tuple[Expression, ...]], Expression]
    ) -> Expression:
        terms = [part()]
        while self._take_word(word):
            terms.append(part())
        return terms[0] if len(terms) == 1 else join(tuple(terms))

    def _term(self) -> Expression:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._error(f"nested deeper than {MAX_DEPTH}")
        if self._take_word("not"):
            found: Expression = Not(self._term())
        elif self._take("("):
            found = self._any()
            if not self._take(")"):
                self._fail("')'")
        else:
            found = self._comparison()
        self._depth -= 1
        return found

    def _comparison(self) -> Compare:
        self._terms += 1
        if self._terms > MAX_TERMS:
            self._error(f"more than {MAX_TERMS} comparisons")
        if self._is_held():
            self._at += 1
            return Compare(Field("state"), "=", (str(VersionState.HELD),))
        field = self._field()
        wanted = FIELDS.get(field.kind, TAG if field.kind == "tag" else ANY)
        if self._take_word("is"):
            negated = self._take_word("not")
            if not self._take_word("null"):
                self._fail("'null'" if negated else "'null' or 'not null'")
            return Compare(field, "null", (), negated)
        negated = self._take_word("not")
        if self._take_word("in"):
            return Compare(field, "in", self._list(wanted, field), negated)
        for operator in ("like", "~"):
            if self._take_word(operator) or self._take(operator):
                if wanted not in (TEXT, TAG, ANY):
                    self._error(f"{operator} compares text, {field.kind} is a {wanted}", back=1)
                return Compare(field, operator, (self._value(TEXT),), negated)
        if negated:
            self._fail("'in', 'like' or '~' after 'not'")
        token = self._next
        if token.text == "<>":
            self._at += 1
            return Compare(field, "!=", (self._value(wanted, field),))
        if token.kind != "operator" or token.text not in _SYMBOLS:
            self._fail("'=' (one of them)" if token.text == "==" else "=, !=, <, <=, >, >=, in, like, ~ or is")
        self._at += 1
        return Compare(field, token.text, (self._value(wanted, field if token.text in ("=", "!=") else None),))

    def _is_held(self) -> bool:
        """Whether the word ``held`` stands alone: then it is short for ``state = held``."""
        word, after = self._next, self._tokens[min(self._at + 1, len(self._tokens) - 1)]
        ends = after.kind == "end" or after.text == ")" or after.text.lower() in ("and", "or")
        return word.kind == "atom" and word.text.lower() == "held" and ends and after is not word

    def _field(self) -> Field:
        token = self._next
        if token.kind == "string":
            self._at += 1
            return Field("label", _unquote(token.text), token.start)
        if token.kind != "atom" or token.text.lower() in _KEYWORDS:
            self._fail("a field")
        if _NUMBER.fullmatch(token.text):
            self._fail("a field, the value comes after it")
        self._at += 1
        for prefix in ("tag", "label"):
            if token.text == f"{prefix}." and self._next.kind == "string" and self._next.tight:
                self._at += 1
                return Field(prefix, _unquote(self._tokens[self._at - 1].text))
            if token.text.startswith(f"{prefix}.") and len(token.text) > len(prefix) + 1:
                return Field(prefix, token.text[len(prefix) + 1 :])
        if token.text in ("tag", "label", "tag.", "label."):
            self._error(f"expected a name after {token.text.rstrip('.')}., as in {token.text.rstrip('.')}.team", back=1)
        if token.text == "consent":
            self._error("consent depends on records and time; it is not a field here", back=1)
        return Field(token.text) if token.text in FIELDS else Field("label", token.text, token.start)

    def _list(self, wanted: str, field: Field) -> tuple[Value, ...]:
        if not self._take("("):
            self._fail("'(' after in")
        values = [self._value(wanted, field)]
        while self._take(","):
            if len(values) == MAX_TERMS:
                self._error(f"more than {MAX_TERMS} values")
            values.append(self._value(wanted, field))
        if not self._take(")"):
            self._fail("',' or ')'")
        return tuple(values)

    def _value(self, wanted: str, equal_to: Field | None = None) -> Value:
        token = self._next
        if token.kind not in ("string", "atom") or (token.kind == "atom" and token.text.lower() in _KEYWORDS):
            self._fail({NUMBER: "a number", MOMENT: "a date"}.get(wanted, "a value"))
        quoted = token.kind == "string"
        text = _unquote(token.text) if quoted else token.text
        value: Value = text
        if wanted == MOMENT:
            value = self._moment(text)
        elif wanted == NUMBER or (wanted == ANY and not quoted and _NUMBER.fullmatch(text)):
            if quoted or not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
                self._fail("a number")
            value = float(text)
        elif wanted == TAG and not quoted and _NUMBER.fullmatch(text) and math.isfinite(float(text)):
            value = Numeral(text)
        choices = None if equal_to is None else CHOICES.get(equal_to.kind)
        if choices is not None and text not in choices:
            kind = "" if equal_to is None else equal_to.kind
            self._error(f"there is no {kind} {text!r}, only {', '.join(choices)}")
        self._at += 1
        return value

    def _moment(self, text: str) -> Value:
        try:
            if _DATE.fullmatch(text) and text >= "1000":  # four digits, so that stored moments sort as text
                return date.fromisoformat(text)
            if _DATETIME.fullmatch(text) and text >= "1001":
                moment = datetime.fromisoformat(text.upper())
                return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
        self._fail("a date, as in 2026-05-01 or 2026-05-01T12:00:00Z")

    # -- tokens -----------------------------------------------------------------------------------------------------
    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self, symbol: str) -> bool:
        if self._next.kind == "operator" and self._next.text == symbol:
            self._at += 1
            return True
        return False

    def _take_word(self, word: str) -> bool:
        if self._next.kind == "atom" and self._next.text.lower() == word:
            self._at += 1
            return True
        return False

    def _scan(self) -> list[_Token]:
        tokens: list[_Token] = []
        at = end = 0
        while at < len(self._text):
            match = _TOKEN.match(self._text, at)
            if match is None:
                quote = self._text[at] in "'\""
                raise WhereError(
                    expression=self._text,
                    position=at,
                    reason="a quote that is not closed" if quote else f"unexpected {self._text[at]!r}",
                )
            if match.lastgroup != "space":
                tokens.append(_Token(str(match.lastgroup), match[0], at, tight=at == end))
                end = match.end()
            at = match.end()
        tokens.append(_Token("end", "", len(self._text), tight=False))
        return tokens

    def _fail(self, expected: str) -> NoReturn:
        found = "the end" if self._next.kind == "end" else self._next.text
        self._error(f"expected {expected}, found {found}")

    def _error(self, reason: str, back: int = 0) -> NoReturn:
        raise WhereError(expression=self._text, position=self._tokens[self._at - back].start, reason=reason)


def _unquote(text: str) -> str:
    mark = text[0]
    return text[1:-1].replace(mark * 2, mark)


def day_bounds(day: date) -> tuple[datetime, datetime | None]:
    """The first moment of a day in UTC and of the next (None after the last day there is)."""
    start = datetime.combine(day, time(), UTC)
    return start, None if day == date.max else datetime.combine(date.fromordinal(day.toordinal() + 1), time(), UTC)
