"""Four eyes: what one person says alone, another one has to confirm.

A registry of one person says so in its policy (``second_person = false``): then its only person decides alone, and the
log says that they did.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy.orm import Session

from w2w_registry.errors import SecondPersonNeeded
from w2w_registry.services.recording import policies
from w2w_registry.services.registry import Registry


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
