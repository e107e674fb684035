"""The words of a scope: which purposes a registry knows, and what to make of one it does not."""

from __future__ import annotations

import re

from w2w_registry.consent.policy import near_purpose
from w2w_registry.consent.records import ANY_PURPOSE, Scope, Use
from w2w_registry.errors import UnknownTerritory
from w2w_registry.services.consent import gate
from w2w_registry.services.registry import Registry

_TERRITORY = re.compile(r"[A-Z]{2}|EEA")


def unknown_words(registry: Registry, scope: Scope) -> list[str]:
    """The purposes and prohibitions of a scope that this registry does not know, for a warning.

    A registry adds its own purposes under ``purposes`` in its policy.

    Raises:
        UnknownPurpose: one that looks like a misspelling: a grant would allow nothing, a prohibition forbid nothing.
        UnknownTerritory: one that is no code of two letters, EU or EEA.
    """
    with registry.catalog.read() as session:
        rules = gate.rules_of(registry, session)
    purposes = {*rules.known_purposes, ANY_PURPOSE}
    strange = []
    for words, known in ((scope.purposes, purposes), (scope.forbidden, purposes | set(Use))):
        for word in words:
            if word in known:
                continue
            near_purpose(word, known)
            strange.append(word)
    for code in scope.territory or ():
        if not _TERRITORY.fullmatch(code):
            raise UnknownTerritory(name=code)
    return list(dict.fromkeys(strange))


def warnings_about(words: list[str]) -> list[str]:
    """What a person is told of them."""
    return [
        f"this registry knows no purpose or use {word!r}; if it is meant, list it under purposes in [policy] of "
        "registry.toml and run `w2w-reg policy set`"
        for word in words
    ]
