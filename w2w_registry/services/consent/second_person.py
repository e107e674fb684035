"""Four eyes: what one person says alone, another one has to confirm.

A registry of one person says so in its policy (``second_person = false``): then its only person decides alone, and the
log says that they did.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy.orm import Session

from w2w_registry.catalog.events import events
from w2w_registry.errors import SecondPersonNeeded
from w2w_registry.services.recording import policies
from w2w_registry.services.registry import Registry

SAID = "second.ask"


def wanted(registry: Registry, session: Session) -> bool:
    """Whether the policy asks for a second person.

    Raises:
        SettingError: it says neither yes nor no.
    """
    return policies.second_person(policies.in_force(registry, session))


def require_other(registry: Registry, session: Session, first: Collection[str], operation: str, command: str) -> None:
    """Raise unless whoever acts is another person than those who acted ``first``, or the policy asks for no other.

    Args:
        operation: what was to be done, as in "decide whom p0007@2 depicts". command: what another person is to type.

    Raises:
        SecondPersonNeeded.
    """
    if registry.actor in first and wanted(registry, session):
        raise SecondPersonNeeded(operation=operation, actor=registry.actor, command=command)


def said_by_two(
    registry: Registry, session: Session, what: str, operation: str, command: str, *, hint: str = ""
) -> None:
    """Raise unless another person has said the very same before, or the policy asks for no other; that this one says it
    is remembered.

    Args:
        what: a digest of what is said, and of the state it is said in: said once, it is not said for ever.
        operation, command, hint: as the error has them.

    Raises:
        SecondPersonNeeded.
    """
    if not wanted(registry, session):
        return
    said = {event.actor for event in events(session, action=SAID) if event.payload.get("what") == what}
    if said - {registry.actor}:
        return
    if registry.actor not in said:
        registry.catalog.note(registry.actor, SAID, {}, what=what)
    raise SecondPersonNeeded(operation=operation, actor=registry.actor, command=command, hint=hint)
