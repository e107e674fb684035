"""What a weight space was fitted on, a page at a time, and what of it is registered."""

from __future__ import annotations

from dataclasses import dataclass

from w2w_registry.catalog.lookup import refs_of
from w2w_registry.catalog.membership import members_after, versions_of_models
from w2w_registry.catalog.resolve import space_for
from w2w_registry.records import Result
from w2w_registry.services.registry import Registry


@dataclass(frozen=True, eq=False)
class MemberRow(Result):
    """One LoRA of a fit set. ``version``: the newest registered version that is this model; None: none is."""

    position: int
    name: str
    model_digest: str
    version: str | None


def members(registry: Registry, space: str, *, after: int = -1, limit: int = 60) -> list[MemberRow]:
    """At most ``limit`` members of a space behind position ``after``, in fit order.

    Raises:
        NotFound: no such space.
    """
    with registry.catalog.read() as session:
        rows = members_after(session, space_for(session, space).id, after, limit)
        known = versions_of_models(session, (digest for _, digest, _ in rows))
        refs = refs_of(session, sorted({ids[-1] for ids in known.values()}))
    return [
        MemberRow(position, name, digest, str(refs[known[digest][-1]]) if digest in known else None)
        for position, digest, name in rows
    ]
