"""``search``: the identities nearest to a registered version, a LoRA file or folder, or a Hub repo."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import SERVED
from w2w_registry.catalog.identities import named, names_with
from w2w_registry.catalog.listing import matching_ids
from w2w_registry.catalog.lookup import refs_of
from w2w_registry.catalog.models import Space, Version
from w2w_registry.catalog.resolve import space_for, version_for
from w2w_registry.catalog.vectors import coordinates_of
from w2w_registry.catalog.where import parse_where
from w2w_registry.consent.records import Use
from w2w_registry.errors import BadName, NotFound, UsageError
from w2w_registry.lora import read_lora
from w2w_registry.records import IdentityRef, VersionState
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.upstream import consent_states
from w2w_registry.services.recording.nearest import Nearest, blocked, open_nearest
from w2w_registry.services.recording.placement import place
from w2w_registry.services.recording.spaces import load_space, no_space
from w2w_registry.services.registry import Registry, present
from w2w_registry.services.search.copies import alpha_remarks, with_copies
from w2w_registry.services.search.found import Found, Hit, Query
from w2w_registry.space.verdict import LIKELY


@dataclass(frozen=True, eq=False)
class _Point:
    text: str
    coordinates: NDArray[np.float32]
    residual: float | None
    warnings: tuple[str, ...] = ()


def false_alarm(false_match_rate: float | None, gallery: int) -> float | None:
    """The probability that a stranger reaches the threshold with anybody at all: 1 − (1 − f)^N in a gallery of N."""
    return None if false_match_rate is None else -math.expm1(gallery * math.log1p(-false_match_rate))


def search(
    registry: Registry,
    query: str | Query,
    *,
    limit: int = 10,
    space: str | None = None,
    where: str | None = None,
    include_blocked: bool = False,
    exact: bool = False,
    certified: bool = False,
    fast: bool = False,
) -> Found:
    """The ``limit`` identities nearest to ``query``, each with its best version.

    Args:
        query: a registered name (``p0007``, ``p0007@2``, ``p0007@production``), or a LoRA file or folder. A name
            that is registered wins over a path; write ``./p0007`` for the path.
        space: where to search; None = where the version lives, or the newest space.
        where: only versions for which this holds.
        include_blocked: also versions blocked by consent.
        exact: compare with every version, where a large index would compare with likely ones only.
        certified: make sure that whoever reaches the threshold is among the results, or behind ``limit`` that do.
        fast: compare with fewer versions of a large index than usual; of the nearest ten about three in a hundred may
            be missing.

    Raises:
        NotFound: neither a name nor a path. BadLora, SpaceMismatch: a file that cannot be placed.
        ConsentDenied: the query's subject does not allow being searched for.
    """
    return search_many(
        registry,
        [query],
        limit=limit,
        space=space,
        where=where,
        include_blocked=include_blocked,
        exact=exact,
        certified=certified,
        fast=fast,
    )[0]


def search_many(
    registry: Registry,
    queries: Sequence[str | Query],
    *,
    limit: int = 10,
    space: str | None = None,
    where: str | None = None,
    include_blocked: bool = False,
    exact: bool = False,
    certified: bool = False,
    fast: bool = False,
) -> list[Found]:
    """As :func:`search`, for many queries in one space; the index is opened once."""
    expression = None if where is None else parse_where(where)
    wanted = [Query(q) if isinstance(q, str) else q for q in queries]
    with registry.catalog.read() as session:
        row = _space_of(session, wanted, space)
        asked = [_resolve(registry, session, row, query) for query in wanted]
        nearest = open_nearest(registry, session, row)
        states = (*SERVED, VersionState.BLOCKED) if include_blocked else SERVED
        allowed = None if expression is None else matching_ids(session, expression, row.id, states=states)
        found = []
        for query, one in zip(wanted, asked, strict=True):
            ids, scores = _distinct(session, nearest, one.coordinates, limit, allowed, exact=exact, fast=fast)
            certainty = "exact" if exact or nearest.exhaustive else "fast" if fast else "approximate"
            threshold = row.calibration.get("threshold")
            if certified and certainty != "exact" and threshold is not None:
                certainty = "certified"
                if _misses(session, nearest, one.coordinates, threshold, allowed, (ids, scores), limit):
                    ids, scores = _distinct(session, nearest, one.coordinates, limit, allowed, exact=True)
                    certainty = "exact"
            if include_blocked:
                more = blocked(session, row, nearest.metric, one.coordinates, allowed)
                ids, scores = _merged((ids, scores), more, limit)
            told = _found(registry, session, row, nearest, one, ids, scores, limit)
            told = with_copies(registry, session, registered_version(session, query), query.path, told)
            found.append(replace(told, certainty=certainty))
        return found


def _space_of(session: Session, queries: Sequence[Query], space: str | None) -> Space:
    """The space asked for, else that of the first query when it is registered, else the newest."""
    if space is not None:
        return space_for(session, space)
    version = registered_version(session, queries[0]) if queries else None
    if version is None:
        return space_for(session, None)
    if version.space_id is None:
        raise no_space(queries[0].text)
    return session.get_one(Space, version.space_id)


def registered_version(session: Session, query: Query) -> Version | None:
    """The registered version a query names, by its whole name or a part that nobody else's has; None when it is to be
    taken as a path or Hub repo.

    Raises:
        NotFound: neither a registered name nor a path.
    """
    text = query.text
    if query.file is not None or text.startswith((".", "/", "~")) or text.endswith(".safetensors"):
        return None
    try:
        return version_for(session, IdentityRef.parse(text))
    except (NotFound, BadName) as error:
        if os.path.lexists(text):
            return None
        return _by_part(session, text, error)


def registered_ref(registry: Registry, text: str) -> str:
    """What a search takes ``text`` for among what is registered, as ``name@number``; it is never taken as a path.

    Raises:
        NotFound, BadName.
    """
    with registry.catalog.read() as session:
        try:
            version = version_for(session, IdentityRef.parse(text))
        except (NotFound, BadName) as error:
            version = _by_part(session, text, error)
        return str(refs_of(session, [version.id])[version.id])


def _by_part(session: Session, text: str, error: NotFound | BadName) -> Version:
    """Part of a name is enough where only one has it; else ``error`` stands."""
    if not isinstance(error, NotFound) or error.fields["what"] != "identity":
        raise error
    names = names_with(session, IdentityRef.parse(text).name, 4)
    if len(names) == 1:
        return version_for(session, text.replace(IdentityRef.parse(text).name, names[0], 1))
    if names:
        raise NotFound(what="identity", name=text, near=tuple(names[:3])) from None
    raise error


def _resolve(registry: Registry, session: Session, row: Space, query: Query) -> _Point:
    text = query.text
    version = registered_version(session, query)
    if version is not None:
        return _registered(registry, session, row, text, version)
    path = query.path
    space = load_space(registry.artifacts, row)
    lora = read_lora(path)
    placed = place(lora, space, row.ref)
    coordinates = space.project(placed.theta)
    residual = float(space.residual(placed.theta, coordinates))
    warnings = list(placed.warnings)
    high = (row.calibration.get("residual") or {}).get("high")
    if high is not None and residual > high:
        warnings.append(
            f"residual {residual:.2f}: new LoRAs of this space leave at most {high:.2f}; "
            "its coordinates represent this one poorly"
        )
    warnings += alpha_remarks(lora.alpha_source)
    return _Point(text, coordinates, residual, tuple(warnings))


def _registered(registry: Registry, session: Session, row: Space, text: str, version: Version) -> _Point:
    gate.require(registry, Use.SEARCH, versions=[version.id], session=session)
    point = coordinates_of(session, row.id, [version.id]).get(version.id)
    if point is None:
        raise UsageError(
            reason=f"{text} has no coordinates in {row.ref}",
            hint="they were erased"
            if version.state is VersionState.ERASED
            else f"add its LoRA with [[space]] {row.ref}",
        )
    return _Point(text, point, None)


def _distinct(
    session: Session,
    nearest: Nearest,
    point: NDArray[np.float32],
    limit: int,
    allowed: NDArray[np.int64] | None,
    *,
    exact: bool,
    fast: bool = False,
) -> tuple[list[int], list[float]]:
    """The best version of each of the nearest ``limit`` identities."""
    asked = limit
    while True:
        asked = asked * 2 + 8
        ids, scores = (part[0] for part in nearest.search(point[None], asked, allowed, exact=exact, fast=fast))
        identity = {i: one.identity_id for i, one in named(session, [int(i) for i in ids]).items()}
        best: dict[int, tuple[int, float]] = {}
        for version, score in zip(ids, scores, strict=True):
            best.setdefault(identity[int(version)], (int(version), float(score)))
        if len(best) >= limit or len(ids) < asked:
            chosen = list(best.values())[:limit]
            return [v for v, _ in chosen], [s for _, s in chosen]


def _misses(
    session: Session,
    nearest: Nearest,
    point: NDArray[np.float32],
    threshold: float,
    allowed: NDArray[np.int64] | None,
    found: tuple[Sequence[int], Sequence[float]],
    limit: int,
) -> bool:
    """Whether an identity reaches the threshold that the results leave out, though there was room for it or it comes
    before one of them. ``limit`` results that reach the threshold raise it to the last of them, so that few need be
    looked at, however low the threshold."""
    versions, scores = found
    enough = len(scores) == limit and scores[-1] >= threshold
    ((ids, _),) = nearest.above(point[None], scores[-1] if enough else threshold, allowed)
    there = sum(bool(score >= np.float32(threshold)) for score in scores)
    known = named(session, [*map(int, ids), *versions[:there]])
    return bool({known[int(i)].identity_id for i in ids} - {known[i].identity_id for i in versions[:there]})


def _merged(
    served: tuple[list[int], list[float]], more: tuple[NDArray[np.int64], NDArray[np.float32]], limit: int
) -> tuple[list[int], list[float]]:
    ranked = sorted(
        [*zip(*served, strict=True), *zip(more[0].tolist(), more[1].tolist(), strict=True)],
        key=lambda pair: (-pair[1], pair[0]),
    )[:limit]
    return [v for v, _ in ranked], [s for _, s in ranked]


def _found(
    registry: Registry,
    session: Session,
    row: Space,
    nearest: Nearest,
    asked: _Point,
    ids: list[int],
    scores: list[float],
    limit: int,
) -> Found:
    known = named(session, ids)
    consent = consent_states(session, ids, present(session), gate.rules_of(registry, session))
    threshold, rate = row.calibration.get("threshold"), row.calibration.get("false_match_rate")
    people = nearest.size
    hits = []
    for rank, (version, score) in enumerate(zip(ids, scores, strict=True), start=1):
        one = known[version]
        same = None if threshold is None else score >= threshold
        # Weights alone judge badly among strangers: they never say more than "likely". A pair's rate becomes a
        # search's by the number of pairs; below the threshold nothing is known but that it is higher.
        alarm = None if rate is None or not same else -math.expm1(people * math.log1p(-rate))
        verdict = None if same is None else "likely" if alarm is not None and alarm <= LIKELY else "no"
        hits.append(
            Hit(
                rank,
                one.name,
                one.number,
                round(score, 6),
                same,
                str(one.kind),
                str(consent[version]),
                verdict=verdict,
                false_alarm=alarm,
            )
        )
    return Found(
        asked.text,
        row.ref,
        nearest.metric.name,
        None if asked.residual is None else round(asked.residual, 6),
        tuple(hits[:limit]),
        threshold,
        rate,
        asked.warnings,
        people=people,
        gap=None if len(hits) < 2 else round(hits[0].score - hits[1].score, 6),
    )
