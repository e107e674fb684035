"""Whose version a file becomes: a name that a file happens to have makes it no new version of a stranger."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from sqlalchemy.orm import Session

from w2w_registry.catalog.identities import names_in_service
from w2w_registry.catalog.lookup import identities_named, subjects_named
from w2w_registry.errors import Conflict
from w2w_registry.lora import Candidate, further_names
from w2w_registry.records import Rank, Told, check_name
from w2w_registry.services.identities.items import Item
from w2w_registry.services.registry import Registry
from w2w_registry.services.search.resemblance import Comparison

Compare = Callable[[str], Comparison | None]
"""How near the newcomer comes to the identity of that name; None when nothing can be compared."""


def own_name(
    session: Session,
    candidate: Candidate,
    prefix: str,
    subjects: Iterable[str],
    compare: Compare,
    given: Collection[str] = (),
) -> tuple[str, tuple[str, ...]]:
    """The name to register a new model under, and what is to be told of it.

    A name that the user said is taken at their word. One that comes from the file is shared with an identity only
    when the newcomer looks like it, or is said to depict the same subject; otherwise the folders above are put before
    it until it is nobody else's.

    Args:
        given: names that this command gives to others, of the same subjects, and has not recorded yet.

    Raises:
        BadName: the prefix makes an illegal name of it.
        Conflict: every name that its place gives is somebody else's.
    """
    first = check_name(prefix + candidate.name)
    if candidate.said:
        return first, _unlike(compare(first))
    named = set(subjects)
    further_ones = further_names(candidate.path) if candidate.further is None else candidate.further
    further = (check_name(prefix + name) for name in further_ones)
    for name in dict.fromkeys((first, *further)):
        identity, _ = identities_named(session, {name}).get(name, (None, 0))
        free = (identity is None or identity.removed is not None) and name not in given
        near = None if free else compare(name)
        if (
            free
            or (near is not None and near.same)
            or (named and name in given)
            or named & subjects_named(session, name)
        ):
            if name == first:
                return name, _unlike(near)
            return name, (
                *_unlike(near),
                Told(
                    f"is not known to be {first}, so it is not a version of it; if it is, add it with the name {first}",
                    Rank.CONTRADICTION,
                ),
            )
    raise Conflict(what="name", name=first, reason="is another model's; use [[name]]")


def say_lookalikes(registry: Registry | None, items: Sequence[Item]) -> list[Item]:
    """The items, each new identity whose name differs from another's in case, or in a look-alike form of its
    characters, with a word about that. ``registry``: None where there is none yet."""
    added = {str(item.identity) for item in items if item.status == "added"}
    if not added:
        return list(items)
    names: set[str] = set()
    if registry is not None:
        with registry.catalog.read() as session:
            names.update(names_in_service(session))
    names |= added
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[_looks(name)].append(name)
    told: list[Item] = []
    for item in items:
        others = sorted(n for n in alike[_looks(str(item.identity))] if n != item.identity and item.status == "added")
        text = f"is not {' or '.join(others[:3])}, whose name differs only in case or in how its letters are composed"
        told.append(replace(item, warnings=(*item.warnings, text)) if others else item)
    return told


def _looks(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def _unlike(near: Comparison | None) -> tuple[str, ...]:
    if near is None or not near.other:
        return ()
    text = f"does not look like the versions before it (score {near.score:.3f}, same from {near.threshold:.3f} up)"
    return (Told(text, Rank.LIKENESS),)
