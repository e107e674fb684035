"""Four eyes: what one person says alone, another one has to confirm.

A registry of one person says so in its policy (``second_person = false``): then its only person decides alone. Every
event of such a decision says who made it (``decided_by``, in the words below).
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy.orm import Session

from w2w_registry.catalog.events import events
from w2w_registry.consent.rules import Rules
from w2w_registry.errors import SecondPersonNeeded
from w2w_registry.services.recording import policies
from w2w_registry.services.registry import Registry

SAID = "second.ask"
DECIDED = "decided_by"
"""Where an event says by whom it was decided:"""
ONE, TWO, EVIDENCE, SUBJECT = "one", "two", "evidence", "subject"
"""by one person, as the policy lets them; by two; by one who gave evidence; by the subject, who signed it."""


def wanted(registry: Registry, session: Session) -> bool:
    """Whether the policy asks for a second person.

    Raises:
        SettingError: it says neither yes nor no.
    """
    return Rules.from_settings(policies.in_force(registry, session)).second_person


def require_other(registry: Registry, session: Session, first: Collection[str], operation: str, command: str) -> str:
    """By how many it is decided: whoever acts is another person than those who acted ``first``, or the policy asks for
    no other.

    Args:
        operation: what was to be done, as in "decide whom p0007@2 depicts". command: what another person is to type.

    Raises:
        SecondPersonNeeded: it is one of them, and the policy asks for another.
    """
    if registry.actor not in first:
        return TWO
    if wanted(registry, session):
        raise SecondPersonNeeded(operation=operation, actor=registry.actor, command=command)
    return ONE


def said_by_two(
    registry: Registry, session: Session, what: str, operation: str, command: str, *, hint: str = ""
) -> str:
    """By how many it is decided: another person has said the very same before, or the policy asks for no other.
    Otherwise that this one says it is remembered.

    Args:
        what: a digest of what is said, and of the state it is said in: said once, it is not said for ever.
        operation, command, hint: as the error has them.

    Raises:
        SecondPersonNeeded: nobody else has.
    """
    if not wanted(registry, session):
        return ONE
    said = {event.actor for event in events(session, action=SAID) if event.payload.get("what") == what}
    if said - {registry.actor}:
        return TWO
    if registry.actor not in said:
        registry.catalog.note(registry.actor, SAID, {}, what=what)
    raise SecondPersonNeeded(operation=operation, actor=registry.actor, command=command, hint=hint)
