"""``subject``: the people and rights holders identities depict, under pseudonymous ids."""

from __future__ import annotations

from ..folder_group import group


@group(__name__, "add list show protect assign")
def subject() -> None:
    """Register, list and show subjects. Use pseudonymous ids: they stay in the audit log forever."""
