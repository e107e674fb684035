"""The list of identities in pages, for whoever shows them: rows as ``list`` has them, pictures, counts, jumps."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy.orm import Session

from w2w_registry.catalog import paging, publications
from w2w_registry.catalog.identities import versions_named
from w2w_registry.catalog.lookup import labels_of
from w2w_registry.catalog.models import ReleaseState, Version
from w2w_registry.catalog.resolve import version_for
from w2w_registry.catalog.vectors import last_seq
from w2w_registry.catalog.where import Expression, parse_where
from w2w_registry.errors import NotFound, UsageError
from w2w_registry.records import VersionState, iso
from w2w_registry.services.identities.answers import IdentityRow
from w2w_registry.services.identities.manage import rows_of
from w2w_registry.services.recording.preview_pictures import leaving_preview, left_before
from w2w_registry.services.registry import Registry

MAX_PAGE: Final = 500
_UP: Final = (ReleaseState.PUBLISHED, ReleaseState.GATED)


@dataclass(frozen=True)
class Card:
    """What a card shows beside the row: the digest of its picture, the repos it is published in, and its aliases."""

    picture: str | None
    releases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """``rows`` as ``browse`` gives them with their ``cards``; cursors of the pages around, None at an end."""

    rows: list[IdentityRow]
    cards: list[Card]
    next: str | None
    previous: str | None

    def to_json(self) -> dict[str, Any]:
        return {"identities": self.rows, "next": self.next, "previous": self.previous}


@dataclass(frozen=True)
class Overview:
    """How many identities match, and of what sorts they are; ``labels``: what labels there are, of whomever; ``seq`` is
    the catalog's last change then."""

    total: int
    facets: Mapping[str, Mapping[str, int]]
    tags: tuple[tuple[str, str, int], ...]
    labels: tuple[str, ...]
    seq: int


def page(
    registry: Registry, *, where: str | None = None, sort: str = "name", limit: int = 60, cursor: str | None = None
) -> Page:
    """One page of the newest versions that match, at the first page's price however deep it is.

    Args:
        cursor: a page's ``next`` or ``previous``, or that of :func:`page_start`; None is the first page.

    Raises:
        WhereError: the expression does not parse. UsageError: an unknown sort, or a cursor of another list.
    """
    expression = _expression(where)
    if not 1 <= limit <= MAX_PAGE:
        raise UsageError(reason=f"a page has 1 to {MAX_PAGE} identities")
    way, key = ("after", None) if cursor is None else _read_cursor(cursor, sort)
    with registry.catalog.read() as session:
        try:
            found = paging.page_versions(
                session,
                expression,
                sort=sort,
                limit=limit + 1,
                after=key if way == "after" else None,
                before=key if way == "before" else None,
            )
        except (TypeError, ValueError):  # a cursor that was made by hand
            raise UsageError(reason="that page's address cannot be read", hint="start from the first page") from None
        more = len(found) > limit
        back = way == "before" and key is not None
        found = found[-limit:] if back else found[:limit]
        rows = rows_of(registry, session, [one.line for one in found])
        cards = _cards(session, [one.line.version for one in found])
    after = _cursor("after", found[-1].key, sort) if found and (back or more) else None
    before = _cursor("before", found[0].key, sort) if found and (more if back else key is not None) else None
    return Page(rows, cards, after, before)


def overview(registry: Registry, where: str | None = None) -> Overview:
    """Counts of what matches.

    Raises:
        WhereError.
    """
    expression = _expression(where)
    with registry.catalog.read() as session:
        total, facets = paging.facet_counts(session, expression)
        tags, labels = tuple(paging.tag_counts(session, expression)), tuple(paging.label_names(session))
        return Overview(total, facets, tags, labels, last_seq(session))


def page_start(
    registry: Registry,
    *,
    where: str | None = None,
    sort: str = "name",
    size: int = 60,
    number: int,
    total: int | None = None,
) -> str | None:
    """A cursor for page ``number`` (from 1) of ``size``: the way there without the rows before it; None = the first
    page, also when the list does not go so far. ``total``: how many match, which shortens the way to a page far back.

    Raises:
        WhereError, UsageError.
    """
    if number <= 1:
        return None
    with registry.catalog.read() as session:
        key = paging.key_at(session, _expression(where), sort=sort, number=(number - 1) * size, total=total)
    return None if key is None else _cursor("after", key, sort)


def change_number(registry: Registry) -> int:
    """The number of the catalog's last change: what was worked out from the catalog holds as long as it stays."""
    with registry.catalog.read() as session:
        return last_seq(session)


def picture(registry: Registry, name: str, state: VersionState = VersionState.ACTIVE) -> tuple[bytes, str]:
    """The picture of a version (PNG), marked and on record, and the digest of the one it was made from. What is
    blocked or gone shows no face; what is held shows one only to whoever decides about it, who asks for that ``state``.

    Raises:
        NotFound: no such version in this state, or no picture of it to show. Else as ``leaving_preview``.
    """
    key, digest, left = _shown(registry, name, state)
    return leaving_preview(registry, key, digest) if left is None else left, digest


def picture_left(registry: Registry, name: str, state: VersionState = VersionState.ACTIVE) -> tuple[bytes | None, str]:
    """As :func:`picture` where that is only looked up; None in place of one that is still to be marked.

    Raises:
        NotFound, IntegrityError, StorageError.
    """
    _, digest, left = _shown(registry, name, state)
    return left, digest


def _shown(registry: Registry, name: str, state: VersionState) -> tuple[int, str, bytes | None]:
    """Of a version its id, the digest of its picture, and the picture as it left before."""
    with registry.catalog.snapshot():
        with registry.catalog.read() as session:
            version = version_for(session, name)
            key, digest = version.id, version.preview_digest if version.state is state else None
        if digest is None:
            raise NotFound(what="picture", name=name)
        return key, digest, left_before(registry, key, digest)


def _expression(where: str | None) -> Expression | None:
    return None if where is None or not where.strip() else parse_where(where)


def _cards(session: Session, versions: list[Version]) -> list[Card]:
    ids = [v.id for v in versions]
    releases: dict[int, list[str]] = {}
    for release in publications.releases_of(session, ids):
        if release.version_id is not None and release.state in _UP:
            releases.setdefault(release.version_id, []).append(release.repo_id)
    return [
        Card(v.preview_digest if v.state is VersionState.ACTIVE else None, tuple(releases.get(v.id, ())))
        for v in versions
    ]


def cards_of(registry: Registry, refs: list[str], *, held: bool = False) -> dict[str, dict[str, Any]]:
    """Of each ``name@number`` that is there: ``picture`` (digest, None when none is shown), ``labels``, ``state``.
    ``held``: for whoever decides about what is held, its picture too."""
    shown = (VersionState.ACTIVE, VersionState.HELD) if held else (VersionState.ACTIVE,)
    wanted = {ref for ref in refs if "@" in ref}
    names = sorted({ref.rpartition("@")[0] for ref in wanted})
    found: dict[str, dict[str, Any]] = {}
    with registry.catalog.read() as session:
        every = versions_named(session, names)
        rows = {f"{name}@{number}": version for (name, number), version in every.items()}
        rows = {ref: version for ref, version in rows.items() if ref in wanted}
        labels = labels_of(session, [version.id for version in rows.values()])
        for ref, version in rows.items():
            found[ref] = {
                "picture": version.preview_digest if version.state in shown else None,
                "labels": labels.get(version.id, {}),
                "state": str(version.state),
            }
    return found


def releases_of(registry: Registry, ref: str) -> list[str]:
    """The repos a version is published in now.

    Raises:
        NotFound.
    """
    with registry.catalog.read() as session:
        version = version_for(session, ref, any_state=True)
        return list(_cards(session, [version])[0].releases)


def _cursor(way: str, key: paging.Key, sort: str) -> str:
    values = [iso(v) if isinstance(v, datetime) else v for v in key]
    kinds = ["t" if isinstance(v, datetime) else "" for v in key]
    text = json.dumps([way, sort, kinds, values], ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(text: str, sort: str) -> tuple[str, paging.Key]:
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        way, made_for, kinds, values = json.loads(base64.urlsafe_b64decode(padded))
        if made_for != sort or way not in ("after", "before") or not isinstance(values[-1], str):
            raise ValueError
        if any(not isinstance(v, (str, int, float, type(None))) for v in values):
            raise ValueError
        key = tuple(datetime.fromisoformat(v) if kind == "t" else v for v, kind in zip(values, kinds, strict=True))
    except (ValueError, TypeError, IndexError, KeyError, binascii.Error, UnicodeError):
        raise UsageError(reason="that page's address cannot be read", hint="start from the first page") from None
    return way, key
