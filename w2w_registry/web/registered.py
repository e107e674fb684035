"""From what comes over the network to a registered version, and to nothing else."""

from __future__ import annotations

from w2w_registry.records import IdentityRef
from w2w_registry.services.identities import manage
from w2w_registry.web.site import Desk


def registered(desk: Desk, query: str) -> str:
    """``query`` as ``name@number`` of a version that is there: a name from the network is never a path.

    Raises:
        BadName, NotFound.
    """
    shown = manage.show(desk.registry, str(IdentityRef.parse(query)))
    return f"{shown['identity']}@{shown['version']}"
