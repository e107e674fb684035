"""What people type about a consent, as scopes, notices and days."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from w2w_registry.commands import command
from w2w_registry.consent.records import ANY_PURPOSE, DERIVING, Notice, Scope, Use, is_territory
from w2w_registry.consent.rules import near_purpose
from w2w_registry.errors import UnknownTerritory, UsageError
from w2w_registry.services.consent import gate
from w2w_registry.services.registry import Registry


def build_notice(
    *,
    notice: str | None = None,
    language: str | None = None,
    controllers: Sequence[str] = (),
    recipients: Sequence[str] = (),
    storage_location: str | None = None,
    retention: str | None = None,
    jurisdiction: str | None = None,
) -> Notice:
    """A notice from what people type; nothing typed means not stated."""
    return Notice(
        notice=notice,
        language=language,
        controllers=tuple(controllers) or None,
        recipients=tuple(recipients) or None,
        storage_location=storage_location,
        retention=retention,
        jurisdiction=jurisdiction,
    )


def narrowed(
    scope: Scope,
    *,
    purposes: Sequence[str] = (),
    uses: Sequence[str] = (),
    forbidden: Sequence[str] = (),
    no_derivatives: bool = False,
    no_publication: bool = False,
    territory: Sequence[str] = (),
    expires_at: datetime | None = None,
) -> Scope:
    """A scope with what people type taken away; what is not typed stays. Leave for derivatives that came with the
    purpose ``any`` ends with ``no_derivatives`` only where ``any`` is replaced by named purposes.

    Raises:
        UsageError: an unknown use.
    """
    asked = build_scope(purposes, uses=uses, forbidden=forbidden, territory=territory)
    named = asked.purposes or scope.purposes
    if no_derivatives and ANY_PURPOSE in named:
        named_uses = asked.uses or scope.uses or tuple(Use)
        asked = replace(asked, uses=tuple(u for u in named_uses if u not in DERIVING))
    return replace(
        scope,
        purposes=named,
        uses=asked.uses or scope.uses,
        forbidden=tuple(dict.fromkeys((*scope.forbidden, *asked.forbidden))),
        derivatives=scope.derivatives and not no_derivatives,
        publication=scope.publication and not no_publication,
        territory=asked.territory or scope.territory,
        expires_at=expires_at or scope.expires_at,
    )


def parse_uses(texts: Sequence[str]) -> tuple[Use, ...]:
    """Uses by name. Raises UsageError listing the uses there are."""
    words = [text.strip().lower() for text in dict.fromkeys(texts)]
    for word in words:
        if word not in [*Use]:
            raise UsageError(reason=f"no use is named {word!r}", hint=f"uses are {', '.join(Use)}")
    return tuple(map(Use, words))


def parse_day(text: str | None, *, end: bool) -> datetime | None:
    """A day or moment as people type it, UTC; a bare day means its ``end`` or its beginning.

    Raises:
        UsageError: neither.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(reason=f"{text!r} is not a valid date", hint="write 2026-05-01 or 2026-05-01T12:00Z") from None
    if len(text) == 10 and end:
        moment = moment.replace(hour=23, minute=59, second=59, microsecond=999_999)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def build_scope(
    purposes: Sequence[str],
    *,
    uses: Sequence[str] = (),
    forbidden: Sequence[str] = (),
    derivatives: bool = False,
    publication: bool = False,
    territory: Sequence[str] = (),
    valid_from: datetime | None = None,
    expires_at: datetime | None = None,
) -> Scope:
    """A scope from what people type; nothing typed for uses and territory means all of them."""
    return Scope(
        purposes=tuple(dict.fromkeys(p.strip().lower() for p in purposes)),
        uses=parse_uses(uses) or None,
        forbidden=tuple(dict.fromkeys(f.strip().lower() for f in forbidden)),
        derivatives=derivatives or ANY_PURPOSE in purposes,
        publication=publication,
        territory=tuple(dict.fromkeys(t.strip().upper() for t in territory)) or None,
        valid_from=valid_from,
        expires_at=expires_at,
    )


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
        if not is_territory(code):
            raise UnknownTerritory(name=code)
    return list(dict.fromkeys(strange))


def warnings_about(words: list[str]) -> list[str]:
    """What a person is told of them."""
    return [
        f"this registry knows no purpose or use {word!r}; if it is meant, list it under purposes in [policy] of "
        f"registry.toml and run `{command('policy set')}`"
        for word in words
    ]
