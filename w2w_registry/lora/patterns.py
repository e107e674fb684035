"""The safe subset of regular expressions that PEFT's ``rank_pattern`` and ``alpha_pattern`` are read in.

PEFT treats the keys of these tables as regular expressions. A stranger's expression could run for ever in a
backtracking matcher, so none is given to ``re``: expressions of literals, ``.``, ``\\d``, ``\\w``, classes, groups,
``|``, ``?``, ``*``, ``+``, ``^``, ``$`` become a nondeterministic automaton (Thompson 1968), whose time is at most
length of pattern × length of name. What else a pattern holds (look-around, back references, counted repeats) is
refused, and so are long ones and many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

MAX_LENGTH = 200
MAX_PATTERNS = 64
"""Expressions that are more than a literal name, in one table."""

Test = Callable[[str], bool]


class UnsafePattern(Exception):
    """A pattern outside the safe subset; the argument says why, in a phrase."""


class PatternTable:
    """Values by pattern: the first pattern that matches a module's whole name, or its last dotted parts, wins.

    Source: ``peft.utils.other.get_pattern_key`` (``(.*\\.)?(PATTERN)$``).

    Raises:
        UnsafePattern: a pattern outside the safe subset, or too many of them.
    """

    def __init__(self, table: Iterable[tuple[str, float]]) -> None:
        self._names: dict[tuple[int, Holes], dict[tuple[str, bool], tuple[int, float]]] = {}
        self._patterns: list[tuple[int, Automaton, float]] = []
        for order, (pattern, value) in enumerate(table):
            name = _plain_name(pattern)
            if name is not None:
                text, holes, whole = name
                self._names.setdefault((len(text), holes), {}).setdefault((text, whole), (order, value))
            elif len(self._patterns) >= MAX_PATTERNS:
                raise UnsafePattern(f"more than {MAX_PATTERNS} expressions")
            else:
                Automaton(pattern)  # by itself: one that closes a group it did not open is none
                self._patterns.append((order, Automaton(f"(.*\\.)?({pattern})"), value))

    def find(self, module: str) -> float | None:
        """The value for a module, None when no pattern matches it."""
        hits: list[tuple[int, float]] = []
        ends = {len(module) - start for start in (0, *(i + 1 for i, c in enumerate(module) if c == "."))}
        for (length, holes), names in self._names.items():
            if length in ends:
                text = _with_holes(module[len(module) - length :], holes)
                whole = names.get((text, True)) if length == len(module) else None
                hits += [hit for hit in (names.get((text, False)), whole) if hit is not None]
        first = min(hits)[0] if hits else None
        for order, automaton, value in self._patterns:
            if first is not None and order > first:
                break
            if automaton.matches(module):
                return value
        return min(hits)[1] if hits else None


Holes = tuple[int, ...]
"""Places of a name where any character may stand: a dot that is not escaped."""


def _plain_name(pattern: str) -> tuple[str, Holes, bool] | None:
    """The name a pattern is when it holds nothing but characters and dots: with its holes, and whether it is meant from
    the first character on. None for all other patterns."""
    text = pattern.removeprefix("^").removesuffix("$")
    plain = text.replace("\\.", "\0")
    if not plain or set(plain) & set("\\()[]{}|?*+^$"):
        return None
    holes = tuple(i for i, character in enumerate(plain) if character == ".")
    return _with_holes(plain.replace("\0", "."), holes), holes, pattern.startswith("^")


def _with_holes(text: str, holes: Holes) -> str:
    characters = list(text)
    for hole in holes:
        characters[hole] = "."
    return "".join(characters)


@dataclass
class _State:
    """One state: with a ``test`` it eats a character, without it is passed for nothing; one with an ``anchor`` only at
    the beginning (``^``) or the end (``$``) of the text."""

    test: Test | None = None
    anchor: str = ""
    out: list[int] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.out = []


class Automaton:
    """A pattern as a nondeterministic automaton; ``matches`` holds a whole text against it, in linear time."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > MAX_LENGTH + 20:
            raise UnsafePattern(f"longer than {MAX_LENGTH} characters")
        self._text, self._at = pattern, 0
        self._states: list[_State] = []
        self._start, self._end = self._either()
        if self._at < len(pattern):
            raise UnsafePattern(f"{pattern[self._at]!r} without its partner")

    def matches(self, text: str) -> bool:
        here = self._closure([self._start], "^" if text else "^$")
        for at, character in enumerate(text, 1):
            here = self._closure(
                (
                    follow
                    for place in here
                    if (test := self._states[place].test) is not None and test(character)
                    for follow in self._states[place].out
                ),
                "$" if at == len(text) else "",
            )
            if not here:
                return False
        return self._end in here

    def _closure(self, places: Iterable[int], anchors: str) -> set[int]:
        """Where one can be without eating a character; ``anchors``: those that hold here."""
        found: set[int] = set()
        todo = list(places)
        while todo:
            place = todo.pop()
            state = self._states[place]
            if place not in found and state.anchor in anchors:
                found.add(place)
                if state.test is None:
                    todo += state.out
        return found

    def _new(self, test: Test | None = None, anchor: str = "") -> int:
        self._states.append(_State(test, anchor))
        return len(self._states) - 1

    def _join(self, a: int, b: int) -> None:
        self._states[a].out.append(b)

    # -- grammar: either := sequence ('|' sequence)*; sequence := piece*; piece := atom [?*+] ----------------------
    def _either(self) -> tuple[int, int]:
        start, end = self._new(), self._new()
        while True:
            first, last = self._sequence()
            self._join(start, first)
            self._join(last, end)
            if not self._take("|"):
                return start, end

    def _sequence(self) -> tuple[int, int]:
        start = last = self._new()
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            first, end = self._piece()
            self._join(last, first)
            last = end
        return start, last

    def _piece(self) -> tuple[int, int]:
        first, last = self._atom()
        if self._at < len(self._text) and self._text[self._at] in "?*+":
            mark = self._text[self._at]
            self._at += 1
            start, end = self._new(), self._new()
            self._join(start, first)
            self._join(last, end)
            if mark in "?*":
                self._join(start, end)
            if mark in "*+":
                self._join(last, first)
            self._take("?")  # a lazy repeat matches the same texts
            return start, end
        return first, last

    def _atom(self) -> tuple[int, int]:
        character = self._text[self._at]
        self._at += 1
        if character == "(":
            if self._take("?") and not self._take(":"):
                raise UnsafePattern("a group of a special kind")
            inside = self._either()
            if not self._take(")"):
                raise UnsafePattern("'(' without its partner")
            return inside
        if character in "^$":
            if self._text[self._at : self._at + 1] in tuple("?*+"):
                raise UnsafePattern(f"a repeated {character!r}")
            place = self._new(anchor=character)
            return place, place
        if character in "*+?{}])":
            raise UnsafePattern(f"{character!r} where a name is expected")
        test = self._class() if character == "[" else self._single(character)
        place, after = self._new(test), self._new()
        self._join(place, after)
        return place, after

    def _single(self, character: str) -> Test:
        if character == ".":
            return lambda _: True
        if character == "\\":
            return self._escaped()
        return character.__eq__

    def _escaped(self) -> Test:
        if self._at >= len(self._text):
            raise UnsafePattern("a backslash at its end")
        character = self._text[self._at]
        self._at += 1
        if character == "d":
            return str.isdigit
        if character == "w":
            return lambda c: c.isalnum() or c == "_"
        if character.isalnum():
            raise UnsafePattern(f"\\{character}")
        return character.__eq__

    def _class(self) -> Test:
        end = self._text.find("]", self._at + 1)
        body = self._text[self._at : end]
        if end < 0 or body.startswith("^") or "\\" in body or "[" in body:
            raise UnsafePattern("a class of characters of a special kind")
        self._at = end + 1
        allowed: set[str] = set()
        i = 0
        while i < len(body):
            if i + 2 < len(body) and body[i + 1] == "-":
                allowed.update(map(chr, range(ord(body[i]), min(ord(body[i + 2]), ord(body[i]) + 256) + 1)))
                i += 3
            else:
                allowed.add(body[i])
                i += 1
        return allowed.__contains__

    def _take(self, character: str) -> bool:
        if self._at < len(self._text) and self._text[self._at] == character:
            self._at += 1
            return True
        return False


@lru_cache(maxsize=256)
def table_of(items: tuple[tuple[str, float], ...]) -> PatternTable:
    """The table of these patterns; files of one training share theirs."""
    return PatternTable(items)
