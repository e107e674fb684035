"""The ``[policy]`` table as values: what a registry allows, and when one such table allows more than another."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from w2w_registry.consent.records import PURPOSES, Use
from w2w_registry.errors import SettingError, UnknownPurpose
from w2w_registry.records import Kind


@dataclass(frozen=True)
class Rules:
    """The ``[policy]`` table of registry.toml.

    ``purpose``: what an operation is for when nothing else is said. ``territory``: where this registry works.
    ``unknown``: uses open to likenesses without valid consent. ``likeness_kinds``: kinds of identity that depict
    somebody even when no subject is named. ``purposes``: purposes this registry knows besides the usual ones.
    ``signed_consents``: whether only consents count that the subject signed (``consent.credential``).
    ``second_person``: whether what one alone could make up takes two. ``marking``: whether pictures that leave are
    marked. ``space_people``: distinct people a space is fitted on at least.
    """

    purpose: str = "research"
    territory: str | None = None
    unknown: frozenset[Use] = frozenset({Use.REGISTER, Use.SEARCH, Use.TRAIN, Use.INVERT})
    likeness_kinds: frozenset[Kind] = frozenset({Kind.PERSON})
    purposes: tuple[str, ...] = ()
    signed_consents: bool = False
    second_person: bool = True
    marking: bool = True
    space_people: int = 20

    @property
    def known_purposes(self) -> frozenset[str]:
        """The usual purposes and this registry's own."""
        return frozenset({*PURPOSES, self.purpose, *self.purposes})

    @classmethod
    def from_settings(cls, table: Mapping[str, Any]) -> Rules:
        """Read every key of the table but ``hub``.

        Raises:
            SettingError: an unknown use or kind, or a value of the wrong type.
        """
        own = cls()
        _text(table, "door_key", None)
        return cls(
            purpose=_purpose(table, own.purpose),
            purposes=tuple(p.strip().lower() for p in _texts(table, "purposes", ())),
            territory=_text(table, "territory", None),
            unknown=frozenset(Use(u) for u in _texts(table, "unknown", own.unknown, Use)),
            likeness_kinds=frozenset(Kind(k) for k in _texts(table, "likeness_kinds", own.likeness_kinds, Kind)),
            signed_consents=_flag(table, "signed_consents", own.signed_consents),
            second_person=_flag(table, "second_person", own.second_person),
            marking=_flag(table, "marking", own.marking),
            space_people=_number(table, "space_people", own.space_people, least=2),
        )

    def looser_than(self, before: Rules) -> tuple[str, ...]:
        """Keys under which these rules allow more than those before."""
        found = {
            "unknown": not self.unknown <= before.unknown,
            "likeness_kinds": not self.likeness_kinds >= before.likeness_kinds,
            "territory": self.territory not in (None, before.territory),
            "signed_consents": before.signed_consents and not self.signed_consents,
            "second_person": before.second_person and not self.second_person,
            "marking": before.marking and not self.marking,
            "space_people": self.space_people < before.space_people,
        }
        return tuple(key for key, looser in found.items() if looser)


def _bad(key: str, value: Any, reason: str) -> SettingError:
    return SettingError(setting=f"[policy] {key}", value=value, reason=reason)


def _text(table: Mapping[str, Any], key: str, default: str | None) -> str | None:
    value = table.get(key, default)
    if value is not None and not isinstance(value, str):
        raise _bad(key, value, "must be a text")
    return value


def _purpose(table: Mapping[str, Any], default: str) -> str:
    value = _text(table, "purpose", default) or ""
    if not value.strip():
        raise _bad("purpose", value, "is empty")
    return value


def _flag(table: Mapping[str, Any], key: str, default: bool) -> bool:
    value = table.get(key, default)
    if not isinstance(value, bool):
        raise _bad(key, value, "must be true or false")
    return value


def _number(table: Mapping[str, Any], key: str, default: int, *, least: int) -> int:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _bad(key, value, f"must be a number of {least} or more")
    return value


def _texts(table: Mapping[str, Any], key: str, default: Iterable[str], known: type[StrEnum] | None = None) -> list[str]:
    value = table.get(key)
    if value is None:
        return list(default)
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise _bad(key, value, 'must be a list of texts, as in ["a", "b"]')
    strange = [] if known is None else [v for v in value if v not in list(known)]
    if strange and known is not None:
        raise _bad(key, strange[0], f"is none of {', '.join(known)}")
    return value


def near_purpose(word: str, known: Collection[str]) -> None:
    """Raise UnknownPurpose when a word that is none of those known looks like a misspelling of one."""
    import difflib

    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.8)
    if near:
        raise UnknownPurpose(name=word, near=tuple(near))
